"""The mean over seeds, and whether it can be told from nothing."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]  # One trained network, as results.json has it.
Stat = dict[str, Any]  # What `stat` makes: plain JSON.

# Differences that print as 0.0 points are called even, whatever their error.
_PRINTED_ZERO = 0.05


def stat(
  by_seed: Mapping[int, float], sampling_error: float | None = None
) -> Stat | None:
  """{seed: value} -> mean, standard deviation (ddof=1), number of seeds.

  `sampling_error` is the standard error of one value, for being measured on so
  many test images and not on all there could be; None where unknown.
  """
  if not by_seed:
    return None
  by_seed = dict(sorted(by_seed.items()))
  values = list(by_seed.values())
  return {
    'mean': statistics.fmean(values),
    'std': statistics.stdev(values) if len(values) > 1 else None,
    'num_seeds': len(values),
    'sampling_error': sampling_error,
    'by_seed': {str(seed): value for seed, value in by_seed.items()},
  }


def accuracy(entries: Sequence[Entry]) -> Stat | None:
  """The test accuracy of networks, one a seed."""
  return stat(
    {entry['seed']: float(entry['test_accuracy']) for entry in entries},
    mean_error([sampling_error(entry) for entry in entries]),
  )


def difference(pairs: Sequence[tuple[Entry, Entry]]) -> Stat | None:
  """Of the first's test accuracy to the second's; one pair a seed.

  Its sampling error is that of two sets of test images. Both networks see the
  same one, so that it is rather less.
  """
  return stat(
    {
      one['seed']: one['test_accuracy'] - two['test_accuracy']
      for one, two in pairs
    },
    mean_error([add_errors(*map(sampling_error, pair)) for pair in pairs]),
  )


def negative(found: Stat) -> Stat:
  """A loss for a gain: the same with every value turned round."""
  by_seed = {seed: -value for seed, value in found['by_seed'].items()}
  return found | {'mean': -found['mean'], 'by_seed': by_seed}


def verdict(difference: Stat | None) -> str | None:
  """'gain', 'loss' or 'even', which is anything within one standard error."""
  if difference is None:
    return None
  mean = difference['mean']
  if abs(mean) < _PRINTED_ZERO or abs(mean) <= standard_error(difference):
    return 'even'
  return 'gain' if mean > 0 else 'loss'


def standard_error(found: Stat) -> float:
  """Of the mean over seeds; for one seed, that of the test images.

  0 for one seed on an unknown number of images: there is none to speak of.
  """
  std = found['std']
  if std is None:
    return found.get('sampling_error') or 0.0
  return std / math.sqrt(found['num_seeds'])


def spread(found: Stat) -> float:
  """How far a line's band reaches: a deviation over seeds, or the error of one.

  0 for one seed on an unknown number of images.
  """
  return standard_error(found) if found['std'] is None else found['std']


def plus_minus(found: Stat | None, sign: str = '') -> str:
  """'71.6 ± 2.1', without the deviation for one seed."""
  if found is None:
    return '·'
  text = f'{found["mean"]:{sign}.1f}'
  # No '-0.0': a reader takes it for a loss.
  text = text.replace('-0.0', '+0.0' if sign else '0.0')
  return text if found['std'] is None else f'{text} ± {found["std"]:.1f}'


def sampling_error(entry: Entry) -> float | None:
  """That of a network's test accuracy, in percentage points."""
  return proportion_error(entry['test_accuracy'], entry.get('test_examples'))


def proportion_error(percent: float, number: int | None) -> float | None:
  """The standard error of a share found in so many examples, in points."""
  share = percent / 100
  return number and 100 * math.sqrt(share * (1 - share) / number)


def add_errors(one: float | None, other: float | None) -> float | None:
  """The sampling error of a difference; None where one is unknown."""
  return None if one is None or other is None else math.hypot(one, other)


def mean_error(errors: Sequence[float | None]) -> float | None:
  """Of errors; None where one is unknown."""
  known = [error for error in errors if error is not None]
  return (
    statistics.fmean(known) if known and len(known) == len(errors) else None
  )
