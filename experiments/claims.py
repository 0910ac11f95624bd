"""The claims of the article, judged by what has been measured here.

Ma et al. (2021), arXiv:2105.07381. A claim holds if it is true by more than
one standard error of the mean over seeds; with one seed, which the evidence
mentions, by more than that of the number of test images. So are to lose, gain,
rise and fall meant.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any

from experiments import comparisons, varied
from undistillable.models import __main__ as sizes
from undistillable.report import entries, stats, summary, sweeps
from undistillable.report.stats import plus_minus

Results = comparisons.Results
Found = comparisons.Found

READING = (
  'A claim holds if it is true by more than one standard error: over the '
  'seeds, or of one seed over the test images. '
  'Mean ± one standard deviation, in percentage points; a difference is taken '
  'seed by seed.'
)

# Of the article: what else a config names has no part in its claims.
_METHODS = ('none', 'nasty', 'scratch', 'kd', 'dafl', 'deep_inversion')
_MAX_COST = 2.0  # Points; 'at most about 2'.
_MIN_PEAKS = 1.5  # A mean of fewer is one peak, of more several.
_ALIKE = 2.0  # Points of neighbour accuracy.
_STRONGLY = 0.1  # Of a silhouette, which goes from -1 to 1.
_DATA_FREE_LOSS = 5.0  # Points.


class Claim(typing.NamedTuple):
  """One claim; None is found where the results lack what it needs."""

  number: int  # In the order of the article.
  text: str
  experiment: str  # Whose results decide it.
  judge: Callable[[Results], Found]


class Verdict(typing.NamedTuple):
  """What became of a claim on one data set."""

  number: int
  text: str
  status: str  # 'holds', 'fails' or 'not run'.
  evidence: str  # The numbers in words, or ''.
  seeds: int  # How many are behind it.


CLAIMS: list[Claim] = []


def judge(
  results: Mapping[str, Mapping[str, Any]], experiment: str | None = None
) -> list[Verdict]:
  """Judges the claims by the results of one data set.

  Args:
    results: {name of an experiment: the content of its results.json}.
    experiment: only the claims that this one decides.

  Returns:
    One verdict a claim, in order.
  """
  return [
    _verdict(claim, results.get(claim.experiment))
    for claim in CLAIMS
    if experiment in (None, claim.experiment)
  ]


def _verdict(claim: Claim, results: Mapping[str, Any] | None) -> Verdict:
  results = results and _of_article(results)
  found = claim.judge(results) if results else None
  if results is None or found is None:
    return Verdict(claim.number, claim.text, 'not run', '', 0)
  holds, text = found
  seeds = len(results['summary']['seeds'])
  if seeds == 1:
    text = f'{text.removesuffix(".")} (one seed).'
  status = {True: 'holds', False: 'fails', None: 'not run'}[holds]
  return Verdict(claim.number, claim.text, status, text, seeds)


def _of_article(results: Mapping[str, Any]) -> dict[str, Any]:
  """The results of the article's defense and attacks alone."""
  owners = {
    run['id']: run['method'] in _METHODS
    for run in results['runs']
    if run['role'] == 'teacher'
  }
  runs = [
    run
    for run in results['runs']
    if run['method'] in _METHODS and owners.get(run['teacher'], True)
  ]
  return {**results, 'runs': runs, 'summary': summary.summarize(runs)}


def _claim(
  number: int, experiment: str, text: str
) -> Callable[[Callable[[Results], Found]], Callable[[Results], Found]]:
  """Adds a function to `CLAIMS` as the judge of one."""

  def add(judge: Callable[[Results], Found]) -> Callable[[Results], Found]:
    CLAIMS.append(Claim(number, text, experiment, judge))
    return judge

  return add


@_claim(
  1, 'main_table', 'A nasty teacher loses at most about 2 points of accuracy.'
)
def teacher_cost(results: Results) -> Found:
  """Every nasty teacher stays within 2 points."""
  costs = {
    row['name']: stats.negative(row['difference'])
    for row in summary.teachers(results['summary'])
    if row['difference']
  }
  if not costs:
    return None
  holds = all(comparisons.at_most(cost, _MAX_COST) for cost in costs.values())
  return holds, comparisons.listed('Points lost:', costs)


@_claim(
  2,
  'main_table',
  'Students of the normal teacher gain up to 4 points over training alone.',
)
def normal_gain(results: Results) -> Found:
  """Some student of a normal teacher beats the one alone."""
  gains = _differences(results, 'normal')
  if not gains:
    return None
  holds = any(stats.verdict(gain) == 'gain' for gain in gains.values())
  return holds, comparisons.listed('Against training alone:', gains)


