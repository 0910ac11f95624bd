"""What was expected of the arena before it was run, and what became of it.

Two thieves are level where both bounds of their difference are within the
margin, and apart where both are beyond it; one has more than the other where
the lower bound of the difference is above 0.
"""

from collections.abc import Callable, Iterable, Sequence
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
_Judge = Callable[['_Thief'], 'list[Found]']
# (a difference, the margin) -> 'holds', 'fails' or 'open'.
_Status = Callable[[verdict.Gain, float], str]


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
  thieves = [_Thief(board, student) for student in board.students]
  found = []
  for number, one in enumerate(PREDICTIONS, 1):
    every = [f for thief in thieves for f in one.judge(thief)]
    numbers = '; '.join(
      f'{f.what} {words.signed(f.points, ".1f")}' for f in every
    )
    measured = numbers or f'needs {one.needs}'
    statuses = {f.status for f in every}  # One that fails is enough.
    ranked = (s for s in ('fails', 'open', 'holds') if s in statuses)
    status = next(ranked, 'not run')
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


def _predicted(text: str, *, needs: str) -> Callable[[_Judge], _Judge]:
  """Adds a function to `PREDICTIONS` as the judge of one."""

  def add(judge: _Judge) -> _Judge:
    PREDICTIONS.append(Prediction(text, needs, judge))
    return judge

  return add


class _Thief(NamedTuple):
  """A student on a board."""

  board: Board
  student: str

  def hits(self, defense: str | None, attack: str) -> np.ndarray | None:
    """The fresh hits of an attack, or of the first of its settings."""
    for cell in self.board.cells:
      same = cell['defense'] == defense and cell['student'] == self.student
      same = same and not cell.get('bound')
      if same and attack in (cell['attack'], cell['attack'].split(':')[0]):
        return self.board.test(cell)
    return None

  def chosen(self, cells: Sequence[board_lib.Cell]) -> np.ndarray | None:
    """The fresh hits of that of some cells which validation chose."""
    validation = self.board.vals(cells)
    if not validation:
      return None
    return self.board.tests(cells)[verdict.choose(validation)]

  def compare(
    self,
    one: np.ndarray | None,
    other: np.ndarray | None,
    what: str,
    status_fn: _Status,
  ) -> list[Found]:
    """One comparison; none where one side is missing or has few seeds."""
    few = verdict.MIN_SEEDS
    if one is None or other is None or min(len(one), len(other)) < few:
      return []
    gain = verdict.gain(one, other)
    if np.array_equal(one, other):  # They are one: seeds do not differ.
      n = one.shape[1]
      gain = verdict.Gain(0.0, 0.0, 1e4 / n**2, n - 1, len(one))
    return [self.found(gain, what, status_fn)]

  def found(self, gain: verdict.Gain, what: str, status_fn: _Status) -> Found:
    """What a gain says of a prediction."""
    status = status_fn(gain, self.board.rules['margin'])
    return Found(status, gain.points, f'{self.student} {what}'.strip())


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
def _tuned(thief: _Thief) -> list[Found]:
  smoothing = thief.chosen(
    [
      cell
      for cell in thief.board.controls(thief.student)
      if cell['attack'].startswith(_SMOOTHING)
    ]
  )
  tuned = thief.hits('nasty', 'kd_tuned')
  found = thief.compare(tuned, smoothing, 'tuned over smoothing', _is_level)
  if found:
    fixed, alone = thief.hits('nasty', 'kd'), thief.hits(None, 'scratch')
    found += thief.compare(fixed, alone, 'kd over alone', _is_far_below)
  return found


@_predicted(
  'htc is label smoothing with epsilon 0.9, whoever answers.',
  needs='htc, and 0.9 among arena.epsilons',
)
def _is_smoothing(thief: _Thief) -> list[Found]:
  smoothing = thief.hits(None, f'{_SMOOTHING} 0.9')
  found = []
  for name in thief.board.owners:
    htc = thief.hits(name, 'htc')
    found += thief.compare(htc, smoothing, f'from {name}', _is_level)
  return found


@_predicted(
  'skeptical on nobody explains most of what it gains over training alone.',
  needs='skeptical',
)
def _self_taught(thief: _Thief) -> list[Found]:
  robbing = thief.hits(board_lib.NONE, 'skeptical')
  nobody = thief.hits(None, 'null skeptical')
  alone = thief.hits(None, 'scratch')
  if robbing is None or alone is None:
    return []
  halfway = np.mean([robbing, alone], axis=0)
  return thief.compare(nobody, halfway, 'nobody over half of the way', _is_more)


@_predicted(
  'mkd takes from nasty more than from nobody, from modelguard_s and top_k '
  'no more.',
  needs='mkd',
)
def _reads_nasty(thief: _Thief) -> list[Found]:
  nobody = thief.hits(None, 'null mkd')
  nasty = thief.hits('nasty', 'mkd')
  found = thief.compare(nasty, nobody, 'from nasty', _is_more)
  for name in ('modelguard_s', 'top_k'):  # One answer a class, or few.
    few = thief.hits(name, 'mkd')
    found += thief.compare(few, nobody, f'from {name}', _is_level)
  return found


