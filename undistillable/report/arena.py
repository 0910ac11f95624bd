"""The page of the arena: verdicts, what they rest on, what they cost."""

import json
import pathlib
from collections.abc import Collection, Hashable, Mapping, Sequence
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
from undistillable.report.board import Board, Group

_MARKS = {'distillable': 'gain', 'undistillable': 'loss'}
_PRICES = (
  ('Accuracy %', 'accuracy', '.2f'),
  ('Flipped %', 'flipped', '.2f'),
  ('Top-5 %', 'top5', '.2f'),
  ('Brier', 'brier', '.3f'),
  ('NLL', 'nll', '.3f'),
  ('ECE %', 'ece', '.1f'),
  ('ECE %\nclasswise', 'classwise_ece', '.2f'),
  ('NLL\nfitted', 'fitted_nll', '.3f'),
  ('ECE %\nfitted', 'fitted_ece', '.1f'),
  ('ECE %\nclasswise, fitted', 'fitted_classwise_ece', '.2f'),
  ('L1', 'l1', '.3f'),
  ('AURC %', 'aurc', '.2f'),
)
_MODES = {'once': 'once, recorded', 'every view': 'every view, fresh'}
_BOUND = ' †'
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
) -> None:
  """Writes the report of a study whose measurements are those of an arena.

  `more` are sections before how it was done; the workdir is not read.
  """
  del workdir
  board = Board(results)
  groups = board.groups
  # Shares are what is to be seen, wherever there is something to share.
  drawn = next((group for group in groups if group.has_shares), groups[0])
  found = words.conclusion(board)
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
    document.Heading('What the answers are worth', 3),
    _price_table(board),
    document.Heading('What it takes to serve them', 3),
    _serving_table(board),
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


def text(results: Mapping[str, Any]) -> str:
  """The verdicts for a terminal; the last line is the sentence."""
  board = Board(results)
  lines: list[str] = []
  for group in board.groups:
    found = _verdict_table(board, group)
    lines += [group.title, *document.aligned([found.head, *found.rows]), '']
  return '\n'.join([*lines, words.conclusion(board).sentence])


