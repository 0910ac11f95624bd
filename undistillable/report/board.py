"""The board of the arena: who gained what, and what became of each defense.

All of it is computed anew from results.json: which run is in which cell, and
which test images each student is right about.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from undistillable.report import verdict as verdict_lib
from undistillable.training import evaluate

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
_LONGEST = 30  # Characters of settings that a table has room for.
_MAX_FLIPPED = 0.5  # Percent; what keeps the top class flips less by rounding.

# {'defense', 'attack', 'student', 'group', 'answers', 'mode', 'shared',
# 'bound', 'reason', 'runs': {seed: id}}; the defense of a control is None.
Cell = Mapping[str, Any]


class Row(NamedTuple):
  """What became of one defense in one group of attacks."""

  verdict: verdict_lib.Verdict
  contests: Mapping[str, verdict_lib.Contest]  # By student.
  # The gain of the same student from the unprotected network, in points; None
  # where it is too little to take a share of.
  whole: float | None = None
  # Of the deciding thief, over the one chosen against no defense.
  against_none: verdict_lib.Gain | None = None
  # Of him, over who hears top classes alone; None where he does. Of whom
  # validation did not choose, the first attack that hears scores.
  score_value: verdict_lib.Gain | None = None

  @property
  def leaked(self) -> float | None:
    """Share of the gain from the unprotected network; None without one."""
    if self.whole is None or self.verdict.gain is None:
      return None
    return self.verdict.gain.points / self.whole


class Group(NamedTuple):
  """What attacks of one kind came to."""

  name: str  # Of `GROUPS`.
  attacks: Sequence[str]  # In order.
  thieves: Sequence[str]  # Those of them that decide; others are bounds.
  controls: Mapping[str, str]  # The chosen one, by student.
  rows: Mapping[str, Row]  # By defense.
  alone: Mapping[str, np.ndarray]  # bool[R, n] by student: of its control.

  @property
  def title(self) -> str:
    """Who they are."""
    return GROUPS[self.name]

  @property
  def none(self) -> verdict_lib.Verdict:
    """On the unprotected network."""
    return self.rows[NONE].verdict

  def defenses(self, decision: str | None = None, but: str = NONE) -> list[str]:
    """The names of all but one, or of those of which this was decided."""
    return [
      name
      for name, row in self.rows.items()
      if name not in (NONE, but) and decision in (None, row.verdict.decision)
    ]

  @property
  def has_shares(self) -> bool:
    """Whether the unprotected network gives each deciding thief enough."""
    rows = [row for row in self.rows.values() if row.verdict.gain]
    return bool(rows) and all(row.whole is not None for row in rows)


class Prices(NamedTuple):
  """What every defense costs its owner, by its name; see `evaluate.price`."""

  mean: Mapping[str, Mapping[str, float]]  # Over the fresh seeds.
  change: Mapping[str, Mapping[str, float]]  # To no defense, seed by seed.
  # {batch: median, and 95th percentile, as multiples of the median of none}.
  times: Mapping[str, Mapping[str, float]]
  tails: Mapping[str, Mapping[str, float]]
  # Seconds of all networks that are trained for it, over those of the normal
  # one; of those that are known.
  training: Mapping[str, float]
  # {'networks', 'bytes', 'again', 'shuffled'}; see `arena.measure_fn`. The
  # first arenas did not measure them.
  serving: Mapping[str, Mapping[str, float | None]]


class Board:
  """The cells of the arena and the hits in them."""

  def __init__(self, results: Mapping[str, Any]):
    found = results['measurements']
    self.rules = found['rules']  # margin, choose_seeds and fresh_seeds.
    self.owners: list[str] = found['board']['owners']  # Names of defenses.
    # Of an audit, the row that it is about: `NONE`, or who serves the network.
    self.audited: str | None = found.get('audited')
    self.cells: list[Cell] = found['board']['cells']
    # The first arenas do not say who knows what no thief does.
    self.bounds = {c['attack'] for c in self.cells if c.get('bound')}
    self.students = list(dict.fromkeys(cell['student'] for cell in self.cells))
    self.num_images = found['hits']['numbers']['test']
    self.entries = {entry['id']: entry for entry in results['runs']}
    self._results = results
    self._hits = found['hits']
    self._by_key = {
      (c['defense'], c['attack'], c['student']): c for c in self.cells
    }

  @functools.cached_property
  def groups(self) -> list[Group]:
    """The verdicts, group by group, those with most to go by first."""
    return [_group(self, name) for name in GROUPS if self.attacks(name)]

  @functools.cached_property
  def paid(self) -> Prices:
    """What every defense costs."""
    return _prices(self._results, _training(self))

  @functools.cached_property
  def labels(self) -> dict[str, str]:
    """{name: what a table calls it}, of defenses, attacks and controls.

    Long settings are '…' there, with a number where one method has several.
    """
    names = [
      *self.owners,
      *dict.fromkeys(cell['attack'] for cell in self.cells),
    ]
    long: dict[str, list[str]] = {}
    for name in names:
      method, _, settings = name.partition(':')
      if len(settings) > _LONGEST:
        long.setdefault(method, []).append(name)
    labels = {name: name for name in names}
    for method, alike in long.items():
      for number, name in enumerate(alike, 1):
        labels[name] = f'{method}:… {number if len(alike) > 1 else ""}'.rstrip()
    return labels

  @property
  def dataset(self) -> str:
    """The name of the data set."""
    return next(iter(self.entries.values()))['dataset']

  def cell(self, defense: str, attack: str, student: str) -> Cell:
    """One of them; every attack has one for every defense and student."""
    return self._by_key[defense, attack, student]

  def test(self, cell: Cell) -> np.ndarray | None:
    """bool[R, n] of the fresh seeds; None where one of them is missing."""
    return self._of(cell, 'test', self.rules['fresh_seeds'])

  def tests(self, cells: Iterable[Cell]) -> dict[str, np.ndarray]:
    """{attack: `test`} of those that have it."""
    found = {cell['attack']: self.test(cell) for cell in cells}
    return {name: hits for name, hits in found.items() if hits is not None}

  def vals(self, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
    """{attack: bool[R, m]} of the seeds to choose on, on held-out images.

    Of those that have all, and `tests`: others could not be chosen.
    """
    seeds, found = self.rules['choose_seeds'], {}
    for cell in cells:
      hits = self._of(cell, 'val', seeds)
      if hits is not None and self.test(cell) is not None:
        found[cell['attack']] = hits
    return found

  def teachers(self, defense: str) -> dict[str, Mapping[str, Any]]:
    """{seed: the entry of its network}, of those of whom somebody tells."""
    found: dict[str, Mapping[str, Any]] = {}
    for cell in self.cells:
      # Of a shared run it is the network without the defense.
      if cell['defense'] == defense and not cell['shared']:
        for seed, run in cell['runs'].items():
          owner = self.entries.get(run, {}).get('teacher')
          if owner in self.entries:
            found.setdefault(seed, self.entries[owner])
    return found

  def controls(self, student: str) -> list[Cell]:
    """What a student can do without the owner."""
    return [
      cell
      for cell in self.cells
      if cell['student'] == student and cell['defense'] is None
    ]

  def attacks(self, group: str | None = None) -> list[str]:
    """The names of all, or of those of a group, in order."""
    cells = [c for c in self.cells if c['defense']]
    return list(
      dict.fromkeys(c['attack'] for c in cells if group in (None, c['group']))
    )

  def guess(self) -> np.ndarray:
    """bool[R, n] of whoever always says the likeliest class, at any seed."""
    hits = evaluate.unpack(self._hits['guess'], self.num_images)
    return np.tile(hits, (len(self.rules['fresh_seeds']), 1))

  def reason(self, cell: Cell) -> str:
    """Why a cell has no number, or ''."""
    if cell['reason'] or self.test(cell) is not None:
      return cell['reason']
    if self.moves_top(cell):
      return (
        f'{cell["defense"]} declares KEEPS_TOP, but its top class is another '
        f'than that of the network before it for '
        f'{self._flipped(cell["defense"]):.1f} % of the test images, so that '
        'this thief would not be told the same; take the line away'
      )
    for seed in self.rules['fresh_seeds']:
      entry = self.entries.get(cell['runs'].get(str(seed)), {})
      if entry.get('status') != 'finished':
        return f'seed {seed} is {self._told(entry)}'
    return 'there are no fresh seeds'

  def _told(self, entry: Mapping[str, Any]) -> str:
    """'diverged: why', of a run that is skipped with the reason for that."""
    told = entry.get('status', 'missing')
    if reason := entry.get('reason', ''):
      told += f': {reason}'
    for parent in entry.get('parents', {}).values():
      found = self.entries.get(parent, {})
      if told.startswith('skipped') and found.get('status') != 'finished':
        return f'skipped, since a network that it needs {self._told(found)}'
    return told

  def moves_top(self, cell: Cell) -> bool:
    """Whether a run is shared that hears what its defense changes.

    Of a near tie, either class may be the top one.
    """
    shared = cell['shared'] and cell['answers'] == 'labels'
    return shared and self._flipped(cell['defense']) > _MAX_FLIPPED

  def _flipped(self, defense: str) -> float:
    """Percent of the test images, of the worst seed."""
    prices = self._results['measurements']['prices'].get(defense, {})
    return max((one['flipped'] for one in prices.values()), default=0.0)

  def _of(
    self, cell: Cell, part: str, seeds: Sequence[int]
  ) -> np.ndarray | None:
    found = [self._hits[part].get(cell['runs'].get(str(s))) for s in seeds]
    if not found or None in found or self.moves_top(cell):
      return None
    number = self._hits['numbers'][part]
    return np.stack([evaluate.unpack(text, number) for text in found])


def _group(board: Board, group: str) -> Group:
  names = board.attacks(group)
  thieves = [name for name in names if name not in board.bounds]
  controls: dict[str, str] = {}
  hits: dict[str, np.ndarray] = {}  # Of the control of each student.
  for student in board.students:
    cells = board.controls(student)
    validation = board.vals(cells)
    if group != OWN:
      controls[student], hits[student] = GUESS, board.guess()
    elif validation:
      controls[student] = verdict_lib.choose(validation)
      hits[student] = board.tests(cells)[controls[student]]
  contests = {
    defense: {
      student: _contest(
        student,
        board,
        [board.cell(defense, name, student) for name in names],
        hits.get(student),
      )
      for student in board.students
    }
    for defense in board.owners
  }
  rows = {
    defense: _row(board, defense, mine, contests[NONE], thieves)
    for defense, mine in contests.items()
  }
  return Group(group, names, thieves, controls, rows, hits)


def _contest(
  student: str,
  board: Board,
  cells: Sequence[Cell],
  control: np.ndarray | None,
) -> verdict_lib.Contest:
  """One student against one defense; its control may be missing."""
  thieves = [
    cell
    for cell in cells
    if not cell['reason'] and cell['attack'] not in board.bounds
  ]
  tried = [cell['attack'] for cell in thieves]
  if control is None:
    return verdict_lib.Contest(student, None, {}, tried)
  if len(control) < 2:
    # There is no telling how far one seed may be from another.
    return verdict_lib.Contest(student, None, {})
  found = {
    name: verdict_lib.gain(hits, control)
    for name, hits in board.tests(cells).items()
  }
  bounds = {k: found.pop(k) for k in [*found] if k in board.bounds}
  validation, chosen = board.vals(thieves), None
  if validation and len(validation) == len(found):
    chosen = verdict_lib.choose(validation)
  missing = [name for name in tried if name not in found]
  return verdict_lib.Contest(student, chosen, found, missing, bounds)


def _row(
  board: Board,
  defense: str,
  mine: Mapping[str, verdict_lib.Contest],
  of_none: Mapping[str, verdict_lib.Contest],
  names: Iterable[str],
) -> Row:
  """The verdict on a defense, and what puts it in proportion."""
  found = verdict_lib.judge(list(mine.values()), board.rules['margin'])
  if not found.gain:
    return Row(found, mine)
  student = found.student
  thief = board.cell(defense, found.attack, student)
  plain, whole, against = of_none[student], None, None
  # The chosen attack; where nothing was chosen, that which decides.
  best = plain.chosen or min(
    plain.gains,
    key=lambda k: (-plain.gains[k].low(found.level), k),
    default=None,
  )
  if best:
    from_none = plain.gains[best].points
    if from_none > MIN_TO_LEAK:
      whole = from_none
    if defense != NONE:
      against = _difference(board, thief, board.cell(NONE, best, student))
  cells = [board.cell(defense, name, student) for name in names]
  deaf = [cell for cell in cells if cell['answers'] == 'labels']
  # Of several by their order, which nobody chose by the outcome.
  hearing = [thief] if mine[student].chosen else cells
  hearing = [cell for cell in hearing if cell['answers'] == 'scores']
  value = None
  if deaf and hearing:
    value = _difference(board, hearing[0], deaf[0])
  return Row(found, mine, whole, against, value)


def _difference(
  board: Board, one: Cell, other: Cell
) -> verdict_lib.Gain | None:
  """Of two thieves; None where one of them lacks a seed."""
  ours, theirs = board.test(one), board.test(other)
  if ours is None or theirs is None:
    return None
  if one['runs'] == other['runs']:  # The same networks: nothing was drawn.
    return verdict_lib.Gain(0.0, 0.0, 0.0, 1.0, len(ours))
  return verdict_lib.gain(ours, theirs)


def _training(board: Board) -> dict[str, float]:
  """{defense: what its training takes}, of those of which it is known."""

  def needed(network: str) -> set[str]:
    parents = board.entries.get(network, {}).get('parents', {})
    return {network}.union(*map(needed, parents.values()))

  def secs(networks: Iterable[str]) -> float:
    """NaN where it is not known."""
    found = [board.entries.get(one, {}).get('seconds') for one in networks]
    return math.nan if None in found else math.fsum(found)

  fresh = set(map(str, board.rules['fresh_seeds']))
  normal = board.teachers(NONE)
  found = {}
  for name in board.owners:
    teachers = board.teachers(name)
    seeds = fresh & teachers.keys() & normal.keys()
    ours = sum(secs(needed(teachers[seed]['id'])) for seed in seeds)
    plain = secs(normal[seed]['id'] for seed in seeds)
    if plain > 0 and math.isfinite(ours):
      found[name] = ours / plain
  return found


def _prices(
  results: Mapping[str, Any], training: Mapping[str, float]
) -> Prices:
  found = results['measurements']['prices']
  plain = found.get(NONE, {})
  mean = {name: _means(by_seed.values()) for name, by_seed in found.items()}
  change = {
    name: _means(
      {k: v - plain[seed][k] for k, v in numbers.items() if k in plain[seed]}
      for seed, numbers in by_seed.items()
      if seed in plain
    )
    for name, by_seed in found.items()
  }
  times: dict[str, dict[str, float]] = {}
  tails: dict[str, dict[str, float]] = {}
  for batch, secs in results['measurements']['latency'].items():
    for name, one in secs.items() if NONE in secs else ():
      for kept, key in ((times, 'median'), (tails, 'p95')):
        multiple = one[key] / secs[NONE]['median']
        kept.setdefault(name, {})[batch] = multiple
  serving = results['measurements'].get('serving', {})
  return Prices(mean, change, times, tails, training, serving)


def _means(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
  """Of what all of them have."""
  every = list(numbers)
  return {
    key: float(np.mean([one[key] for one in every]))
    for key in (every[0] if every else ())
    if all(key in one for one in every)
  }
