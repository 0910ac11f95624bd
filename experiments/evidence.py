"""How each claim of the article is measured: results -> (holds, in words).

Every function takes the content of an experiment's results.json and returns
None where that lacks what it needs. To lose, gain, rise and fall mean: by more
than one standard error of the mean over seeds, seed by seed.
"""

from experiments import comparisons, varied
from undistillable.models import __main__ as sizes
from undistillable.report import entries, stats, summary, sweeps
from undistillable.report.stats import plus_minus

Results = comparisons.Results
Found = comparisons.Found

_MAX_COST = 2.0  # Points; 'at most about 2'.
_MIN_PEAKS = 1.5  # A mean of fewer is one peak, of more several.
_ALIKE = 2.0  # Points of neighbour accuracy.
_STRONGLY = 0.1  # Of a silhouette, which goes from -1 to 1.
_DATA_FREE_LOSS = 5.0  # Points.


def teacher_cost(results: Results) -> Found:
  """Claim 1: every nasty teacher stays within 2 points."""
  costs = {
    row['name']: stats.negative(row['difference'])
    for row in summary.teachers(results['summary'])
    if row['difference']
  }
  if not costs:
    return None
  holds = all(comparisons.at_most(cost, _MAX_COST) for cost in costs.values())
  return holds, comparisons.listed('Points lost:', costs, sign='+')


def normal_gain(results: Results) -> Found:
  """Claim 2: some student of a normal teacher beats the one alone."""
  gains = _differences(results, 'normal')
  if not gains:
    return None
  holds = any(stats.verdict(gain) == 'gain' for gain in gains.values())
  return holds, comparisons.listed('Against training alone:', gains, sign='+')


def nasty_loss(results: Results) -> Found:
  """Claim 3: every student of a nasty teacher loses."""
  return comparisons.all_lose(_differences(results, 'protected'))


def weaker_lose_more(results: Results) -> Found:
  """Claim 4: the weakest student loses more than the strongest.

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
  text = comparisons.listed('Against training alone:', ends, sign='+')
  return stats.verdict(more) == 'loss', text


def self_loss(results: Results) -> Found:
  """Claim 5: a student of its own teacher's architecture loses."""
  owners = summary.teachers(results['summary'])
  models = {row['name']: row['model'] for row in owners}
  found = {
    row['model']: row['difference']
    for row in _thefts(results)
    if models[row['teacher']] == row['model']
  }
  return comparisons.all_lose(found)


def peaks(results: Results) -> Found:
  """Claim 6: one peak on average, or several."""
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


def separation(results: Results) -> Found:
  """Claim 7: features as before, logits not."""
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


def adversaries(results: Results) -> Found:
  """Claim 8: students lose whatever undermined their teacher."""
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
  return judged[
    0
  ], f'{judged[1]} {comparisons.listed("Teacher", costs, sign="+")}'


def omega(results: Results) -> Found:
  """Claim 9: at the largest omega both have lost."""
  cells = sweeps.collect(results['runs'], varied.omega)
  protected = [c for c in cells if c['kind'] == 'protected']
  teachers = [c for c in protected if c['role'] == 'teacher']
  if len(teachers) < 2 or not teachers[-1]['difference']:
    return None
  last = teachers[-1]
  trends = comparisons.trends([c for c in protected if c['role'] == 'student'])
  if not trends:
    return None
  holds = stats.verdict(last['difference']) == 'loss' and all(
    fell for fell, _ in trends.values()
  )
  told = comparisons.told(trends, 'omega')
  return holds, (
    f'At omega {last["x"]:g} the teacher has '
    f'{plus_minus(last["difference"], "+")}. {told}'
  )


def temperature(results: Results) -> Found:
  """Claim 10: the difference falls as tau_S rises."""
  trends = comparisons.trends(
    comparisons.attacked(results, varied.setting('temperature'))
  )
  if not trends:
    return None
  return all(fell for fell, _ in trends.values()), comparisons.told(
    trends, 'temperature'
  )


def alpha(results: Results) -> Found:
  """Claim 11: it falls as alpha rises, and is a loss everywhere."""
  cells = comparisons.attacked(results, varied.setting('alpha'))
  trends = comparisons.trends(cells)
  if not trends:
    return None
  lost = all(stats.verdict(cell['difference']) == 'loss' for cell in cells)
  falls = all(fell for fell, _ in trends.values())
  return lost and falls, comparisons.told(trends, 'alpha')


def fraction(results: Results) -> Found:
  """Claim 12: nasty is worse than normal at every share."""
  cells = [
    c for c in comparisons.attacked(results, varied.share) if c['effect']
  ]
  if len({cell['x'] for cell in cells}) < 2:
    return None
  holds = all(stats.verdict(cell['effect']) == 'loss' for cell in cells)
  return holds, comparisons.listed(
    'Nasty against normal:',
    {f'{c["model"]} at {100 * c["x"]:g} %': c['effect'] for c in cells},
    sign='+',
  )


def data_free(results: Results) -> Found:
  """Claim 13: more than 5 points below the student of the normal teacher.

  Where a student of the normal teacher is not half as good as alone, the theft
  itself did not work, and nothing can be said of a protection from it.
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
  return holds, comparisons.listed('Nasty against normal:', effects, sign='+')


def inversion(results: Results) -> Found:
  """Claim 14: an independent classifier knows fewer of the nasty images."""
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
