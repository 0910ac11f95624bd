"""The conclusion of a study: a headline and a sentence, for each case."""

from collections.abc import Mapping, Sequence
from typing import Any

from undistillable.report import document

Row = Mapping[str, Any]  # See `summary.summarize`.

# Beyond this many protected teachers a list is no sentence any more.
_MAX_LISTED = 2


def judge(rows: Sequence[Row]) -> dict[str, str]:
  """{'headline', 'sentence', 'tone'}: does the protection hold?"""
  headline, tone = _headline(rows)
  return {'headline': headline, 'sentence': _sentence(rows), 'tone': tone}


def title(rows: Sequence[Row]) -> str:
  """The question that the report answers."""
  owners = [row for row in rows if row['role'] == 'teacher']
  names = [row['name'] for row in owners if row['kind'] == 'protected']
  data = {row['dataset'] for row in owners}
  where = f' on {next(iter(data))}' if len(data) == 1 else ''
  if not names:
    return f'Distillation study{where}'
  if len(names) == 1:
    return f'How undistillable is the {names[0]}{where}?'
  return f'How undistillable are {len(names)} protected teachers{where}?'


def _span(values: Sequence[float]) -> str:
  """'21.3 points', or 'between 12.0 and 24.1 points' for several."""
  sizes = [abs(value) for value in values]
  low, high = f'{min(sizes):.1f}', f'{max(sizes):.1f}'
  return f'{low} points' if low == high else f'between {low} and {high} points'


def _headline(rows: Sequence[Row]) -> tuple[str, str]:
  """The headline, and its tone."""
  judged = [row for row in rows if row['failed'] is not None]
  failed = [row for row in judged if row['failed']]
  dear = [_too_dear(row, _known(rows, row['name'])) for row in _owners(rows)]
  only = ' (one seed)' if _one_seed(rows) else ''
  if not judged:
    return 'Not enough runs yet', 'open'
  if not failed and dear and all(dear):
    return f'The protection costs its owner as much as the thief{only}', 'bad'
  if not failed:
    return f'The protection holds{only}', 'good'
  where = f' in {len(failed)} of {len(judged)} attacks'
  where = '' if len(failed) == len(judged) else where
  return f'The protection failed{where}{only}', 'bad'


def _sentence(rows: Sequence[Row]) -> str:
  """What thieves lose and what protecting cost."""
  owners = _owners(rows)
  if not owners:
    return 'No protected teacher has finished yet: there is nothing to compare.'
  if len(owners) > _MAX_LISTED:
    text = _overview(owners, rows)
  else:
    alone = len(owners) == 1
    text = '; '.join(_clause(owner, rows, alone) for owner in owners)
  return f'{text[0].upper()}{text[1:]}{_one_seed(rows)}.'


def _clause(owner: Row, rows: Sequence[Row], alone: bool) -> str:
  """What one protected teacher means for the thief and for its owner."""
  name = 'protected teacher' if alone else owner['name']
  thefts, known = _thefts(rows, owner['name']), _known(rows, owner['name'])
  if not known:
    return (
      f'no student has been distilled from the {name} and trained alone yet; '
      f'{_cost(owner)}'
    )
  text = ''
  failed = [row for row in thefts if row['failed']]
  if failed:
    who = '' if len(failed) == len(thefts) else f' for {_who(failed, thefts)}'
    text = f'the protection failed{who}: '
  text += f'distilling the {name} {_effects(known, thefts)}{_anyway(known)}; '
  text += _cost(owner)
  if _too_dear(owner, known):
    text += ', no less than it takes from the thief'
  return text


def _effects(known: Sequence[Row], thefts: Sequence[Row]) -> str:
  """'costs a thief 21.3 points against training alone', and so on."""
  parts = []
  words = (('gain', 'gains', 'over'), ('loss', 'costs', 'against'))
  for verdict, verb, against in words:
    found = [row for row in known if row['verdict'] == verdict]
    if found:
      values = _span([row['difference']['mean'] for row in found])
      who = _who(found, known)
      parts.append(f'{verb} {who} {values} {against} training alone')
  even = [row for row in known if row['verdict'] == 'even']
  if even:
    parts.append(f'leaves {_who(even, known)} level with training alone')
  # A thief who loses, but no more than from the normal teacher, has lost
  # nothing to the protection.
  same = [row for row in thefts if row['failed'] and row['verdict'] != 'gain']
  if same:
    who = '' if len(same) == len(thefts) else f', to {_who(same, thefts)},'
    parts.append(f'does{who} no more harm than distilling the normal teacher')
  return document.listed(parts)