@_predicted(
  'averager takes from cmim what tuned distillation takes.',
  needs='averager and kd_tuned against cmim',
)
def _is_average(thief: _Thief) -> list[Found]:
  # Whose classes are those of the whole data set, where it was tried so.
  averager = thief.hits('cmim', 'averager:over=dataset')
  if averager is None:
    averager = thief.hits('cmim', 'averager')
  return thief.compare(averager, thief.hits('cmim', 'kd_tuned'), '', _is_level)


@_predicted(
  'mad, as published, protects from no attack.',
  needs='mad.oracle=argmax',
)
def _no_protection(thief: _Thief) -> list[Found]:
  board = thief.board
  mad = next((row for row in board.owners if _is_published(board, row)), None)
  if mad is None:
    return []
  found = []
  for name in dict.fromkeys(
    c['attack'] for c in board.cells if c['defense'] and not c.get('bound')
  ):
    hits, plain = (
      board.test(board.cell(row, name, thief.student))
      for row in (mad, board_lib.NONE)
    )
    found += thief.compare(hits, plain, f'by {name}', _is_level)
  return found


def _is_published(board: Board, row: str) -> bool:
  """Whether a row is `mad` that keeps the top class, as in its article."""
  return any(
    owner['method'] == 'mad'
    and owner['config']['settings']['oracle'] == 'argmax'
    for owner in board.teachers(row).values()
  )


@_predicted(
  'd_dae undoes reverse_sigmoid and modelguard_w, not modelguard_s.',
  needs='d_dae',
)
def _undone(thief: _Thief) -> list[Found]:
  plain = thief.hits(board_lib.NONE, 'knockoff')
  found = []
  for name in ('reverse_sigmoid', 'modelguard_w'):
    undone = thief.hits(name, 'd_dae')
    found += thief.compare(undone, plain, f'from {name}', _is_level)
  book, without = (
    thief.hits('modelguard_s', name) for name in ('d_dae', 'knockoff')
  )
  what = 'from modelguard_s over knockoff'
  return [*found, *thief.compare(book, without, what, _is_no_gain)]


@_predicted(
  'dkd with beta 8 is the worst attack on nasty and stingy.',
  needs='dkd:beta=8.0 against them',
)
def _worst(thief: _Thief) -> list[Found]:
  """`dkd` against the next worst attack of whoever has labels."""
  board, found = thief.board, []
  for defense in ('nasty', 'stingy'):
    cells = [
      cell
      for cell in board.cells
      if (cell['defense'], cell['student']) == (defense, thief.student)
      and cell['group'] == board_lib.OWN
    ]
    tests = board.tests(cells)
    mine = next((c['attack'] for c in cells if _is_dkd(board, c)), None)
    others = {name: hits for name, hits in tests.items() if name != mine}
    if mine not in tests or not others:
      continue
    second = min(others, key=lambda name: others[name].mean())
    what = f'from {defense} over {second}'
    found += thief.compare(tests[mine], others[second], what, _is_less)
  return found


def _is_dkd(board: Board, cell: board_lib.Cell) -> bool:
  """Whether a cell is of `dkd` with beta 8."""
  entry = board.entries.get(next(iter(cell['runs'].values()), ''), {})
  beta = entry.get('config', {}).get('settings', {}).get('beta')
  return cell['attack'].split(':')[0] == 'dkd' and beta == 8.0


@_predicted(
  'Top classes alone give nothing to who has labels; who has none loses what '
  'scores are worth, and no more.',
  needs='hard_label, and knockoff:targets=top',
)
def _labels_alone(thief: _Thief) -> list[Found]:
  board, student = thief.board, thief.student
  control = thief.chosen(board.controls(student))
  labelled = thief.hits(board_lib.NONE, 'hard_label')
  found = thief.compare(labelled, control, 'with labels', _is_no_gain)
  top = [
    cell
    for cell in board.cells
    if (cell['defense'], cell['student']) == (board_lib.NONE, student)
    and (cell['group'], cell['answers']) == (board_lib.FOREIGN, 'labels')
  ]
  if found and top:
    answered = thief.hits('top_k', top[0]['attack'].split(':')[0])
    what = 'without, from top_k over the top classes of none'
    found += thief.compare(answered, board.test(top[0]), what, _is_level)
  return found


@_predicted(
  'adaptive_misinformation and grad2 take something from who has no labelled '
  'images, and nothing from who has.',
  needs='either of them',
)
def _blind(thief: _Thief) -> list[Found]:
  """Who decides against each, over who decides against no defense."""
  found = []
  for group in thief.board.groups:
    if group.name == board_lib.WEIGHTS:
      continue
    status_fn = _is_level if group.name == board_lib.OWN else _is_less
    kind = 'no' if group.name == board_lib.NOTHING else group.name
    for name in ('adaptive_misinformation', 'grad2'):
      row = group.rows.get(name)
      if row is None or row.verdict.student != thief.student:
        continue
      gain = row.against_none
      if gain and gain.num_seeds >= verdict.MIN_SEEDS:
        found.append(
          thief.found(gain, f'from {name}, {kind} images', status_fn)
        )
  return found
