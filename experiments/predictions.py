"""What was expected of the arena before it was run, and what became of it.

Two thieves are level where both bounds of their difference are within the
margin, and apart where both are beyond it; one has more than the other where
the lower bound of the difference is above 0.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from undistillable.report import board as board_lib, document, verdict
from undistillable.report.board import Board

_READING = (
  'Written down before the first run. Holds: for all students, by the bounds '
  'of the differences, which are given in points; fails: for some student it '
  'is the other way; open: neither.'
)
_SMOOTHING = 'label_smoothing'


class Found(NamedTuple):
  """What a comparison came to.

  Attributes:
    status: 'holds', 'fails' or 'open'.
    points: the difference.
    what: that was compared.
  """

  status: str
  points: float
  what: str


class Prediction(NamedTuple):
  """One of them: its text, and how it is judged for one student."""

  text: str
  judge: Callable[[Board, str], list[Found]]


def judge(board: Board) -> list[tuple[str, str, str]]:
  """[(text, status, numbers)]; 'not run' where the board lacks something."""
  found = []
  for one in PREDICTIONS:
    every = [f for student in board.students for f in one.judge(board, student)]
    numbers = '; '.join(f'{f.what} {f.points:+.1f}' for f in every)
    found.append((one.text, _together(f.status for f in every), numbers))
  return found


def blocks(board: Board) -> list[document.Block]:
  """A section of the page; nothing where none could be judged."""
  rows = [row for row in judge(board) if row[1] != 'not run']
  if not rows:
    return []
  head = ('Prediction', 'Here', 'Measured')
  shown = [(*row[:2], row[2].replace('-', '−')) for row in rows]
  return [
    document.Heading('What had been expected'),
    document.Table(head, shown, _READING),
  ]


def _together(statuses: Iterable[str]) -> str:
  """All must hold; one that fails is enough."""
  found = set(statuses)
  if not found:
    return 'not run'
  if 'fails' in found:
    return 'fails'
  return 'open' if 'open' in found else 'holds'


def _hits(
  board: Board, defense: str | None, attack: str, student: str
) -> np.ndarray | None:
  """The fresh hits of an attack, with whichever settings come first."""
  for cell in board.cells:
    same = cell['defense'] == defense and cell['student'] == student
    if same and cell['attack'].split(':')[0] == attack:
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
  return [Found(status_fn(gain, board.rules['margin']), gain.points, what)]


def _is_level(gain: verdict.Gain, margin: float) -> str:
  if -margin < gain.low() and gain.high() < margin:
    return 'holds'
  apart = gain.low() > margin or gain.high() < -margin
  return 'fails' if apart else 'open'


def _is_more(gain: verdict.Gain, margin: float) -> str:
  del margin
  if gain.low() > 0:
    return 'holds'
  return 'fails' if gain.high() < 0 else 'open'


def _is_far_below(gain: verdict.Gain, margin: float) -> str:
  if gain.high() < -margin:
    return 'holds'
  return 'fails' if gain.low() > -margin else 'open'


def _is_no_gain(gain: verdict.Gain, margin: float) -> str:
  if gain.high() < margin:
    return 'holds'
  return 'fails' if gain.low() > margin else 'open'


def _tuned(board: Board, student: str) -> list[Found]:
  hits = functools.partial(_hits, board, student=student)
  tuned = hits(defense='nasty', attack='kd_tuned')
  fixed = hits(defense='nasty', attack='kd')
  smoothing = _best_smoothing(board, student)
  alone = hits(defense=None, attack='scratch')
  found = _compare(
    board, tuned, smoothing, f'{student} tuned over smoothing', _is_level
  )
  if found:
    found += _compare(
      board, fixed, alone, f'{student} kd over alone', _is_far_below
    )
  return found


def _is_smoothing(board: Board, student: str) -> list[Found]:
  smoothing = _hits(board, None, f'{_SMOOTHING} 0.9', student)
  return [
    found
    for defense in board.owners
    for found in _compare(
      board,
      _hits(board, defense, 'htc', student),
      smoothing,
      f'{student} from {defense}',
      _is_level,
    )
  ]


def _self_taught(board: Board, student: str) -> list[Found]:
  hits = functools.partial(_hits, board, student=student)
  robbing = hits(defense=board_lib.NONE, attack='skeptical')
  nobody = hits(defense=None, attack='null skeptical')
  alone = hits(defense=None, attack='scratch')
  if robbing is None or nobody is None or alone is None:
    return []
  halfway = np.mean([robbing, alone], axis=0)
  what = f'{student} nobody over half of the way'
  return _compare(board, nobody, halfway, what, _is_more)


def _reads_nasty(board: Board, student: str) -> list[Found]:
  nobody = _hits(board, None, 'null mkd', student)
  nasty = _hits(board, 'nasty', 'mkd', student)
  book = _hits(board, 'modelguard_s', 'mkd', student)
  return [
    *_compare(board, nasty, nobody, f'{student} from nasty', _is_more),
    *_compare(board, book, nobody, f'{student} from modelguard_s', _is_level),
  ]


def _no_protection(board: Board, student: str) -> list[Found]:
  if 'mad' not in board.owners or not _is_as_published(board):
    return []
  names = dict.fromkeys(c['attack'] for c in board.cells if c['defense'])
  return [
    found
    for name in names
    for found in _compare(
      board,
      board.test(board.cell('mad', name, student)),
      board.test(board.cell(board_lib.NONE, name, student)),
      f'{student} by {name}',
      _is_level,
    )
  ]


def _is_as_published(board: Board) -> bool:
  """Whether what `mad` looks for keeps the top class, as in its article."""
  oracles = {
    entry['config']['settings']['oracle']
    for entry in board.entries.values()
    if entry['role'] == 'teacher' and entry['method'] == 'mad'
  }
  return oracles == {'argmax'}


def _labels_alone(board: Board, student: str) -> list[Found]:
  validation = board.vals(board.controls(student))
  if not validation:
    return []
  control = board.tests(board.controls(student))[verdict.choose(validation)]
  hits = _hits(board, board_lib.NONE, 'hard_label', student)
  return _compare(board, hits, control, student, _is_no_gain)


PREDICTIONS: Sequence[Prediction] = (
  Prediction(
    'From nasty, tuned distillation gives what label smoothing gives; at the '
    'setting of the article a student ends far below training alone.',
    _tuned,
  ),
  Prediction(
    'htc is label smoothing with epsilon 0.9, whoever answers.', _is_smoothing
  ),
  Prediction(
    'skeptical on nobody explains most of what it gains over training alone.',
    _self_taught,
  ),
  Prediction(
    'mkd takes from nasty more than from nobody, from modelguard_s no more.',
    _reads_nasty,
  ),
  Prediction('mad, as published, protects from no attack.', _no_protection),
  Prediction(
    'Top classes alone give nothing to who has labels.', _labels_alone
  ),
)
