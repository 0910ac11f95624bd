"""What the claims are judged by: differences, trends, and their wording."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import scipy.stats

from undistillable.report import entries, stats, sweeps
from undistillable.report.stats import plus_minus

Results = Mapping[str, Any]  # The content of a results.json.
# Whether a claim holds, if that can be said, and the numbers.
Found = tuple[bool | None, str] | None

_MIN_RANK_CORRELATION = 0.7  # Of 'the more, the more'.


def attacked(results: Results, value_fn: sweeps.ValueFn) -> list[sweeps.Cell]:
  """The students of the protected teacher, value by value."""
  return [
    cell
    for cell in sweeps.collect(results['runs'], value_fn)
    if cell['role'] == 'student'
    and cell['kind'] == 'protected'
    and cell['difference']
  ]


def falls(cells: Iterable[sweeps.Cell], name: str) -> tuple[bool, str] | None:
  """Whether the difference of every student falls as x rises, and the numbers.

  As 'Students against training alone, at temperature 1, 4: cnn8 -1.0, -5.0.'
  """
  lines = {}
  ordered = sorted(cells, key=lambda c: (entries.natural(c['model']), c['x']))
  for model, group in itertools.groupby(ordered, key=lambda c: c['model']):
    line = [cell for cell in group if cell['difference']]
    if len(line) > 1:
      lines[model] = line
  if not lines:
    return None
  parts = []
  for model, line in lines.items():
    values = ', '.join(f'{c["difference"]["mean"]:+.1f}' for c in line)
    parts.append(f'{model} {values}')
  xs = ', '.join(f'{c["x"]:g}' for c in next(iter(lines.values())))
  return all(map(_falls, lines.values())), (
    f'Students against training alone, at {name} {xs}: {"; ".join(parts)}.'
  )


def _falls(line: Sequence[sweeps.Cell]) -> bool:
  """From the first to the last, and by and large in between."""
  ends = paired(line[-1]['difference'], line[0]['difference'])
  if stats.verdict(ends) != 'loss':
    return False
  means = [cell['difference']['mean'] for cell in line]
  rank = scipy.stats.spearmanr([cell['x'] for cell in line], means).statistic
  return rank <= -_MIN_RANK_CORRELATION


def all_lose(found: Mapping[str, stats.Stat]) -> Found:
  if not found:
    return None
  holds = all(stats.verdict(one) == 'loss' for one in found.values())
  return holds, listed('Against training alone:', found)


def listed(verb: str, found: Mapping[str, stats.Stat]) -> str:
  told = [f'{name} {plus_minus(one, "+")}' for name, one in found.items()]
  text = f'{verb} {"; ".join(told)}.'
  return text[0].upper() + text[1:]


def at_most(found: stats.Stat, limit: float) -> bool:
  """Whether a mean is below a limit by more than its standard error."""
  return found['mean'] + stats.standard_error(found) <= limit


def measured(
  results: Results, name: str, key: str, number_key: str | None = None
) -> stats.Stat | None:
  """A number of the measurements, over seeds.

  Args:
    results: of an experiment.
    name: of the network or image set.
    key: of the number.
    number_key: of how many examples it is a percentage, where it is one.
  """
  by_seed = results.get('measurements', {}).get(name)
  if not by_seed:
    return None
  errors = [
    stats.proportion_error(found[key], found.get(number_key))
    for found in by_seed.values()
  ]
  values = {seed: found[key] for seed, found in by_seed.items()}
  return stats.stat(values, stats.mean_error(errors))


def paired(one: stats.Stat, other: stats.Stat) -> stats.Stat:
  """one - other, over the seeds that both have."""
  a, b = one['by_seed'], other['by_seed']
  found = stats.stat(
    {seed: a[seed] - b[seed] for seed in a if seed in b},
    stats.add_errors(one.get('sampling_error'), other.get('sampling_error')),
  )
  assert found, 'the runs of one study have their seeds in common'
  return found
