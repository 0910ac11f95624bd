"""The page of the arena: verdicts, what they rest on, what they cost."""

import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undistillable.report import (
  board as board_lib,
  conclusion as conclusion_lib,
  conduct,
  document,
  draw,
  plane,
  verdict as verdict_lib,
  write as write_lib,
)
from undistillable.report.board import Board, Group, Prices, Row

_MAX_LISTED = 2  # Defenses with their prices in a sentence.

_VERDICTS = (
  'Distillable: the thief whom validation chose gains over the best that he '
  'could do alone (lower bound above 0, with Holm’s correction over the '
  'students). Undistillable against these attacks: the gain of every one of '
  'them, by every student, is below the margin of {margin:g} points (each '
  'upper bound). Open: neither; below it how many fresh seeds would settle it '
  'if all gains stayed as they are. Gain: of the thief who decides, in points, '
  'with its one-sided 95 % bounds. Leaked: his gain as a share of that from '
  'the unprotected network, where that is above {leak:g} point. Against none: '
  'his '
  'accuracy less that of the thief chosen against the unprotected network. '
  'Scores: less that of a thief who hears the top classes alone.'
)
_PRICED = (
  ' Price: change of the accuracy that the owner serves, in points, and of '
  'its Brier score, against the normal network. Time: of an answer to one '
  'image, as a multiple.'
)
_MATRIX = (
  'Gain over the control ({control}) in points, on {seeds} fresh seeds and '
  '{images} test images, with one-sided 95 % bounds. Red: above 0. Green: '
  'below 0. Bold: chosen by validation; at the end of the row how often the '
  'same attack would be chosen from other held-out images. = marks a run that '
  'is shared with the '
  'unprotected network: that thief cannot tell them apart.'
)
_NO_CHOICE = (
  'Gain over {control}, otherwise as above. A thief without labels has nothing '
  'to choose by here: Holm’s correction goes over all of his attacks.'
)
_CONTROLS = (
  'What a thief can do without the owner, with the same images, labels and '
  'steps. Bold: the best on the held-out images with seeds {choose}; every '
  'gain is over that one. In brackets how often it would be chosen from other '
  'held-out images. A null control is an attack on nobody, whose answers are '
  'the labels of the thief’s own images.'
)
_PRICES = (
  'Of the answers as they are served, means over the fresh seeds. Flipped: '
  'images with another top class than the normal network gives. NLL: of scores '
  'mixed with 1e-4 a class, in nats. ECE: 15 bins. Fitted: after a client has '
  'fitted one temperature on held-out images. L1: distance to the normal '
  'scores. AURC: mean error among the surest answers, less is better. Time: '
  'median of an answer, as a multiple of the normal network, for one image and '
  'for 256.'
)
_ASKED = (
  'Queries: images that one student asks about. Once: every image, without '
  'augmentation, its answer reused. Every view: each augmented one.'
)
_PLANE = (
  'Left is cheap for the owner, down is safe. {y}. The line joins the defenses '
  'than which no other is both cheaper and safer. Green: undistillable against '
  'these attacks, red: distillable, grey: open.'
)
_LIMITS = (
  'Undistillable always means: against the attacks, students and data listed '
  'here. A better attack can end it, none can be excluded. Gains are those of '
  'networks trained with these settings; whoever trains longer, or has other '
  'images, may gain more.'
)


def write(
  results: Mapping[str, Any],
  workdir: pathlib.Path,
  *,
  folder: pathlib.Path,
  command: str,
) -> None:
  """Writes the report.

  Args:
    results: of `experiments.arena`.
    workdir: not read.
    folder: where it goes.
    command: what was typed.
  """
  del workdir
  board, paid = Board(results), board_lib.prices(results)
  groups = board_lib.judge(board)
  parts: list[document.Block] = []
  for group in groups:
    parts += _group_blocks(board, group, paid)
    if group is groups[0]:
      parts += draw.render(_plane(board, group, paid), folder)
      parts += _next_step(board, group, paid)
  parts += [
    *_controls(board, groups),
    document.Heading('What the owner pays'),
    _price_table(paid),
    *_asked(board),
    *_how(board, groups, results, command),
  ]
  write_lib.pages(
    _conclusion(board, groups, paid), parts, folder, _eyebrow(board, results)
  )


