"""The claims of the article, judged by what has been measured here.

Ma et al. (2021), arXiv:2105.07381. When a claim holds, is said in `READING`; so
are to lose, gain, rise and fall meant.
"""

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import scipy.stats

from experiments import varied
from undistillable.models import __main__ as sizes
from undistillable.report import entries, stats, summary, sweeps
from undistillable.report.stats import plus_minus

Results = Mapping[str, Any]  # The content of a results.json.
# Whether a claim holds, if that can be said, and the numbers.
Found = tuple[bool | None, str] | None

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
_MIN_RANK_CORRELATION = 0.7  # Of 'the more, the more'.


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
  holds = all(_at_most(cost, _MAX_COST) for cost in costs.values())
  return holds, _listed('Points lost:', costs)


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
  return holds, _listed('Against training alone:', gains)


@_claim(
  3,
  'main_table',
  'Students of the nasty teacher lose (in the article 1.72 to 67.57 points).',
)
def nasty_loss(results: Results) -> Found:
  """Every student of a nasty teacher loses."""
  return _all_lose(_differences(results, 'protected'))


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
  level = _paired(alone[strong['name']], alone[weak['name']])
  if stats.verdict(level) != 'gain':
    thefts.sort(key=lambda row: sizes.size(row['model']).parameters)
    weak, strong = thefts[0], thefts[-1]
  more = _paired(weak['difference'], strong['difference'])
  ends = {row['model']: row['difference'] for row in (weak, strong)}
  text = _listed('Against training alone:', ends)
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
  return _all_lose(found)


@_claim(
  6,
  'logits',
  'Logits of a normal teacher have one peak, those of a nasty one several.',
)
def peaks(results: Results) -> Found:
  pair = _measured(results, 'mean_peaks')
  if pair is None:
    return None
  normal, nasty = pair
  rises = stats.verdict(_paired(nasty, normal)) == 'gain'
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
      pair = _measured(results, key, f'_{kind}')
      if pair is None:
        return None
      found[kind, key] = pair
  change = {what: abs(_paired(*pair)['mean']) for what, pair in found.items()}
  alike = change['features', 'neighbor_accuracy'] <= _ALIKE
  strongly = change['logits', 'silhouette'] >= max(
    _STRONGLY, change['features', 'silhouette']
  )

  def told(kind: str, key: str, spec: str) -> str:
    normal, nasty = found[kind, key]
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
  judged = _all_lose(found)
  if judged is None or not costs:
    return judged
  holds, text = judged
  return holds, f'{text} {_listed("Teacher", costs)}'


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
  found = _falls(students, 'omega')
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
  cells = _attacked(results, varied.setting('temperature'))
  return _falls(cells, 'temperature')


@_claim(
  11, 'alpha', 'For every alpha the student loses; the smaller alpha, the less.'
)
def alpha(results: Results) -> Found:
  """The difference falls as alpha rises, and is a loss everywhere."""
  cells = _attacked(results, varied.setting('alpha'))
  found = _falls(cells, 'alpha')
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
  cells = [c for c in _attacked(results, varied.share) if c['effect']]
  if len({cell['x'] for cell in cells}) < 2:
    return None
  holds = all(stats.verdict(cell['effect']) == 'loss' for cell in cells)
  return holds, _listed(
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
  holds = all(_at_most(effect, -_DATA_FREE_LOSS) for effect in effects.values())
  return holds, _listed('Nasty against normal:', effects)


@_claim(
  14,
  'inversion',
  'DeepInversion images of a nasty teacher hold distorted noise and wrong '
  'features.',
)
def inversion(results: Results) -> Found:
  """An independent classifier knows fewer of the nasty images."""
  pair = _measured(results, 'judge_accuracy', number_key='num_images')
  if pair is None:
    return None
  normal, nasty = pair
  holds = stats.verdict(_paired(nasty, normal)) == 'loss'
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


def _attacked(results: Results, value_fn: sweeps.ValueFn) -> list[sweeps.Cell]:
  """The students of the protected teacher, value by value."""
  return [
    cell
    for cell in sweeps.collect(results['runs'], value_fn)
    if cell['role'] == 'student'
    and cell['kind'] == 'protected'
    and cell['difference']
  ]


def _falls(cells: Iterable[sweeps.Cell], name: str) -> tuple[bool, str] | None:
  """Whether the difference of every student falls as x rises, and the numbers.

  As 'Students against training alone, at temperature 1, 4: cnn8 -1.0, -5.0.'
  """
  ordered = sorted(
    (cell for cell in cells if cell['difference']),
    key=lambda c: (entries.natural(c['model']), c['x']),
  )
  lines = entries.grouped(ordered, lambda c: c['model'])
  lines = {model: line for model, line in lines.items() if len(line) > 1}
  if not lines:
    return None
  parts = []
  for model, line in lines.items():
    values = ', '.join(f'{c["difference"]["mean"]:+.1f}' for c in line)
    parts.append(f'{model} {values}')
  xs = ', '.join(f'{c["x"]:g}' for c in next(iter(lines.values())))
  return all(map(_ends_lower, lines.values())), (
    f'Students against training alone, at {name} {xs}: {"; ".join(parts)}.'
  )


def _ends_lower(line: Sequence[Mapping[str, Any]]) -> bool:
  """From the first to the last, and by and large in between."""
  ends = _paired(line[-1]['difference'], line[0]['difference'])
  if stats.verdict(ends) != 'loss':
    return False
  means = [cell['difference']['mean'] for cell in line]
  rank = scipy.stats.spearmanr([cell['x'] for cell in line], means).statistic
  return rank <= -_MIN_RANK_CORRELATION


def _all_lose(found: Mapping[str, stats.Stat]) -> Found:
  if not found:
    return None
  holds = all(stats.verdict(one) == 'loss' for one in found.values())
  return holds, _listed('Against training alone:', found)


def _listed(verb: str, found: Mapping[str, stats.Stat]) -> str:
  told = [f'{name} {plus_minus(one, "+")}' for name, one in found.items()]
  text = f'{verb} {"; ".join(told)}.'
  return text[0].upper() + text[1:]


def _at_most(found: stats.Stat, limit: float) -> bool:
  """Whether a mean is below a limit by more than its standard error."""
  return found['mean'] + stats.standard_error(found) <= limit


def _measured(
  results: Results, key: str, kind: str = '', number_key: str = ''
) -> tuple[stats.Stat, stats.Stat] | None:
  """A number measured of the normal and of the nasty teacher, over seeds.

  Args:
    results: of an experiment.
    key: of the number.
    kind: behind their names.
    number_key: of how many examples it is a percentage, where it is one.
  """
  pair = []
  for name in ('normal', 'nasty'):
    by_seed = results.get('measurements', {}).get(f'{name}{kind}', {})
    errors = [
      stats.proportion_error(found[key], found.get(number_key))
      for found in by_seed.values()
    ]
    values = {seed: found[key] for seed, found in by_seed.items()}
    found = stats.stat(values, stats.mean_error(errors))
    if found is None:
      return None
    pair.append(found)
  normal, nasty = pair
  return normal, nasty


def _paired(one: stats.Stat, other: stats.Stat) -> stats.Stat:
  """one - other, over the seeds that both have."""
  a, b = one['by_seed'], other['by_seed']
  found = stats.stat(
    {seed: a[seed] - b[seed] for seed in a if seed in b},
    stats.add_errors(one.get('sampling_error'), other.get('sampling_error')),
  )
  assert found, 'the runs of one study have their seeds in common'
  return found
