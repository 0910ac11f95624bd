"""The answer of a study in one sentence, worded for each case."""

from collections.abc import Sequence

from undistillable.analysis import records

_Cell = tuple[records.Entry, records.Entry]  # (student, attack).

# Beyond this many protected teachers a list is no sentence any more.
_MAX_LISTED = 2


def headline(summary: records.Summary) -> str:
  """A few words: does the protection hold?"""
  judged = [a for _, a in _cells(summary) if a['failed'] is not None]
  failed = [attack for attack in judged if attack['failed']]
  if not judged:
    return 'Not enough runs yet'
  only = ' (one seed)' if _one_seed(summary) else ''
  dear = [
    _too_dear(teacher, _known(summary, teacher['name']))
    for teacher in summary['teachers']
    if teacher['protected']
  ]
  if not failed and dear and all(dear):
    return f'The protection costs its owner as much as the thief{only}'
  if not failed:
    return f'The protection holds{only}'
  if len(failed) == len(judged):
    return f'The protection failed{only}'
  return (
    f'The protection failed in {len(failed)} of {len(judged)} attacks{only}'
  )


def sentence(summary: records.Summary) -> str:
  """One sentence on what thieves lose and what protecting cost."""
  protected = [t for t in summary['teachers'] if t['protected']]
  if not protected:
    return 'No protected teacher has finished yet: there is nothing to compare.'
  if len(protected) > _MAX_LISTED:
    text = _overview(protected, summary)
  else:
    alone = len(protected) == 1
    text = '; '.join(_clause(t, summary, alone) for t in protected)
  text = text[0].upper() + text[1:]
  return f'{text}{_one_seed(summary)}.'


def points(value: float) -> str:
  """'21.3 points', always with one decimal."""
  return f'{abs(value):.1f} points'


def span(values: Sequence[float]) -> str:
  """'21.3 points', or 'between 12.0 and 24.1 points' for several."""
  low, high = (f'{v:.1f}' for v in _ends([abs(v) for v in values]))
  return f'{low} points' if low == high else f'between {low} and {high} points'


def _clause(
  teacher: records.Entry, summary: records.Summary, alone: bool
) -> str:
  """What one protected teacher means for the thief and for its owner."""
  name = 'protected teacher' if alone else teacher['name']
  cells = _cells(summary, teacher['name'])
  known = _known(summary, teacher['name'])
  if not known:
    return (
      f'no student has been distilled from the {name} and trained alone yet; '
      f'{_cost(teacher)}'
    )
  text = f'{_failure(cells)}distilling the {name} {_effects(known, cells)}'
  text += _anyway(known)
  text += f'; {_cost(teacher)}'
  if _too_dear(teacher, known):
    text += ', no less than it takes from the thief'
  return text


def _anyway(known: list[_Cell]) -> str:
  """' (distilling the normal one costs 4.1 points already)', where it is most.

  A thief may lose for want of training or of data; the protection is not to be
  praised for that.
  """
  lost = []
  for _, attack in known:
    judged = attack['effect'] and not attack['failed']
    if judged and attack['verdict'] == 'loss':
      effect = attack['effect']['mean']
      normal = attack['difference']['mean'] - effect
      if normal < min(effect, 0.0):
        lost.append(normal)
  if not lost:
    return ''
  return f' (distilling the normal one costs {span(lost)} already)'


def _too_dear(teacher: records.Entry, known: list[_Cell]) -> bool:
  """Whether protecting costs the owner as much as it takes from some thief."""
  if teacher['verdict'] != 'loss' or not known:
    return False
  if any(attack['verdict'] != 'loss' for _, attack in known):
    return False  # Then the protection has failed or done nothing already.
  taken = [
    -attack[key]['mean']
    for _, attack in known
    for key in ('difference', 'effect')
    if attack[key]
  ]
  return teacher['cost']['mean'] >= min(taken)


def _failure(cells: list[_Cell]) -> str:
  """'The protection failed for cnn: ', or nothing."""
  failed = [cell for cell in cells if cell[1]['failed']]
  if not failed:
    return ''
  if len(failed) == len(cells):
    return 'the protection failed: '
  return f'the protection failed for {_who(failed, cells)}: '