@_claim(
  3,
  'main_table',
  'Students of the nasty teacher lose (in the article 1.72 to 67.57 points).',
)
def nasty_loss(results: Results) -> Found:
  """Every student of a nasty teacher loses."""
  return comparisons.all_lose(_differences(results, 'protected'))


@_claim(4, 'main_table', 'Weaker students lose far more than stronger ones.')
def weaker_lose_more(results: Results) -> Found:
  """The weakest student loses more than the strongest.

  Weak is who is less accurate alone, or smaller where that is level.
  """
  alone = {
    row['name']: row['accuracy']
    for row in results['summary']['rows']
    if row['method'] == entries.CONTROL
  }
  thefts = [row for row in _thefts(results) if row['name'] in alone]
  if len({row['model'] for row in thefts}) < 2:
    return None
  thefts.sort(key=lambda row: alone[row['name']]['mean'])
  weak, strong = thefts[0], thefts[-1]
  level = comparisons.paired(alone[strong['name']], alone[weak['name']])
  if stats.verdict(level) != 'gain':
    thefts.sort(key=lambda row: sizes.size(row['model']).parameters)
    weak, strong = thefts[0], thefts[-1]
  more = comparisons.paired(weak['difference'], strong['difference'])
  ends = {row['model']: row['difference'] for row in (weak, strong)}
  text = comparisons.listed('Against training alone:', ends)
  return stats.verdict(more) == 'loss', text


@_claim(
  5,
  'main_table',
  'It also holds for a student of the architecture of the teacher.',
)
def self_loss(results: Results) -> Found:
  owners = summary.teachers(results['summary'])
  models = {row['name']: row['model'] for row in owners}
  found = {
    row['model']: row['difference']
    for row in _thefts(results)
    if models[row['teacher']] == row['model']
  }
  return comparisons.all_lose(found)


@_claim(
  6,
  'logits',
  'Logits of a normal teacher have one peak, those of a nasty one several.',
)
def peaks(results: Results) -> Found:
  normal, nasty = (
    comparisons.measured(results, name, 'mean_peaks')
    for name in ('normal', 'nasty')
  )
  if normal is None or nasty is None:
    return None
  rises = stats.verdict(comparisons.paired(nasty, normal)) == 'gain'
  holds = normal['mean'] < _MIN_PEAKS <= nasty['mean'] and rises
  return holds, (
    f'Peaks an image: normal {plus_minus(normal)}, nasty {plus_minus(nasty)}.'
  )


@_claim(
  7,
  'embedding',
  'Features of both teachers separate the classes alike; the logits of the '
  'nasty one change strongly.',
)
def separation(results: Results) -> Found:
  found: dict[tuple[str, str], tuple[stats.Stat, stats.Stat]] = {}
  for kind in ('features', 'logits'):
    for key in ('neighbor_accuracy', 'silhouette'):
      normal = comparisons.measured(results, f'normal_{kind}', key)
      nasty = comparisons.measured(results, f'nasty_{kind}', key)
      if normal is None or nasty is None:
        return None
      found[kind, key] = nasty, normal
  change = {
    what: abs(comparisons.paired(*pair)['mean']) for what, pair in found.items()
  }
  alike = change['features', 'neighbor_accuracy'] <= _ALIKE
  strongly = change['logits', 'silhouette'] >= max(
    _STRONGLY, change['features', 'silhouette']
  )

  def told(kind: str, key: str, spec: str) -> str:
    nasty, normal = found[kind, key]
    return f'{kind} {normal["mean"]:{spec}} to {nasty["mean"]:{spec}}'

  return alike and strongly, (
    'From normal to nasty: silhouette of '
    f'{told("features", "silhouette", ".2f")}, of '
    f'{told("logits", "silhouette", ".2f")}; neighbours of the same class in '
    f'{told("features", "neighbor_accuracy", ".1f")} %.'
  )


@_claim(8, 'adversary', 'Adversaries of other architectures work too.')
def adversaries(results: Results) -> Found:
  """Students lose whatever undermined their teacher."""
  cells = sweeps.collect(results['runs'], varied.adversary)
  own = {
    cell['model']
    for cell in cells
    if cell['role'] == 'teacher' and cell['kind'] == 'protected'
  }
  others = [cell for cell in cells if cell['x'] not in {None, *own}]
  found = {
    f'{cell["model"]} (adversary {cell["x"]})': cell['difference']
    for cell in others
    if cell['role'] == 'student' and cell['difference']
  }
  costs = {
    f'with {cell["x"]}': cell['difference']
    for cell in others
    if cell['role'] == 'teacher' and cell['difference']
  }
  judged = comparisons.all_lose(found)
  if judged is None or not costs:
    return judged
  holds, text = judged
  return holds, f'{text} {comparisons.listed("Teacher", costs)}'


