"""The board of the arena: who gained what, and what became of each defense.

All of it is computed anew from results.json: which run is in which cell, and
which test images each student is right about.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from undistillable import evaluate
from undistillable.report import verdict as verdict_lib

# What a thief has.
OWN, FOREIGN, NOTHING, WEIGHTS = 'own', 'foreign', 'nothing', 'weights'
GROUPS = {
  OWN: 'Thieves with labelled images of their own',
  FOREIGN: 'Thieves with foreign images and no labels',
  NOTHING: 'Thieves without any images',
  WEIGHTS: 'Thieves who have the weights',
}
NONE = 'none'  # The defense that is none.
GUESS = 'always the likeliest class'
# Below this gain of theft from the unprotected network, in points, there is too
# little to take a share of.
MIN_TO_LEAK = 1.0

# {'defense', 'attack', 'student', 'group', 'answers', 'mode', 'shared',
# 'reason', 'runs': {seed: id}}; the defense of a control is None.
Cell = Mapping[str, Any]


class Row(NamedTuple):
  """What became of one defense in one group of attacks.

  Attributes:
    verdict: see `verdict.judge`.
    contests: {student: its contest}.
    whole: the gain of the same student from the unprotected network, in points;
      None where it is too little to take a share of.
    against_none: of the deciding thief, over the one chosen against no defense.
    score_value: of him, over who hears top classes alone; None where he does.
      Of whom validation did not choose, the first attack that hears scores.
  """

  verdict: verdict_lib.Verdict
  contests: Mapping[str, verdict_lib.Contest]
  whole: float | None = None
  against_none: verdict_lib.Gain | None = None
  score_value: verdict_lib.Gain | None = None

  @property
  def leaked(self) -> float | None:
    """Share of the gain from the unprotected network; None without one."""
    if self.whole is None or self.verdict.gain is None:
      return None
    return self.verdict.gain.points / self.whole


class Group(NamedTuple):
  """What attacks of one kind came to.

  Attributes:
    name: of `GROUPS`.
    attacks: in order.
    controls: {student: the chosen control}.
    rows: {defense: row}.
    alone: {student: bool[R, n], the fresh hits of its control}.
  """

  name: str
  attacks: Sequence[str]
  controls: Mapping[str, str]
  rows: Mapping[str, Row]
  alone: Mapping[str, np.ndarray]


class Board:
  """The cells of the arena and the hits in them.

  Attributes:
    rules: margin, choose_seeds and fresh_seeds.
    owners: names of the defenses.
    cells: all of them.
    students: names of networks.
    num_images: of the test set.
    entries: {id: run}, of results.json.
  """

  def __init__(self, results: Mapping[str, Any]):
    found = results['measurements']
    self.rules = found['rules']
    self.owners: list[str] = found['board']['owners']
    self.cells: list[Cell] = found['board']['cells']
    self.students = list(dict.fromkeys(cell['student'] for cell in self.cells))
    self.num_images = found['hits']['numbers']['test']
    self.entries = {entry['id']: entry for entry in results['runs']}
    self._hits = found['hits']
    self._by_key = {
      (c['defense'], c['attack'], c['student']): c for c in self.cells
    }

  def cell(self, defense: str, attack: str, student: str) -> Cell:
    """One of them; every attack has one for every defense and student."""
    return self._by_key[defense, attack, student]

  def test(self, cell: Cell) -> np.ndarray | None:
    """bool[R, n] of the fresh seeds; None where one of them is missing."""
    return self._of(cell, 'test', self.rules['fresh_seeds'])

  def val(self, cell: Cell) -> np.ndarray | None:
    """bool[R, m] of the seeds to choose on; None where one is missing."""
    return self._of(cell, 'val', self.rules['choose_seeds'])

  def tests(self, cells: Iterable[Cell]) -> dict[str, np.ndarray]:
    """{attack: `test`} of those that have it."""
    found = {cell['attack']: self.test(cell) for cell in cells}
    return {name: hits for name, hits in found.items() if hits is not None}

  def vals(self, cells: Iterable[Cell]) -> dict[str, np.ndarray]:
    """{attack: `val`} of those that have both, or they could not be chosen."""
    cells = list(cells)
    found = {cell['attack']: self.val(cell) for cell in cells}
    tested = self.tests(cells)
    return {
      name: hits
      for name, hits in found.items()
      if hits is not None and name in tested
    }

  def controls(self, student: str) -> list[Cell]:
    """What a student can do without the owner."""
    return [
      cell
      for cell in self.cells
      if cell['student'] == student and cell['defense'] is None
    ]

  def guess(self) -> np.ndarray:
    """bool[R, n] of whoever always says the likeliest class, at any seed."""
    hits = evaluate.unpack(self._hits['guess'], self.num_images)
    return np.tile(hits, (len(self.rules['fresh_seeds']), 1))

  def reason(self, cell: Cell) -> str:
    """Why a cell has no number, or ''."""
    if cell['reason'] or self.test(cell) is not None:
      return cell['reason']
    for seed in self.rules['fresh_seeds']:
      entry = self.entries.get(cell['runs'].get(str(seed)), {})
      if entry.get('status') != 'finished':
        status = entry.get('status', 'missing')
        return f'seed {seed} is {status}. {entry.get("reason", "")}'.strip()
    return 'there are no fresh seeds'

  def _of(
    self, cell: Cell, part: str, seeds: Sequence[int]
  ) -> np.ndarray | None:
    found = [self._hits[part].get(cell['runs'].get(str(s))) for s in seeds]
    if not found or None in found:
      return None
    number = self._hits['numbers'][part]
    return np.stack([evaluate.unpack(text, number) for text in found])


def judge(board: Board) -> list[Group]:
  """The verdicts, group by group, those with most to go by first."""
  present = {cell['group'] for cell in board.cells if cell['defense']}
  return [_judge_group(board, name) for name in GROUPS if name in present]


def _judge_group(board: Board, group: str) -> Group:
  names = list(
    dict.fromkeys(
      cell['attack']
      for cell in board.cells
      if cell['defense'] and cell['group'] == group
    )
  )
  controls: dict[str, str] = {}
  hits: dict[str, np.ndarray] = {}  # Of the control of each student.
  for student in board.students:
    validation = board.vals(board.controls(student))
    if group != OWN:
      controls[student], hits[student] = GUESS, board.guess()
    elif validation:
      controls[student] = verdict_lib.choose(validation)
      tested = board.tests(board.controls(student))
      hits[student] = tested[controls[student]]
  contests = {
    defense: {
      student: _contest(board, defense, student, names, hits.get(student))
      for student in board.students
    }
    for defense in board.owners
  }
  rows = {
    defense: _row(board, defense, contests, names) for defense in board.owners
  }
  return Group(group, names, controls, rows, hits)


def _contest(
  board: Board,
  defense: str,
  student: str,
  names: Iterable[str],
  control: np.ndarray | None,
) -> verdict_lib.Contest:
  """One student against one defense; its control may be missing."""
  cells = [board.cell(defense, name, student) for name in names]
  cells = [cell for cell in cells if not cell['reason']]
  if control is None:
    tried = tuple(cell['attack'] for cell in cells)
    return verdict_lib.Contest(student, None, {}, tried)
  if len(control) < 2:
    # There is no telling how far one seed may be from another.
    return verdict_lib.Contest(student, None, {})
  tested, validation = board.tests(cells), board.vals(cells)
  chosen = None
  if validation and len(validation) == len(tested):
    chosen = verdict_lib.choose(validation)
  gains = {
    name: verdict_lib.gain(hits, control) for name, hits in tested.items()
  }
  missing = tuple(c['attack'] for c in cells if c['attack'] not in tested)
  return verdict_lib.Contest(student, chosen, gains, missing)


def _row(
  board: Board,
  defense: str,
  contests: Mapping[str, Mapping[str, verdict_lib.Contest]],
  names: Iterable[str],
) -> Row:
  """The verdict on a defense, and what puts it in proportion."""
  mine = contests[defense]
  found = verdict_lib.judge(list(mine.values()), board.rules['margin'])
  if not (found.gain and found.attack and found.student):
    return Row(found, mine)
  thief = board.cell(defense, found.attack, found.student)
  plain, whole, against = contests[NONE][found.student], None, None
  best = _best(plain, found.level)
  if best:
    from_none = plain.gains[best].points
    if from_none > MIN_TO_LEAK:
      whole = from_none
    if defense != NONE:
      other = board.cell(NONE, best, found.student)
      against = _difference(board, thief, other)
  cells = [board.cell(defense, name, found.student) for name in names]
  deaf = [cell for cell in cells if cell['answers'] == 'labels']
  hearing = [thief]
  if not mine[found.student].chosen:
    hearing = cells  # By their order, which nobody chose by the outcome.
  hearing = [cell for cell in hearing if cell['answers'] == 'scores']
  value = None
  if deaf and hearing:
    value = _difference(board, hearing[0], deaf[0])
  return Row(found, mine, whole, against, value)


def _best(contest: verdict_lib.Contest, level: float) -> str | None:
  """The chosen attack; where nothing was chosen, that which decides."""
  if contest.chosen or not contest.gains:
    return contest.chosen
  return min(contest.gains, key=lambda k: (-contest.gains[k].low(level), k))


def _difference(
  board: Board, one: Cell, other: Cell
) -> verdict_lib.Gain | None:
  """Of two thieves; None where one of them lacks a seed."""
  ours, theirs = board.test(one), board.test(other)
  if ours is None or theirs is None:
    return None
  return verdict_lib.gain(ours, theirs)


class Prices(NamedTuple):
  """What every defense costs its owner, by its name.

  Attributes:
    mean: over the fresh seeds; see `evaluate.price`.
    change: of each number to that of no defense, seed by seed.
    times: {batch: median as a multiple of that of no defense}.
  """

  mean: Mapping[str, Mapping[str, float]]
  change: Mapping[str, Mapping[str, float]]
  times: Mapping[str, Mapping[str, float]]


def prices(results: Mapping[str, Any]) -> Prices:
  """What every defense costs, of the content of results.json."""
  found = results['measurements']['prices']
  plain = found.get(NONE, {})
  mean = {name: _means(by_seed.values()) for name, by_seed in found.items()}
  change = {
    name: _means(
      {key: value - plain[seed][key] for key, value in numbers.items()}
      for seed, numbers in by_seed.items()
      if seed in plain
    )
    for name, by_seed in found.items()
  }
  times: dict[str, dict[str, float]] = {}
  for batch, secs in results['measurements']['latency'].items():
    for name, one in secs.items() if NONE in secs else ():
      multiple = one['median'] / secs[NONE]['median']
      times.setdefault(name, {})[batch] = multiple
  return Prices(mean, change, times)


def _means(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
  every = list(numbers)
  keys = every[0] if every else ()
  return {key: float(np.mean([one[key] for one in every])) for key in keys}