def _effects(known: list[_Cell], cells: list[_Cell]) -> str:
  """'costs a thief 21.3 points against training alone', and so on."""
  split = {
    kind: [cell for cell in known if cell[1]['verdict'] == kind]
    for kind in ('gain', 'even', 'loss')
  }
  parts = []
  words = (('gain', 'gains', 'over'), ('loss', 'costs', 'against'))
  for kind, verb, against in words:
    if split[kind]:
      values = [attack['difference']['mean'] for _, attack in split[kind]]
      who = _who(split[kind], known)
      parts.append(f'{verb} {who} {span(values)} {against} training alone')
  if split['even']:
    who = _who(split['even'], known)
    parts.append(f'leaves {who} level with training alone')
  # A thief who loses, but no more than from the normal teacher, has lost
  # nothing to the protection.
  same = [c for c in cells if c[1]['failed'] and c[1]['verdict'] != 'gain']
  if same:
    who = '' if len(same) == len(cells) else f', to {_who(same, cells)},'
    parts.append(f'does{who} no more harm than distilling the normal teacher')
  return _join(parts)


def _cost(teacher: records.Entry) -> str:
  """'protecting it cost 0.3 points of accuracy', whichever way it went."""
  if teacher['cost'] is None:
    return 'what protecting it cost is not known yet'
  if teacher['verdict'] == 'even':
    return 'protecting it cost no measurable accuracy'
  verb = 'cost' if teacher['verdict'] == 'loss' else 'added'
  return f'protecting it {verb} {points(teacher["cost"]["mean"])} of accuracy'


def _overview(protected: list[records.Entry], summary: records.Summary) -> str:
  """The same for many protected teachers, as ranges."""
  cells = {t['name']: _known(summary, t['name']) for t in protected}
  cells = {name: known for name, known in cells.items() if known}
  failed = [
    name
    for name, known in cells.items()
    if any(attack['failed'] for _, attack in known)
  ]
  means = [
    attack['difference']['mean']
    for known in cells.values()
    for _, attack in known
  ]
  costs = [t['cost']['mean'] for t in protected if t['cost']]
  text = f'of {len(cells)} protected teachers, {len(failed) or "none"} failed'
  if failed and len(failed) <= 3:
    text += f' ({_join(failed)})'
  if means:
    text += f'; students end {_sides(means)} training alone'
  if costs:
    loss = [-cost for cost in costs]
    text += f'; the teachers end {_sides(loss)} their normal ones'
  return text


def _sides(values: Sequence[float]) -> str:
  """'1.5 to 6.0 points below', or '1.5 points below to 6.0 above'."""
  low, high = _ends(values)
  if low < 0 < high:
    return f'between {-low:.1f} points below and {high:.1f} above'
  side = 'above' if low >= 0 else 'below'
  return f'{span(values)} {side}'


def _cells(summary: records.Summary, name: str | None = None) -> list[_Cell]:
  """(student, attack) on protected teachers, or on the named one."""
  return [
    (student, attack)
    for student in summary['students']
    for attack in student['attacks']
    if attack['protected'] and name in (None, attack['teacher'])
  ]


def _known(summary: records.Summary, name: str | None = None) -> list[_Cell]:
  """Those of the cells that have a control to be compared with."""
  return [cell for cell in _cells(summary, name) if cell[1]['difference']]


def _who(cells: list[_Cell], among: list[_Cell]) -> str:
  """'a thief' if it holds for all, otherwise which students."""
  if len(cells) == len(among):
    return 'a thief'
  methods = {(attack['method'], attack['setting']) for _, attack in among}
  names = []
  for student, attack in cells:
    how = f'{attack["method"]} {attack["setting"]}'.strip()
    by = f' by {how}' if len(methods) > 1 else ''
    names.append(f'{student["name"]}{by}')
  return _join(names) if len(names) < 4 else f'{len(names)} students'


def _one_seed(summary: records.Summary) -> str:
  """' (one seed only)' where a mean stands for a single run."""
  counts = [a['difference']['num_seeds'] for _, a in _known(summary)]
  counts += [t['cost']['num_seeds'] for t in summary['teachers'] if t['cost']]
  if not counts or min(counts) > 1:
    return ''
  return ' (one seed only)' if max(counts) == 1 else ' (partly one seed only)'


def _ends(values: Sequence[float]) -> tuple[float, float]:
  return min(values), max(values)


def _join(parts: Sequence[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  if len(parts) < 2:
    return ''.join(parts)
  return f'{", ".join(parts[:-1])} and {parts[-1]}'