@_claim(
  9,
  'omega',
  'Omega from 0 to 0.1 trades the accuracy of the teacher against the loss '
  'of the student.',
)
def omega(results: Results) -> Found:
  """At the largest omega both have lost."""
  cells = sweeps.collect(results['runs'], varied.of_owner('omega'))
  protected = [c for c in cells if c['kind'] == 'protected']
  teachers = [c for c in protected if c['role'] == 'teacher']
  if len(teachers) < 2 or not teachers[-1]['difference']:
    return None
  last = teachers[-1]
  students = [c for c in protected if c['role'] == 'student']
  found = comparisons.falls(students, 'omega')
  if found is None:
    return None
  falls, told = found
  return stats.verdict(last['difference']) == 'loss' and falls, (
    f'At omega {last["x"]:g} the teacher has '
    f'{plus_minus(last["difference"], "+")}. {told}'
  )


@_claim(
  10,
  'temperature',
  'The larger the temperature of distillation, the more the student loses.',
)
def temperature(results: Results) -> Found:
  """The difference falls as tau_S rises."""
  cells = comparisons.attacked(results, varied.setting('temperature'))
  return comparisons.falls(cells, 'temperature')


@_claim(
  11, 'alpha', 'For every alpha the student loses; the smaller alpha, the less.'
)
def alpha(results: Results) -> Found:
  """The difference falls as alpha rises, and is a loss everywhere."""
  cells = comparisons.attacked(results, varied.setting('alpha'))
  found = comparisons.falls(cells, 'alpha')
  if found is None:
    return None
  falls, told = found
  lost = all(stats.verdict(cell['difference']) == 'loss' for cell in cells)
  return lost and falls, told


@_claim(
  12,
  'fraction',
  'For every share of the samples the nasty teacher is worse than the normal '
  'one.',
)
def fraction(results: Results) -> Found:
  cells = [
    c for c in comparisons.attacked(results, varied.share) if c['effect']
  ]
  if len({cell['x'] for cell in cells}) < 2:
    return None
  holds = all(stats.verdict(cell['effect']) == 'loss' for cell in cells)
  return holds, comparisons.listed(
    'Nasty against normal:',
    {f'{c["model"]} at {100 * c["x"]:g} %': c['effect'] for c in cells},
  )


@_claim(
  13,
  'data_free',
  'DAFL from a nasty teacher gives a student more than 5 points worse than '
  'from a normal one.',
)
def data_free(results: Results) -> Found:
  """Decides nothing where the theft itself did not work.

  That is where a student of the normal teacher is not half as good as alone.
  """
  rows = [r for r in results['summary']['rows'] if r['method'] == 'dafl']
  effects = {row['model']: row['effect'] for row in rows if row['effect']}
  if not effects:
    return None
  for row in rows:
    if row['kind'] == 'normal' and row['difference']:
      here = row['accuracy']['mean']
      alone = here - row['difference']['mean']
      if here < alone / 2:
        return None, (
          f'{row["model"]} has {here:.1f} % from the normal teacher and '
          f'{alone:.1f} % alone: too little was stolen.'
        )
  holds = all(
    comparisons.at_most(effect, -_DATA_FREE_LOSS) for effect in effects.values()
  )
  return holds, comparisons.listed('Nasty against normal:', effects)


@_claim(
  14,
  'inversion',
  'DeepInversion images of a nasty teacher hold distorted noise and wrong '
  'features.',
)
def inversion(results: Results) -> Found:
  """An independent classifier knows fewer of the nasty images."""
  normal, nasty = (
    comparisons.measured(results, name, 'judge_accuracy', 'num_images')
    for name in ('normal', 'nasty')
  )
  if normal is None or nasty is None:
    return None
  holds = stats.verdict(comparisons.paired(nasty, normal)) == 'loss'
  return holds, (
    'An independent classifier agrees with the labels of '
    f'{plus_minus(normal)} % of the images of the normal teacher, and of '
    f'{plus_minus(nasty)} % of those of the nasty one.'
  )


def _thefts(results: Results, kind: str = 'protected') -> list[summary.Row]:
  """Students of teachers of a kind that are compared with themselves alone."""
  return [
    row
    for row in results['summary']['rows']
    if row['teacher'] and row['kind'] == kind and row['difference']
  ]


def _differences(results: Results, kind: str) -> dict[str, stats.Stat]:
  """{student and teacher: difference to the student alone}."""
  owners = summary.teachers(results['summary'])
  many = len({row['model'] for row in owners}) > 1
  return {
    f'{row["model"]} from {row["teacher"]}' if many else row['model']: row[
      'difference'
    ]
    for row in _thefts(results, kind)
  }