def text(results: Mapping[str, Any]) -> str:
  """The verdicts for a terminal; the last line is the sentence."""
  board, paid = Board(results), board_lib.prices(results)
  groups = board_lib.judge(board)
  lines: list[str] = []
  for group in groups:
    found = _verdict_table(board, group, paid)
    lines += [
      board_lib.GROUPS[group.name],
      *_aligned([found.head, *found.rows]),
      '',
    ]
  return '\n'.join([*lines, _conclusion(board, groups, paid).sentence])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  shown = [[cell.replace('\n', ' ') for cell in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
  return ['  '.join(map(str.ljust, row, widths)).rstrip() for row in shown]


def _eyebrow(board: Board, results: Mapping[str, Any]) -> str:
  rules = board.rules
  parts = [
    'Arena',
    f'{len(board.entries)} trained networks',
    f'{len(rules["fresh_seeds"])} fresh seeds',
    str((results.get('environment') or {}).get('date') or ''),
  ]
  return ' · '.join(filter(None, parts))


# The sentence.


def _conclusion(
  board: Board, groups: Sequence[Group], paid: Prices
) -> conclusion_lib.Conclusion:
  """What the page says first, of the group that has most to go by."""
  first = groups[0]
  where = next(iter(board.entries.values()))['dataset']
  title = f'Which defense holds on {where}, and at what price?'
  found = {
    decision: [
      name
      for name, row in first.rows.items()
      if name != board_lib.NONE and row.verdict.decision == decision
    ]
    for decision in ('distillable', 'undistillable', 'open')
  }
  number = sum(map(len, found.values()))
  sentence = (
    f'Against {_count(len(first.attacks), "attack")} by '
    f'{board_lib.GROUPS[first.name].lower()}, of {_count(number, "defense")} '
    f'{len(found["distillable"]) or "none"} '
    f'{"is" if len(found["distillable"]) < 2 else "are"} distillable, '
    f'{len(found["undistillable"]) or "none"} undistillable against these '
    f'attacks{_at_prices(found["undistillable"], paid)}, and '
    f'{len(found["open"]) or "none"} open; '
    f'{_plain_clause(first.rows[board_lib.NONE])}.'
  )
  plain = first.rows[board_lib.NONE].verdict.decision
  if plain == 'undistillable':
    headline, tone = 'Here is nothing to protect', 'open'
  elif found['distillable']:
    headline = f'{len(found["distillable"])} of {number} defenses leak'
    tone = 'bad'
  elif found['open'] or not number:
    headline, tone = f'{len(found["open"])} of {number} are open', 'open'
  else:
    headline, tone = 'No thief gains from any defense', 'good'
  return conclusion_lib.Conclusion(title, headline, sentence, tone)


def _plain_clause(row: Row) -> str:
  """What stands at the end: what there is to protect at all."""
  gain = row.verdict.gain
  if gain is None:
    return 'there are too few seeds to say anything of the unprotected network'
  told = f'{_points(gain.points)} points by {row.verdict.attack}'
  if row.verdict.decision == 'distillable':
    return f'from the unprotected network a thief gains {told}'
  if row.verdict.decision == 'undistillable':
    return (
      'but from the unprotected network, too, no thief gains as much as the '
      f'margin (at best {told})'
    )
  return f'whether the unprotected network is distillable is open ({told})'


def _at_prices(names: Sequence[str], paid: Prices) -> str:
  """' (stingy at −0.3 points of accuracy and +0.021 Brier)', or nothing."""
  if not names or len(names) > _MAX_LISTED:
    return ''
  told = []
  for name in names:
    change = paid.change.get(name, {})
    if change:
      told.append(
        f'{name} at {_points(change["accuracy"])} points of accuracy and '
        f'{_signed(change["brier"], ".3f")} Brier'
      )
  return f' ({"; ".join(told)})' if told else ''


def _next_step(
  board: Board, group: Group, paid: Prices
) -> list[document.Block]:
  """A sentence on what to do."""
  rules, told = board.rules, []
  have = len(rules['fresh_seeds'])
  rows = {n: row for n, row in group.rows.items() if row.verdict.gain}
  waiting = {
    name: row.verdict.seeds
    for name, row in rows.items()
    if row.verdict.decision == 'open'
  }
  by_seeds = {name: n for name, n in waiting.items() if n}
  hopeless = [name for name, n in waiting.items() if not n]
  if have < verdict_lib.MIN_SEEDS:
    told.append(
      f'Judge on at least {verdict_lib.MIN_SEEDS} fresh seeds; here are {have} '
      '(config.arena.fresh_seeds).'
    )
  elif by_seeds:
    told.append(
      f'Train {max(by_seeds.values())} fresh seeds instead of {have} '
      '(config.arena.fresh_seeds): if the gains stay as they are, that settles '
      f'{_listed(by_seeds)}.'
    )
  if hopeless:
    told.append(
      f'No number of seeds settles {_listed(hopeless)}: the gain lies too near '
      'to 0 and to the margin for so few test images.'
    )
  held = [
    name
    for name, row in rows.items()
    if name != board_lib.NONE
    and row.verdict.decision == 'undistillable'
    and name in paid.change
  ]
  if held and rows[board_lib.NONE].verdict.decision == 'distillable':
    cheap = min(held, key=lambda name: paid.change[name]['brier'])
    told.append(
      f'Of what holds, {cheap} costs least; before it is relied upon, it '
      'should meet an attack that was made for it.'
    )
  elif not waiting and not held:
    told.append('Nothing here withholds what a thief can learn: try others.')
  if not told:
    told.append('Try a data set on which there is more to steal.')
  return [document.Heading('What to do next'), document.Text(' '.join(told))]


# The tables.


def _group_blocks(
  board: Board, group: Group, paid: Prices
) -> list[document.Block]:
  """The verdicts of a group, and a matrix for each student."""
  parts: list[document.Block] = [
    document.Heading(board_lib.GROUPS[group.name]),
    _verdict_table(board, group, paid),
  ]
  reasons: dict[str, list[str]] = {}
  for student in group.controls:
    parts.append(document.Heading(f'Student {student}', 3))
    parts.append(_matrix(board, group, student))
    for name in group.attacks:
      for defense in group.rows:
        why = board.reason(board.cell(defense, name, student))
        if why:
          reasons.setdefault(why, []).append(f'{name} against {defense}')
  for why, who in reasons.items():
    shown = _listed(dict.fromkeys(who))
    parts.append(document.Text(f'–: {shown}: {why}', 'note'))
  return parts


def _verdict_table(board: Board, group: Group, paid: Prices) -> document.Table:
  first = group.name == board_lib.OWN
  head = ['Defense', 'Verdict', 'Thief', 'Gain', 'Leaked', 'Against none']
  head += ['Scores', 'Price', 'Time'] if first else ['Scores']
  rows, marks = [], {}
  for i, (defense, row) in enumerate(group.rows.items()):
    found = row.verdict
    cells = [
      defense,
      _told(found),
      f'{found.attack}\n{found.student}' if found.attack else '–',
      _interval(found.gain, found.level),
      '–' if row.leaked is None else _percent(row.leaked),
      _interval(row.against_none),
      _interval(row.score_value),
    ]
    if first:
      change = paid.change.get(defense, {})
      times = paid.times.get(defense, {})
      cells += [_price(change) if change else '–', _time(times.get('1'))]
    rows.append(tuple(cells))
    if found.decision in _MARKS:
      marks[i, 1] = _MARKS[found.decision]
  caption = _VERDICTS.format(
    margin=board.rules['margin'], leak=board_lib.MIN_TO_LEAK
  ) + (_PRICED if first else '')
  return document.Table(
    tuple(head),
    rows,
    caption,
    tuple(range(3, len(head))),
    kind='matrix',
    marks=marks,
  )


def _price(change: Mapping[str, float]) -> str:
  """'−0.3', and below it what it means for the Brier score."""
  brier = _signed(change['brier'], '.3f')
  return f'{_points(change["accuracy"])}\n{brier} Brier'


def _time(multiple: float | None) -> str:
  return '–' if multiple is None else f'{multiple:.1f}×'


_MARKS = {'distillable': 'gain', 'undistillable': 'loss'}


def _told(found: verdict_lib.Verdict) -> str:
  """A verdict in a cell."""
  if found.gain is None:
    return 'open\ntoo few seeds'
  if found.decision == 'distillable':
    small = '\nby less than the margin' if found.below_margin else ''
    return f'distillable{small}'
  if found.decision == 'undistillable':
    return 'undistillable\nagainst these attacks'
  if found.seeds is None:
    return 'open\nwith any number of seeds'
  return f'open\n{found.seeds} fresh seeds'


def _matrix(board: Board, group: Group, student: str) -> document.Table:
  """Gains of one student: a row for each defense."""
  chooses = any(row.contests[student].chosen for row in group.rows.values())
  head = ['Defense', *group.attacks] + (['Chosen'] if chooses else [])
  rows, marks, strong = [], {}, []
  for i, (defense, row) in enumerate(group.rows.items()):
    contest, cells = row.contests[student], [defense]
    for j, name in enumerate(group.attacks, 1):
      gain, cell = contest.gains.get(name), board.cell(defense, name, student)
      shared = ' =' if cell['shared'] else ''
      cells.append(_interval(gain, mark=shared))
      if gain and gain.low() > 0:
        marks[i, j] = 'gain'
      if gain and gain.high() < 0:
        marks[i, j] = 'loss'
      if name == contest.chosen:
        strong.append((i, j))
    if chooses:
      cells.append(_chosen(board, defense, contest))
    rows.append(tuple(cells))
  control = group.controls[student]
  caption = _MATRIX if chooses else _NO_CHOICE
  return document.Table(
    tuple(head),
    rows,
    caption.format(
      control=control,
      seeds=len(board.rules['fresh_seeds']),
      images=board.num_images,
    ),
    tuple(range(1, len(group.attacks) + 1)),
    kind='matrix',
    strong=strong,
    marks=marks,
  )


def _chosen(board: Board, defense: str, contest: verdict_lib.Contest) -> str:
  """'kd', and how stable the choice is."""
  if not contest.chosen:
    return '–'
  cells = [board.cell(defense, n, contest.student) for n in contest.gains]
  share = _stability(board, cells)
  return f'{contest.chosen}\n{100 * share:.0f} %'


def _stability(board: Board, cells: Sequence[board_lib.Cell]) -> float:
  return verdict_lib.stability(board.vals(cells))


def _controls(board: Board, groups: Sequence[Group]) -> list[document.Block]:
  """All controls of all students."""
  if groups[0].name != board_lib.OWN:
    return []
  rows: list[tuple[str, ...]] = []
  strong = []
  for student, chosen in groups[0].controls.items():
    cells = board.controls(student)
    tested = board.tests(cells)
    for name, val in board.vals(cells).items():
      shown = name
      if name == chosen:
        strong.append((len(rows), 1))
        shown += f' ({100 * _stability(board, cells):.0f} %)'
      means = (100 * hits.mean() for hits in (val, tested[name]))
      rows.append((student, shown, *(f'{mean:.2f}' for mean in means)))
  choose = ', '.join(map(str, board.rules['choose_seeds']))
  return [
    document.Heading('Controls'),
    document.Table(
      ('Student', 'Alone', 'Held out %', 'Test %'),
      rows,
      _CONTROLS.format(choose=choose),
      (2, 3),
      kind='matrix',
      strong=strong,
    ),
  ]


_COLUMNS: tuple[tuple[str, str, str], ...] = (
  ('Accuracy %', 'accuracy', '.2f'),
  ('Flipped %', 'flipped', '.2f'),
  ('Brier', 'brier', '.3f'),
  ('NLL', 'nll', '.3f'),
  ('ECE %', 'ece', '.1f'),
  ('NLL fitted', 'fitted_nll', '.3f'),
  ('ECE % fitted', 'fitted_ece', '.1f'),
  ('L1', 'l1', '.3f'),
  ('AURC %', 'aurc', '.2f'),
)


def _price_table(paid: Prices) -> document.Table:
  rows = []
  for name, mean in paid.mean.items():
    times = paid.times.get(name, {})
    rows.append(
      (
        name,
        *(
          format(mean[key], spec) if key in mean else '–'
          for _, key, spec in _COLUMNS
        ),
        *(_time(times.get(batch)) for batch in ('1', '256')),
      )
    )
  head = 'Defense', *(column[0] for column in _COLUMNS), 'Time', 'of 256'
  return document.Table(
    head, rows, _PRICES, tuple(range(1, len(head))), kind='matrix'
  )


def _asked(board: Board) -> list[document.Block]:
  """Who asks about how many images."""
  rows = []
  for name in dict.fromkeys(c['attack'] for c in board.cells if c['defense']):
    cells = [c for c in board.cells if c['defense'] and c['attack'] == name]
    runs = [board.entries.get(i, {}) for c in cells for i in c['runs'].values()]
    counts = {run['queries'] for run in runs if run.get('queries') is not None}
    span = dict.fromkeys((min(counts), max(counts))) if counts else ()
    modes = {cell['mode'] for cell in cells} - {None}
    rows.append(
      (
        name,
        _HAS[cells[0]['group']],
        cells[0]['answers'],
        ' to '.join(f'{number:,}' for number in span) or '–',
        ', '.join(sorted(modes)) or '–',
      )
    )
  head = ('Attack', 'Has', 'Hears', 'Queries', 'Asks')
  return [
    document.Heading('What the attacks ask'),
    document.Table(head, rows, _ASKED, (3,), kind='matrix'),
  ]


_HAS = {
  board_lib.OWN: 'labelled images',
  board_lib.FOREIGN: 'foreign images',
  board_lib.NOTHING: 'nothing',
  board_lib.WEIGHTS: 'the weights',
}


def _how(
  board: Board,
  groups: Sequence[Group],
  results: Mapping[str, Any],
  command: str,
) -> list[document.Block]:
  """The rules, the command, and where it ran."""
  rules = board.rules
  effort = ', '.join(
    f'{board_lib.GROUPS[group.name].lower()}: {len(group.attacks)}'
    for group in groups
  )
  controls = {c['attack'] for c in board.cells if c['defense'] is None}
  rows = [
    ('margin', f'{rules["margin"]:g} points'),
    ('chosen with seeds', ', '.join(map(str, rules['choose_seeds']))),
    ('judged with seeds', ', '.join(map(str, rules['fresh_seeds']))),
    ('defenses', ', '.join(board.owners)),
    ('attacks, with their settings', effort),
    ('controls, with their settings', str(len(controls))),
    ('test images', f'{board.num_images:,}'),
    ('level', '5 % each, one-sided'),
  ]
  entries = list(board.entries.values())
  parts: list[document.Block] = [
    document.Heading('How it was done'),
    document.Heading('Fixed before the first test number', 3),
    document.Table(
      ('Rule', 'Value'),
      rows,
      'Another list, grid, margin or number of seeds makes another version.',
    ),
  ]
  if command:
    parts += [document.Heading('Command', 3), document.Code(command)]
  alike = conduct.common(entries)
  if alike:
    parts.append(document.Heading('Settings', 3))
    parts.append(
      document.Table(('Setting', 'Value'), alike, 'The same in every run.')
    )
  environment = results.get('environment') or {}
  parts.append(document.Heading('Environment', 3))
  parts.append(
    document.Table(
      ('Item', 'Value'),
      [(str(k), str(v)) for k, v in environment.items()],
      'Every run is in results.json.',
    )
  )
  secs = sum(entry.get('seconds') or 0.0 for entry in entries)
  parts.append(
    document.Text(
      f'{len(entries)} networks, {conduct.duration(secs)} of training.'
    )
  )
  return [*parts, document.Heading('Limits'), document.Text(_LIMITS)]


# The plane.


def _plane(board: Board, group: Group, paid: Prices) -> draw.Figure:
  """Owner's price against what leaks."""
  found = {
    name: row
    for name, row in group.rows.items()
    if row.verdict.gain and name in paid.change
  }
  shares = all(row.leaked is not None for row in found.values())
  points = []
  for name, row in found.items():
    gain = row.verdict.gain
    assert gain
    # What a share of 1 is, in points.
    whole = 1.0
    if shares and row.leaked:
      whole = gain.points / row.leaked
    low, high = gain.low(row.verdict.level), gain.high()
    points.append(
      plane.Point(
        name,
        paid.change[name]['brier'],
        gain.points / whole,
        low / whole,
        high / whole,
        row.verdict.decision,
      )
    )
  y = 'Leaked share' if shares else 'Gain of the thief (points)'
  caption = _PLANE.format(
    y='Leaked share: 1 is no protection, 0 is all of it'
    if shares
    else 'The unprotected network gives too little to take shares of'
  )
  told = '; '.join(
    f'{p.name} Brier {_signed(p.x, ".3f")}, {y.lower()} {p.y:.2f}'
    for p in points
  )
  return draw.Figure(
    heading='Price and protection',
    name='plane',
    draw=functools.partial(plane.panels, points, y) if points else None,
    title='What a defense costs its owner, and what leaks all the same',
    alt=f'Scatter plot. {told}.',
    caption=caption if points else 'There are too few seeds to draw this.',
  )


# Numbers.


def _interval(
  gain: verdict_lib.Gain | None,
  level: float = verdict_lib.LEVEL,
  mark: str = '',
) -> str:
  """'+1.2', and below it '[0.3, 2.1]'."""
  if gain is None:
    return '–'
  low, high = _points(gain.low(level)), _points(gain.high())
  return f'{_points(gain.points)}{mark}\n{low} to {high}'


def _percent(share: float) -> str:
  return f'{100 * share:.0f} %'.replace('-', '−')


def _points(value: float) -> str:
  return _signed(value, '.1f')


def _signed(value: float, spec: str) -> str:
  """With its sign; what rounds to nothing has none."""
  shown = format(value, f'+{spec}')
  if not shown.strip('+-0.'):
    return shown[1:]
  return shown.replace('-', '−')


def _count(number: int, noun: str) -> str:
  return f'{number} {noun}{"" if number == 1 else "s"}'


def _listed(names: Iterable[str]) -> str:
  *first, last = names
  return f'{", ".join(first)} and {last}' if first else last
