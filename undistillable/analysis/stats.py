"""The mean over seeds, and whether it can be told from nothing."""

import math
import statistics
from collections.abc import Mapping

from undistillable.analysis import records

# Differences that print as 0.0 points are called even, whatever their error.
_PRINTED_ZERO = 0.05


def stat(by_seed: Mapping[int, float]) -> records.Stat | None:
  """{seed: value} -> mean, standard deviation (ddof=1), number of seeds."""
  if not by_seed:
    return None
  values = [by_seed[seed] for seed in sorted(by_seed)]
  return {
    'mean': statistics.fmean(values),
    'std': statistics.stdev(values) if len(values) > 1 else None,
    'num_seeds': len(values),
    'by_seed': {str(seed): by_seed[seed] for seed in sorted(by_seed)},
  }


def verdict(difference: records.Stat | None) -> str | None:
  """'gain', 'loss' or 'even', which is anything within one standard error."""
  if difference is None:
    return None
  mean = difference['mean']
  if abs(mean) < _PRINTED_ZERO or abs(mean) <= standard_error(difference):
    return 'even'
  return 'gain' if mean > 0 else 'loss'


def standard_error(found: records.Stat) -> float:
  """Of the mean over seeds; 0 for one seed, which has none to speak of."""
  std = found['std']
  return 0.0 if std is None else std / math.sqrt(found['num_seeds'])