def _group_blocks(board: Board, group: Group) -> list[document.Block]:
  """The verdicts of a group, and a matrix for each student."""
  parts: list[document.Block] = [
    document.Heading(group.title),
    _verdict_table(board, group),
  ]
  reasons: dict[str, list[str]] = {}
  for student in board.students:
    parts.append(document.Heading(f'Student {student}', 3))
    if student in group.controls:
      parts.append(_matrix(board, group, student))
    else:
      parts.append(document.Text(words.NO_CONTROL))
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
  head = ['Defense', 'Verdict', 'Thief', 'Gain', 'Bootstrap']
  head += ['Seeds /\nimages', 'Leaked', 'Against\nnone']
  head += ['Scores', 'Price', 'Time'] if first else ['Scores']
  rows, marks = [], {}
  for i, (defense, row) in enumerate(group.rows.items()):
    found = row.verdict
    lacking = [board.labels[name] for name in found.missing]
    cells = [
      words.in_two_lines(board.labels[defense]),
      words.told(found._replace(missing=lacking)),
      words.thief(board.labels.get(found.attack), found.student),
      words.interval(found.gain, found.level),
      _drawn_again(board, group, defense),
      words.parts(found.gain),
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
  top = group.name == board.groups[0].name
  caption = words.VERDICTS if top else 'As above.'
  caption = (caption + ('' if first else words.OTHER_VERDICTS)).format(
    margin=board.rules['margin'],
    leak=board_lib.MIN_TO_LEAK,
    control=board_lib.GUESS,
  )
  numeric = tuple(range(3, len(head)))
  return document.Table(
    tuple(head), rows, caption, numeric, kind='matrix', marks=marks
  )


def _drawn_again(board: Board, group: Group, defense: str) -> str:
  """The bounds of the deciding gain by the bootstrap."""
  found = group.rows[defense].verdict
  if not found.gain:
    return '–'
  cell = board.cell(defense, found.attack, found.student)
  hits = board.tests([cell])[found.attack]
  alone = group.alone[found.student]
  low, high = verdict_lib.bootstrap(hits, alone, level=found.level)
  return words.span(low, high).replace(' to ', ' to\n')


def _matrix(board: Board, group: Group, student: str) -> document.Table:
  """Gains of one student: a row for each defense."""
  chooses = any(row.contests[student].chosen for row in group.rows.values())
  head = ['Defense']
  head += [_attack(board, name) for name in group.attacks]
  head += ['Chosen'] if chooses else []
  rows, marks, strong = [], {}, []
  for i, (defense, row) in enumerate(group.rows.items()):
    contest = row.contests[student]
    gains = {**contest.gains, **contest.bounds}
    cells = [words.in_two_lines(board.labels[defense])]
    for j, name in enumerate(group.attacks, 1):
      gain, cell = gains.get(name), board.cell(defense, name, student)
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
      chosen = board.labels.get(contest.chosen or '')
      cells.append(words.thief(chosen, share))
    rows.append(tuple(cells))
  caption = words.MATRIX + (words.CHOICE if chooses else '')
  caption += words.BOUND if board.bounds.intersection(group.attacks) else ''
  caption = caption.format(
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


def _attack(board: Board, name: str) -> str:
  """Its name and, below it, its settings."""
  method, *settings = words.in_two_lines(board.labels[name]).splitlines()
  bound = _BOUND if name in board.bounds else ''
  return '\n'.join([method + bound, *settings])


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
      shown = board.labels[name]
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
      words.CONTROLS.format(choose=words.numbers(board.rules['choose_seeds'])),
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


def _price_table(board: Board) -> document.Table:
  columns = {
    head: {
      name: format(mean[key], spec)
      for name, mean in board.paid.mean.items()
      if key in mean
    }
    for head, key, spec in _PRICES
  }
  return _by_defense(board, columns, words.PRICES)


def _serving_table(board: Board) -> document.Table:
  paid = board.paid
  columns = {
    f'Time\nof {batch}': {
      name: f'{words.time(times[batch])}\np95 {words.time(tails[batch])}'
      for name, times in paid.times.items()
      if batch in (tails := paid.tails[name])
    }
    for batch in ('1', '256')
  }
  columns['Training'] = {k: words.time(x) for k, x in paid.training.items()}
  for head, key, show in (
    ('Networks', 'networks', str),
    ('State', 'bytes', words.size),
    ('Again', 'again', '{:.1g}'.format),
    ('Shuffled', 'shuffled', '{:.1g}'.format),
  ):
    columns[head] = {
      name: show(found)
      for name, one in paid.serving.items()
      if (found := one[key]) is not None
    }
  caption = words.SERVING + (words.SERVING_MEASURED if paid.serving else '')
  return _by_defense(board, columns, caption)


def _by_defense(
  board: Board, columns: Mapping[str, Mapping[str, str]], caption: str
) -> document.Table:
  """A table of {head: {defense: cell}}, less columns that nobody has."""
  shown = {head: column for head, column in columns.items() if column}
  rows = [
    (
      words.in_two_lines(board.labels[name]),
      *(column.get(name, '–') for column in shown.values()),
    )
    for name in board.paid.mean
  ]
  numeric = tuple(range(1, 1 + len(shown)))
  return document.Table(
    ('Defense', *shown), rows, caption, numeric, kind='matrix'
  )


def _asked(board: Board) -> document.Table:
  """Who asks about how many images."""
  rows = []
  for name in board.attacks():
    cells = [c for c in board.cells if c['defense'] and c['attack'] == name]
    runs = [board.entries.get(i, {}) for c in cells for i in c['runs'].values()]
    counts = [run['queries'] for run in runs if run.get('queries') is not None]
    modes = dict.fromkeys(cell['mode'] for cell in cells if cell['mode'])
    rows.append(
      (
        _attack(board, name),
        _HAS[cells[0]['group']],
        cells[0]['answers'],
        ' or '.join(_MODES[mode] for mode in sorted(modes)) or '–',
        _span(counts),
        _span(_of_all(board, cells)),
      )
    )
  head = ('Attack', 'Has', 'Hears', 'Asks', 'One student', 'All')
  caption = words.ASKED + (words.BOUND if board.bounds else '')
  return document.Table(head, rows, caption, (4, 5), kind='matrix')


def _span(counts: Sequence[int]) -> str:
  """'130', or '130 to 1,298'."""
  ends = dict.fromkeys((min(counts), max(counts))) if counts else ()
  return ' to '.join(f'{number:,}' for number in ends) or '–'


def _of_all(board: Board, cells: Sequence[board_lib.Cell]) -> list[int]:
  """Different questions of all students, to each network that they ask."""
  asked: dict[tuple[str, str], dict[Hashable, int]] = {}
  for cell in cells:
    for seed, run in cell['runs'].items():
      told = asked.setdefault((cell['defense'], seed), {})
      for entry in map(board.entries.__getitem__, _trained(board, run)):
        if entry.get('queries') is not None and entry['epochs']:
          key = _questions(entry) if cell['mode'] else entry['id']
          told[key] = max(entry['queries'], told.get(key, 0))
  return [sum(told.values()) for told in asked.values() if told]


def _questions(entry: Mapping[str, Any]) -> Hashable:
  """Equal for networks of one seed that ask the same about images they have.

  What is asked once does not depend on who learns from it. Views are drawn anew
  for each method, and for each length of an epoch; see `runs.Run.answers_key`.
  """
  config = entry['config']
  images = json.dumps(config.get('learns_from'), sort_keys=True)
  recipe = config.get('recipe', {})
  if config.get('queries') == 'cached' or recipe.get('augment') == 'none':
    return images
  views = (recipe.get(key) for key in ('epochs', 'batch_size', 'augment'))
  return (images, entry['method'], *views)


def _how(
  board: Board, results: Mapping[str, Any], command: str
) -> list[document.Block]:
  """The rules, the command, and where it ran."""
  rules = board.rules
  effort = '; '.join(
    f'{group.title.lower()}: {_effort(board, group.thieves)}'
    for group in board.groups
  )
  controls = {c['attack'] for c in board.cells if c['defense'] is None}
  rows = [
    ('protocol', str(rules.get('protocol', 1))),  # The first have no number.
    ('margin', f'{rules["margin"]:g} points'),
    ('chosen with seeds', words.numbers(rules['choose_seeds'])),
    ('judged with seeds', words.numbers(rules['fresh_seeds'])),
    ('defenses', ', '.join(board.owners)),
    ('attacks, with their settings', effort),
    ('controls, with their settings', _effort(board, controls)),
    *_long_settings(board),
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


def _long_settings(board: Board) -> list[tuple[str, str]]:
  """What tables have no room for."""
  return [
    (
      words.in_two_lines(label).replace('\n', ' '),
      words.in_two_lines(name).partition('\n')[2],
    )
    for name, label in board.labels.items()
    if label != name and not name.startswith('null ')  # As their attacks.
  ]


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