def _anyway(known: Sequence[Row]) -> str:
  """' (distilling the normal one costs 4.1 points already)', where it is most.

  A thief may lose for want of training or of data; the protection is not to be
  praised for that.
  """
  lost, values = [], []
  for row in known:
    if row['effect'] and not row['failed'] and row['verdict'] == 'loss':
      effect = row['effect']['mean']
      normal = row['difference']['mean'] - effect
      if normal < min(effect, 0.0):
        lost.append(row)
        values.append(normal)
  if not lost:
    return ''
  who = '' if len(lost) == len(known) else f' {_who(lost, known)}'
  return f' (distilling the normal one costs{who} {_span(values)} already)'


def _too_dear(owner: Row, known: Sequence[Row]) -> bool:
  """Whether protecting costs the owner as much as it takes from some thief."""
  if owner['verdict'] != 'loss' or not known:
    return False
  if any(row['verdict'] != 'loss' for row in known):
    return False  # Then the protection has failed or done nothing already.
  changes = [row[key] for row in known for key in ('difference', 'effect')]
  taken = [-change['mean'] for change in changes if change]
  return -owner['difference']['mean'] >= min(taken)


def _cost(owner: Row) -> str:
  """'protecting it cost 0.3 points of accuracy', whichever way it went."""
  if owner['difference'] is None:
    return 'what protecting it cost is not known yet'
  if owner['verdict'] == 'even':
    return 'protecting it cost no measurable accuracy'
  verb = 'cost' if owner['verdict'] == 'loss' else 'added'
  change = abs(owner['difference']['mean'])
  return f'protecting it {verb} {change:.1f} points of accuracy'


def _overview(owners: Sequence[Row], rows: Sequence[Row]) -> str:
  """The same for many protected teachers, as ranges."""
  known = _known(rows)
  robbed = {row['teacher'] for row in known}
  lost_to = {row['teacher'] for row in known if row['failed']}
  failed = [owner['name'] for owner in owners if owner['name'] in lost_to]
  text = f'of {len(robbed)} protected teachers, {len(failed) or "none"} failed'
  if failed and len(failed) <= 3:
    text += f' ({document.listed(failed)})'
  lost = [row['difference']['mean'] for row in known]
  if lost:
    text += f'; students end {_sides(lost)} training alone'
  paid = [row['difference']['mean'] for row in owners if row['difference']]
  if paid:
    text += f'; the teachers end {_sides(paid)} their normal ones'
  return text


def _sides(values: Sequence[float]) -> str:
  """'1.5 to 6.0 points below', or '1.5 points below to 6.0 above'."""
  low, high = min(values), max(values)
  if low < 0 < high:
    return f'between {-low:.1f} points below and {high:.1f} above'
  return f'{_span(values)} {"above" if low >= 0 else "below"}'


def _owners(rows: Sequence[Row]) -> list[Row]:
  """Protected teachers."""
  return [r for r in rows if r['role'] == 'teacher' and r['kind'] != 'normal']


def _thefts(rows: Sequence[Row], owner: str | None = None) -> list[Row]:
  """Attacks on all protected teachers, or on the named one."""
  return [
    row
    for row in rows
    if row['role'] == 'student'
    and row['kind'] == 'protected'
    and owner in (None, row['teacher'])
  ]


def _known(rows: Sequence[Row], owner: str | None = None) -> list[Row]:
  """Those of them that have a control to be compared with."""
  return [row for row in _thefts(rows, owner) if row['difference']]


def _who(found: Sequence[Row], among: Sequence[Row]) -> str:
  """'a thief' if it holds for all, otherwise which students."""
  if len(found) == len(among):
    return 'a thief'
  many = len({(row['method'], row['setting']) for row in among}) > 1
  names = []
  for row in found:
    how = f'{row["method"]} {row["setting"]}'.strip()
    names.append(f'{row["name"]} by {how}' if many else row['name'])
  if len(names) < 4:
    return document.listed(names)
  return f'{len(names)} thieves'


def _one_seed(rows: Sequence[Row]) -> str:
  """' (one seed only)' where a mean stands for a single network."""
  compared = [*_known(rows), *(r for r in _owners(rows) if r['difference'])]
  counts = {row['difference']['num_seeds'] for row in compared}
  if 1 not in counts:
    return ''
  return ' (one seed only)' if counts == {1} else ' (partly one seed only)'
