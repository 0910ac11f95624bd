"""The series of a sweep: checked, in order, put on an axis and into words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undistillable.analysis import stats

# {'panel', 'name', 'kind', 'points': [{'x', 'accuracy': Stat}, ...]}.
Series = Mapping[str, Any]

KINDS = ('control', 'normal', 'protected', 'teacher')

# Steps more uneven than this are drawn evenly: 1, 2, 4, ..., 20 on a linear
# axis would squeeze half of the points into a tenth of it.
_MAX_STEP_RATIO = 3.0
_MIN_SPAN = 5.0  # Accuracy points: noise must not fill the figure.


def checked(series: Iterable[Series]) -> list[dict[str, Any]]:
  """The series that have points, without the points that have no run."""
  kept = []
  for one in series:
    if one['kind'] not in KINDS:
      raise ValueError(
        f'series {one["name"]!r}: unknown kind {one["kind"]!r}; '
        f'known: {", ".join(KINDS)}'
      )
    points = [point for point in one['points'] if point['accuracy']]
    xs = [point['x'] for point in points]
    if len(set(xs)) < len(xs) or (len(xs) > 1 and None in xs):
      raise ValueError(
        f'series {one["name"]!r}: needs one point for each x, or a single '
        f'one at x None; got x {xs}'
      )
    if points:
      kept.append({**one, 'points': points})
  return kept


def panels(series: Iterable[Series]) -> list[str]:
  """The teachers' panel first, then one a student, as they come."""
  series = list(series)
  first = [one['panel'] for one in series if one['kind'] == 'teacher']
  return list(dict.fromkeys(first + [one['panel'] for one in series]))


def is_level(one: Series) -> bool:
  """Whether a series is one number whatever x is."""
  points = one['points']
  return len(points) == 1 and (
    one['kind'] == 'control' or points[0]['x'] is None
  )


def values(series: Iterable[Series]) -> list[Any]:
  """Every x of the sweep: numbers in order, words as they come."""
  found = dict.fromkeys(
    point['x'] for one in series if not is_level(one) for point in one['points']
  )
  return list(found) if are_words(found) else sorted(found)


def are_words(xs: Iterable[Any]) -> bool:
  """Whether x is a choice, which has no order and no distances."""
  return any(isinstance(x, str) for x in xs)


def places(xs: Sequence[Any], log_x: bool) -> list[float]:
  """Where each x stands: to scale, or evenly where that reads better."""
  if not (log_x or are_words(xs)) and len(xs) > 1:
    steps = [b - a for a, b in zip(xs, xs[1:], strict=False)]
    if max(steps) <= _MAX_STEP_RATIO * min(steps):
      return [float(x) for x in xs]
  return [float(i) for i in range(len(xs))]


def is_to_scale(xs: Sequence[Any], at: Sequence[float]) -> bool:
  """Whether distances on the axis are those of the numbers."""
  if are_words(xs) or len(xs) < 3:
    return True
  return math.isclose(
    (at[1] - at[0]) * (xs[-1] - xs[0]), (at[-1] - at[0]) * (xs[1] - xs[0])
  )


def limits(series: Iterable[Series]) -> tuple[float, float]:
  """From the lowest seed or band to the highest, with some air."""
  ends: list[float] = []
  for one in series:
    for point in one['points']:
      accuracy = point['accuracy']
      mean, spread = accuracy['mean'], stats.spread(accuracy)
      ends += [mean - spread, mean + spread, *accuracy['by_seed'].values()]
  middle = (min(ends) + max(ends)) / 2
  half = max(1.12 * (max(ends) - min(ends)), _MIN_SPAN) / 2
  return middle - half, middle + half


def text(x: Any) -> str:
  """0.05, 4 or a word."""
  return x if isinstance(x, str) else f'{x:g}'


def told(one: Series) -> str:
  """A series in words: its ends and its lowest point."""
  points = one['points']
  if is_level(one):
    return f'{one["name"]} {points[0]["accuracy"]["mean"]:.1f}%'
  if not are_words(point['x'] for point in points):
    points = sorted(points, key=lambda point: point['x'])
    lowest = min(points, key=lambda point: point['accuracy']['mean'])
    ends = (points[0]['x'], lowest['x'], points[-1]['x'])
    points = [point for point in points if point['x'] in ends]
  numbers = [f'{p["accuracy"]["mean"]:.1f}% at {text(p["x"])}' for p in points]
  return f'{one["name"]} {", ".join(numbers)}'
