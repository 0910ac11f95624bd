"""The page of the arena: verdicts, what they rest on, what they cost."""

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from undistillable.report import (
  arena_words as words,
  board as board_lib,
  conduct,
  document,
  draw,
  plane,
  verdict as verdict_lib,
  write as write_lib,
)
from undistillable.report.board import Board, Group, Prices

Conclude = Callable[[Board], document.Conclusion]

_MARKS = {'distillable': 'gain', 'undistillable': 'loss'}
_PRICES = (
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
_HAS = {
  board_lib.OWN: 'labelled images',
  board_lib.FOREIGN: 'foreign images',
  board_lib.NOTHING: 'nothing',
  board_lib.WEIGHTS: 'the weights',
}


def write(
  results: Mapping[str, Any],
  workdir: pathlib.Path,
  *,
  folder: pathlib.Path,
  command: str,
  more: Sequence[document.Block] = (),
  conclude: Conclude = words.conclusion,
) -> None:
  """Writes the report of a study whose measurements are those of an arena.

  `more` are sections before how it was done, `conclude` says what stands at
  the top; the workdir is not read.
  """
  del workdir
  board = Board(results)
  groups = board.groups
  # Shares are what is to be seen, wherever there is something to share.
  drawn = next((group for group in groups if group.has_shares), groups[0])
  found = conclude(board)
  parts = [*found.details]
  for group in groups:
    parts += _group_blocks(board, group)
    if group is drawn:
      parts += draw.render(plane.figure(group, board.paid), folder)
  parts += [
    document.Heading('What to do next'),
    *map(document.Text, words.next_steps(board)),
    *_controls(board, groups[0]),
    document.Heading('What the owner pays'),
    _price_table(board.paid),
    document.Heading('What the attacks ask'),
    _asked(board),
    *more,
    *_how(board, results, command),
  ]
  eyebrow = (
    'Arena' if board.audited is None else 'Audit',
    f'{len(board.entries)} networks',
    f'{len(board.rules["fresh_seeds"])} fresh seeds',
  )
  write_lib.pages(found, parts, folder, eyebrow, results)


def text(
  results: Mapping[str, Any], conclude: Conclude = words.conclusion
) -> str:
  """The verdicts for a terminal; the last line is the sentence."""
  board = Board(results)
  lines: list[str] = []
  for group in board.groups:
    found = _verdict_table(board, group)
    lines += [group.title, *document.aligned([found.head, *found.rows]), '']
  return '\n'.join([*lines, conclude(board).sentence])


def _group_blocks(board: Board, group: Group) -> list[document.Block]:
  """The verdicts of a group, and a matrix for each student."""
  parts: list[document.Block] = [
    document.Heading(group.title),
    _verdict_table(board, group),
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
    shown = document.listed(dict.fromkeys(who))
    parts.append(document.Text(f'–: {shown}: {why}', 'note'))
  return parts


def _verdict_table(board: Board, group: Group) -> document.Table:
  first = group.name == board_lib.OWN
  head = ['Defense', 'Verdict', 'Thief', 'Gain', 'Leaked', 'Against none']
  head += ['Scores', 'Price', 'Time'] if first else ['Scores']
  rows, marks = [], {}
  for i, (defense, row) in enumerate(group.rows.items()):
    found = row.verdict
    cells = [
      defense,
      words.told(found),
      words.thief(found.attack, str(found.student)),
      words.interval(found.gain, found.level),
      '–' if row.leaked is None else words.percent(row.leaked),
      words.interval(row.against_none),
      words.interval(row.score_value),
    ]
    if first:
      change = board.paid.change.get(defense)
      cells += [
        words.price(change) if change else '–',
        words.time(board.paid.times.get(defense, {}).get('1')),
      ]
    rows.append(tuple(cells))
    holds = found.decision == 'undistillable'
    judged = defense in (board_lib.NONE, board.audited)
    if holds and judged and words.weaker(board, group, defense):
      continue  # For want of anything to give.
    if found.decision in _MARKS:
      marks[i, 1] = _MARKS[found.decision]
  caption = (words.VERDICTS if first else words.OTHER_VERDICTS).format(
    margin=board.rules['margin'],
    leak=board_lib.MIN_TO_LEAK,
    control=board_lib.GUESS,
  )
  numeric = tuple(range(3, len(head)))
  return document.Table(
    tuple(head), rows, caption, numeric, kind='matrix', marks=marks
  )


def _matrix(board: Board, group: Group, student: str) -> document.Table:
  """Gains of one student: a row for each defense."""
  chooses = any(row.contests[student].chosen for row in group.rows.values())
  head = ['Defense', *(words.in_two_lines(name) for name in group.attacks)]
  head += ['Chosen'] if chooses else []
  rows, marks, strong = [], {}, []
  for i, (defense, row) in enumerate(group.rows.items()):
    contest, cells = row.contests[student], [defense]
    for j, name in enumerate(group.attacks, 1):
      gain, cell = contest.gains.get(name), board.cell(defense, name, student)
      shared = ' =' if cell['shared'] else ''
      cells.append(words.interval(gain, mark=shared))
      if gain and gain.low() > 0:
        marks[i, j] = 'gain'
      if gain and gain.high() < 0:
        marks[i, j] = 'loss'
      if name == contest.chosen:
        strong.append((i, j))
    if chooses:
      tried = [board.cell(defense, name, student) for name in contest.gains]
      share = _stability(board, tried) if contest.chosen else ''
      cells.append(words.thief(contest.chosen, share))
    rows.append(tuple(cells))
  caption = (words.MATRIX + (words.CHOICE if chooses else '')).format(
    control=group.controls[student],
    seeds=len(board.rules['fresh_seeds']),
    images=board.num_images,
  )
  return document.Table(
    tuple(head),
    rows,
    caption,
    tuple(range(1, len(group.attacks) + 1)),
    kind='matrix',
    strong=strong,
    marks=marks,
  )


def _stability(board: Board, cells: Sequence[board_lib.Cell]) -> str:
  """How often the same is chosen of these."""
  return f'{100 * verdict_lib.stability(board.vals(cells)):.0f} %'


def _controls(board: Board, group: Group) -> list[document.Block]:
  """All controls of all students."""
  if group.name != board_lib.OWN:
    return []
  rows: list[tuple[str, ...]] = []
  strong = []
  missing: list[str] = []
  for student, chosen in group.controls.items():
    cells = board.controls(student)
    tested, vals = board.tests(cells), board.vals(cells)
    names = [cell['attack'] for cell in cells]
    missing += [f'{name} by {student}' for name in names if name not in vals]
    for name, val in vals.items():
      shown = name
      if name == chosen:
        strong.append((len(rows), 1))
        shown += f' ({_stability(board, cells)})'
      means = (100 * hits.mean() for hits in (val, tested[name]))
      rows.append((student, shown, *(f'{mean:.2f}' for mean in means)))
  parts: list[document.Block] = [
    document.Heading('Controls'),
    document.Table(
      ('Student', 'Alone', 'Held out %', 'Test %'),
      rows,
      words.CONTROLS.format(choose=_numbers(board.rules['choose_seeds'])),
      (2, 3),
      kind='matrix',
      strong=strong,
    ),
  ]
  if missing:
    told = (
      f'Without a result, and so not chosen from: {document.listed(missing)}.'
    )
    parts.append(document.Text(told, 'note'))
  return parts


def _price_table(paid: Prices) -> document.Table:
  rows = []
  for name, mean in paid.mean.items():
    numbers = (
      format(mean[key], spec) if key in mean else '–'
      for _, key, spec in _PRICES
    )
    times = paid.times.get(name, {})
    shown = (words.time(times.get(batch)) for batch in ('1', '256'))
    rows.append((name, *numbers, *shown))
  head = 'Defense', *(column[0] for column in _PRICES), 'Time', 'of 256'
  numeric = tuple(range(1, len(head)))
  return document.Table(head, rows, words.PRICES, numeric, kind='matrix')


def _asked(board: Board) -> document.Table:
  """Who asks about how many images."""
  rows = []
  for name in board.attacks():
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
  return document.Table(head, rows, words.ASKED, (3,), kind='matrix')


def _how(
  board: Board, results: Mapping[str, Any], command: str
) -> list[document.Block]:
  """The rules, the command, and where it ran."""
  rules = board.rules
  effort = '; '.join(
    f'{group.title.lower()}: {_effort(board, group.attacks)}'
    for group in board.groups
  )
  controls = {c['attack'] for c in board.cells if c['defense'] is None}
  rows = [
    ('protocol', str(rules.get('protocol', 1))),  # The first have no number.
    ('margin', f'{rules["margin"]:g} points'),
    ('chosen with seeds', _numbers(rules['choose_seeds'])),
    ('judged with seeds', _numbers(rules['fresh_seeds'])),
    ('defenses', ', '.join(board.owners)),
    ('attacks, with their settings', effort),
    ('controls, with their settings', _effort(board, controls)),
    ('test images', f'{board.num_images:,}'),
    ('level', '5 % each, one-sided'),
  ]
  entries = list(board.entries.values())
  secs = sum(entry.get('seconds') or 0.0 for entry in entries)
  fixed = document.Table(
    ('Rule', 'Value'),
    rows,
    'Another list, grid, margin or number of seeds makes another version.',
  )
  return [
    document.Heading('How it was done'),
    document.Heading('Fixed before the first test number', 3),
    fixed,
    *conduct.shared(command, entries),
    *conduct.environment(
      results.get('environment') or {}, 'Every run is in results.json.'
    ),
    document.Text(
      f'{len(entries)} networks, {conduct.duration(secs)} of training.'
    ),
    document.Heading('Limits'),
    document.Text(words.LIMITS),
  ]


def _numbers(values: Sequence[int]) -> str:
  return ', '.join(map(str, values))


def _effort(board: Board, names: Collection[str]) -> str:
  """How much was searched: by one student, of one defense, with one seed."""
  epochs: dict[str, int] = {}
  for cell in board.cells:
    for run in cell['runs'].values():
      known = sum(board.entries[one]['epochs'] for one in _trained(board, run))
      epochs[cell['attack']] = max(known, epochs.get(cell['attack'], 0))
  total = sum(epochs.get(name, 0) for name in names)
  return f'{len(names)}, {total:,} epochs'


def _trained(board: Board, run: str) -> set[str]:
  """A run of a thief, and what he trained for it alone; what has epochs."""
  entry = board.entries.get(run, {})
  helpers = [
    parent
    for parent in entry.get('parents', {}).values()
    if board.entries.get(parent, {}).get('role') in ('helper', 'images')
  ]
  itself = {run} if 'epochs' in entry else set()
  return itself.union(*(_trained(board, one) for one in helpers))
