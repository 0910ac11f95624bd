"""What was expected of the arena before it was run, and what became of it.

Two thieves are level where both bounds of their difference are within the
margin, and apart where both are beyond it; one has more than the other where
the lower bound of the difference is above 0.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from undistillable.report import (
  arena_words as words,
  board as board_lib,
  document,
  verdict,
)
from undistillable.report.board import Board

_READING = (
  'Written down before the first run; how 5, 7, 8, 10, and top_k in 4 and 9, '
  'are judged, after that of digits. Holds: for all students, by the bounds of '
  'the differences, which are given in points; fails: for some student it is '
  'the other way; open: neither.'
)
_HEAD = ('No.', 'Prediction', 'Here', 'Measured')
_SMOOTHING = 'label_smoothing'
_Judge = Callable[[Board, str], 'list[Found]']


class Found(NamedTuple):
  """What a comparison came to."""

  status: str  # 'holds', 'fails' or 'open'.
  points: float  # The difference.
  what: str  # That was compared.


class Prediction(NamedTuple):
  """What was expected."""

  text: str
  needs: str  # What a board must have.
  judge: _Judge  # Of one student; nothing where the board lacks something.


class Judged(NamedTuple):
  """What became of a prediction."""

  number: int  # From 1.
  text: str
  status: str  # 'holds', 'fails', 'open' or 'not run'.
  measured: str  # The numbers in words; of what was not run, what it needs.


PREDICTIONS: list[Prediction] = []


def judge(board: Board) -> list[Judged]:
  """All of them, in order."""
  found = []
  for number, one in enumerate(PREDICTIONS, 1):
    every = [f for student in board.students for f in one.judge(board, student)]
    numbers = '; '.join(
      f'{f.what} {words.signed(f.points, ".1f")}' for f in every
    )
    measured = numbers or f'needs {one.needs}'
    status = _together(f.status for f in every)
    found.append(Judged(number, one.text, status, measured))
  return found


def table(board: Board) -> str:
  """All of them in Markdown."""
  return document.markdown_table(_HEAD, _rows(judge(board)), numeric=(0,))


def blocks(board: Board) -> list[document.Block]:
  """A section of the page; nothing where none could be judged."""
  rows = [one for one in judge(board) if one.status != 'not run']
  if not rows:
    return []
  return [
    document.Heading('What had been expected'),
    document.Table(_HEAD, _rows(rows), _READING, (0,)),
  ]


def _rows(judged: Iterable[Judged]) -> list[tuple[str, ...]]:
  return [(str(one.number), *one[1:]) for one in judged]


def _together(statuses: Iterable[str]) -> str:
  """All must hold; one that fails is enough."""
  found = set(statuses)
  if not found:
    return 'not run'
  if 'fails' in found:
    return 'fails'
  return 'open' if 'open' in found else 'holds'


def _predicted(text: str, *, needs: str) -> Callable[[_Judge], _Judge]:
  """Adds a function to `PREDICTIONS` as the judge of one."""

  def add(judge: _Judge) -> _Judge:
    PREDICTIONS.append(Prediction(text, needs, judge))
    return judge

  return add


def _hits(
  board: Board, student: str, defense: str | None, attack: str
) -> np.ndarray | None:
  """The fresh hits of an attack, by default with the first of its settings."""
  for cell in board.cells:
    same = cell['defense'] == defense and cell['student'] == student
    same = same and not cell.get('bound')
    if same and attack in (cell['attack'], cell['attack'].split(':')[0]):
      return board.test(cell)
  return None


def _best_smoothing(board: Board, student: str) -> np.ndarray | None:
  """The label smoothing that validation chose."""
  cells = [
    cell
    for cell in board.controls(student)
    if cell['attack'].startswith(_SMOOTHING)
  ]
  validation = board.vals(cells)
  if not validation:
    return None
  return board.tests(cells)[verdict.choose(validation)]


def _compare(
  board: Board,
  one: np.ndarray | None,
  other: np.ndarray | None,
  what: str,
  status_fn: Callable[[verdict.Gain, float], str],
) -> list[Found]:
  """One comparison; none where one side is missing or has few seeds."""
  few = verdict.MIN_SEEDS
  if one is None or other is None or min(len(one), len(other)) < few:
    return []
  gain = verdict.gain(one, other)
  if np.array_equal(one, other):  # Networks that are one: seeds do not differ.
    n = one.shape[1]
    gain = verdict.Gain(0.0, 0.0, 1e4 / n**2, n - 1, len(one))
  return [Found(status_fn(gain, board.rules['margin']), gain.points, what)]


def _status(holds: bool, fails: bool) -> str:
  return 'holds' if holds else 'fails' if fails else 'open'


def _is_level(gain: verdict.Gain, margin: float) -> str:
  low, high = gain.low(), gain.high()
  return _status(
    -margin < low and high < margin, low > margin or high < -margin
  )


def _is_more(gain: verdict.Gain, margin: float) -> str:
  del margin
  return _status(gain.low() > 0, gain.high() < 0)


def _is_less(gain: verdict.Gain, margin: float) -> str:
  return _is_more(gain._replace(points=-gain.points), margin)


def _is_far_below(gain: verdict.Gain, margin: float) -> str:
  return _status(gain.high() < -margin, gain.low() > -margin)


def _is_no_gain(gain: verdict.Gain, margin: float) -> str:
  return _status(gain.high() < margin, gain.low() > margin)


@_predicted(
  'From nasty, tuned distillation gives what label smoothing gives; at the '
  'setting of the article a student ends far below training alone.',
  needs='kd and kd_tuned against nasty',
)
def _tuned(board: Board, student: str) -> list[Found]:
  hits = functools.partial(_hits, board, student)
  tuned = hits('nasty', 'kd_tuned')
  fixed = hits('nasty', 'kd')
  smoothing = _best_smoothing(board, student)
  alone = hits(None, 'scratch')
  found = _compare(
    board, tuned, smoothing, f'{student} tuned over smoothing', _is_level
  )
  if found:
    what = f'{student} kd over alone'
    found += _compare(board, fixed, alone, what, _is_far_below)
  return found


@_predicted(
  'htc is label smoothing with epsilon 0.9, whoever answers.',
  needs='htc, and 0.9 among arena.epsilons',
)
def _is_smoothing(board: Board, student: str) -> list[Found]:
  smoothing = _hits(board, student, None, f'{_SMOOTHING} 0.9')
  return [
    found
    for defense in board.owners
    for found in _compare(
      board,
      _hits(board, student, defense, 'htc'),
      smoothing,
      f'{student} from {defense}',
      _is_level,
    )
  ]


@_predicted(
  'skeptical on nobody explains most of what it gains over training alone.',
  needs='skeptical',
)
def _self_taught(board: Board, student: str) -> list[Found]:
  hits = functools.partial(_hits, board, student)
  robbing = hits(board_lib.NONE, 'skeptical')
  nobody = hits(None, 'null skeptical')
  alone = hits(None, 'scratch')
  if robbing is None or nobody is None or alone is None:
    return []
  halfway = np.mean([robbing, alone], axis=0)
  what = f'{student} nobody over half of the way'
  return _compare(board, nobody, halfway, what, _is_more)


@_predicted(
  'mkd takes from nasty more than from nobody, from modelguard_s and top_k '
  'no more.',
  needs='mkd',
)
def _reads_nasty(board: Board, student: str) -> list[Found]:
  nobody = _hits(board, student, None, 'null mkd')
  nasty = _hits(board, student, 'nasty', 'mkd')
  found = _compare(board, nasty, nobody, f'{student} from nasty', _is_more)
  for name in ('modelguard_s', 'top_k'):  # One answer a class, or few.
    few = _hits(board, student, name, 'mkd')
    found += _compare(board, few, nobody, f'{student} from {name}', _is_level)
  return found


@_predicted(
  'averager takes from cmim what tuned distillation takes.',
  needs='averager and kd_tuned against cmim',
)
def _is_average(board: Board, student: str) -> list[Found]:
  # Whose classes are those of the whole data set, where it was tried so.
  averager = _hits(board, student, 'cmim', 'averager:over=dataset')
  if averager is None:
    averager = _hits(board, student, 'cmim', 'averager')
  tuned = _hits(board, student, 'cmim', 'kd_tuned')
  return _compare(board, averager, tuned, student, _is_level)


@_predicted(
  'mad, as published, protects from no attack.',
  needs='mad.oracle=argmax',
)
def _no_protection(board: Board, student: str) -> list[Found]:
  mad = _published_mad(board)
  if mad is None:
    return []
  names = dict.fromkeys(
    c['attack'] for c in board.cells if c['defense'] and not c.get('bound')
  )
  return [
    found
    for name in names
    for found in _compare(
      board,
      board.test(board.cell(mad, name, student)),
      board.test(board.cell(board_lib.NONE, name, student)),
      f'{student} by {name}',
      _is_level,
    )
  ]


def _published_mad(board: Board) -> str | None:
  """The row whose `mad` keeps the top class, as in its article, if any."""
  for row in board.owners:
    for owner in board.teachers(row).values():
      if (
        owner['method'] == 'mad'
        and owner['config']['settings']['oracle'] == 'argmax'
      ):
        return row
  return None


@_predicted(
  'd_dae undoes reverse_sigmoid and modelguard_w, not modelguard_s.',
  needs='d_dae',
)
def _undone(board: Board, student: str) -> list[Found]:
  hits = functools.partial(_hits, board, student)
  plain = hits(board_lib.NONE, 'knockoff')
  found = []
  for name in ('reverse_sigmoid', 'modelguard_w'):
    undone = hits(name, 'd_dae')
    found += _compare(board, undone, plain, f'{student} from {name}', _is_level)
  book, without = (hits('modelguard_s', name) for name in ('d_dae', 'knockoff'))
  what = f'{student} from modelguard_s over knockoff'
  return [*found, *_compare(board, book, without, what, _is_no_gain)]


@_predicted(
  'dkd with beta 8 is the worst attack on nasty and stingy.',
  needs='dkd:beta=8.0 against them',
)
def _worst(board: Board, student: str) -> list[Found]:
  """`dkd` against the next worst attack of whoever has labels."""
  found = []
  for defense in ('nasty', 'stingy'):
    cells = [
      cell
      for cell in board.cells
      if (cell['defense'], cell['student']) == (defense, student)
      and cell['group'] == board_lib.OWN
    ]
    tests = board.tests(cells)
    mine = next(
      (c['attack'] for c in cells if _method(board, c) == ('dkd', 8.0)), None
    )
    others = {name: hits for name, hits in tests.items() if name != mine}
    if mine not in tests or not others:
      continue
    second = min(others, key=lambda name: others[name].mean())
    what = f'{student} from {defense} over {second}'
    found += _compare(board, tests[mine], others[second], what, _is_less)
  return found


def _method(board: Board, cell: board_lib.Cell) -> tuple[str, float | None]:
  """The method of a cell, and its beta."""
  entry = board.entries.get(next(iter(cell['runs'].values()), ''), {})
  beta = entry.get('config', {}).get('settings', {}).get('beta')
  return cell['attack'].split(':')[0], beta


@_predicted(
  'Top classes alone give nothing to who has labels; who has none loses what '
  'scores are worth, and no more.',
  needs='hard_label, and knockoff:targets=top',
)
def _labels_alone(board: Board, student: str) -> list[Found]:
  validation = board.vals(board.controls(student))
  if not validation:
    return []
  control = board.tests(board.controls(student))[verdict.choose(validation)]
  hits = functools.partial(_hits, board, student)
  found = _compare(
    board,
    hits(board_lib.NONE, 'hard_label'),
    control,
    f'{student} with labels',
    _is_no_gain,
  )
  top = [
    cell
    for cell in board.cells
    if (cell['defense'], cell['student']) == (board_lib.NONE, student)
    and (cell['group'], cell['answers']) == (board_lib.FOREIGN, 'labels')
  ]
  if found and top:
    answered = hits('top_k', top[0]['attack'].split(':')[0])
    what = f'{student} without, from top_k over the top classes of none'
    found += _compare(board, answered, board.test(top[0]), what, _is_level)
  return found


@_predicted(
  'adaptive_misinformation and grad2 take something from who has no labelled '
  'images, and nothing from who has.',
  needs='either of them',
)
def _blind(board: Board, student: str) -> list[Found]:
  """Who decides against each, over who decides against no defense."""
  found = []
  for group in board.groups:
    if group.name == board_lib.WEIGHTS:
      continue
    labelled = group.name == board_lib.OWN
    status_fn = _is_level if labelled else _is_less
    for name in ('adaptive_misinformation', 'grad2'):
      row = group.rows.get(name)
      if row is None or row.verdict.student != student or not row.against_none:
        continue
      gain = row.against_none
      if gain.num_seeds >= verdict.MIN_SEEDS:
        status = status_fn(gain, board.rules['margin'])
        kind = 'no' if group.name == board_lib.NOTHING else group.name
        what = f'{student} from {name}, {kind} images'
        found.append(Found(status, gain.points, what))
  return found
