"""The lines of a sweep, as drawn into one panel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes

from undistillable.analysis import records, stats, style, sweep_series

_DASHES = ('-', '-.', ':')


def draw_panel(
  axes: mpl_axes.Axes,
  chosen: Sequence[sweep_series.Series],
  series: Sequence[sweep_series.Series],
  xs: Sequence[object],
  at: Sequence[float],
  theme: style.Theme,
) -> None:
  """All series of one panel; marks of words side by side."""
  moved = [one for one in chosen if not sweep_series.is_level(one)]
  for one in chosen:
    color, dashes = look(one, series, theme)
    if sweep_series.is_level(one):
      _draw_level(axes, one['points'][0]['accuracy'], color)
    else:
      side = moved.index(one) - (len(moved) - 1) / 2
      side *= 0.14 if sweep_series.are_words(xs) else 0.0
      _draw(axes, one, xs, [place + side for place in at], color, dashes)


def look(
  one: sweep_series.Series,
  series: Sequence[sweep_series.Series],
  theme: style.Theme,
) -> tuple[str, Any]:
  """Colour and dashes, the same for one name in every panel."""
  if one['kind'] == 'control':
    return theme.control, '--'
  index = _index(one, series)
  if one['kind'] == 'normal':
    return theme.normal, _DASHES[index % len(_DASHES)]
  return theme.of('protected', index), '-'


def _index(
  one: sweep_series.Series, series: Sequence[sweep_series.Series]
) -> int:
  """The lowest number that no earlier name has in a panel of this name.

  So a teacher in one panel and its student in another share a colour.
  """
  panels: dict[str, set[str]] = {}
  for other in series:
    same = (other['kind'] == 'normal') == (one['kind'] == 'normal')
    if same and other['kind'] != 'control' and not sweep_series.is_level(other):
      panels.setdefault(other['name'], set()).add(other['panel'])
  indices: dict[str, int] = {}
  for name, shown in panels.items():
    taken = {indices[other] for other in indices if panels[other] & shown}
    indices[name] = min(set(range(len(taken) + 1)) - taken)
  return indices.get(one['name'], 0)


def _draw_level(
  axes: mpl_axes.Axes, accuracy: records.Stat, color: str
) -> None:
  """A line across the whole panel."""
  mean, spread = accuracy['mean'], stats.spread(accuracy)
  axes.axhline(mean, color=color, linestyle='--', linewidth=1.4)
  if spread > 0:
    ends = mean - spread, mean + spread
    axes.axhspan(*ends, color=color, alpha=0.13, linewidth=0)


def _draw(
  axes: mpl_axes.Axes,
  one: sweep_series.Series,
  xs: Sequence[object],
  at: Sequence[float],
  color: str,
  dashes: Any,
) -> None:
  """One line, with a gap where there is no run."""
  by_x = {point['x']: point['accuracy'] for point in one['points']}
  mean = np.array([by_x[x]['mean'] if x in by_x else np.nan for x in xs])
  spread = np.array(
    [stats.spread(by_x[x]) if x in by_x else np.nan for x in xs]
  )
  joined = not sweep_series.are_words(xs)
  axes.plot(
    at,
    mean,
    linestyle=dashes if joined else 'none',
    color=color,
    linewidth=1.6,
    marker='o',
    markersize=4.5,
  )
  if joined and np.nanmax(spread) > 0:
    axes.fill_between(
      at, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0
    )
  _draw_lone(axes, np.array(at), mean, spread, color, joined)
  seeds = [
    (place, accuracy)
    for place, x in zip(at, xs, strict=True)
    for accuracy in by_x.get(x, {'by_seed': {}})['by_seed'].values()
  ]
  axes.plot(*zip(*seeds, strict=True), '.', color=color, alpha=0.45, ms=4)


def _draw_lone(
  axes: mpl_axes.Axes,
  at: np.ndarray,
  mean: np.ndarray,
  spread: np.ndarray,
  color: str,
  joined: bool,
) -> None:
  """The spread as a bar where no neighbour gives it a band."""
  there = np.isfinite(mean)
  beside = np.zeros_like(there)
  if joined:
    beside[1:] |= there[:-1]
    beside[:-1] |= there[1:]
  lone = there & ~beside & (spread > 0)
  if lone.any():
    axes.errorbar(
      at[lone], mean[lone], yerr=spread[lone], fmt='none', ecolor=color
    )
