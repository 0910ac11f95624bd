"""A plane of what defenses cost and what leaks, and who has least of both."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csgraph

from undistillable.report import arena_words as words, draw
from undistillable.report.board import Group, Prices

_NEAR = (0.05, 0.04)  # Of the width and height: as large as a label.
_LINEAR = 0.02  # Within it the axis of prices is linear, beyond logarithmic.
_TICKS = (-0.1, -0.01, 0.0, 0.01, 0.1, 1.0)
_COLORS = {'distillable': 'bad', 'undistillable': 'good', 'open': 'control'}


class Point(NamedTuple):
  """A defense: what it costs, and what leaks, with bounds."""

  name: str
  x: float
  y: float
  low: float
  high: float
  decision: str


def front(places: Mapping[str, tuple[float, float]]) -> list[str]:
  """Those than which no other has less of both numbers, from left to right.

  Example:
    >>> front({'c': (2.0, 1.5), 'a': (0.0, 2.0), 'b': (1.0, 1.0)})
    ['a', 'b']
  """
  found: list[str] = []
  for name in sorted(places, key=lambda name: (*places[name], name)):
    if not found or places[name][1] < places[found[-1]][1]:
      found.append(name)
  return found


def together(places: np.ndarray) -> list[list[int]]:
  """Which of places[N, 2], in shares of a panel, need one label between them.

  Example:
    >>> together(np.array([[0.0, 0.0], [0.5, 0.5], [0.0, 0.02]]))
    [[0, 2], [1]]
  """
  near = np.abs(places[:, None] - places) < _NEAR
  number, labels = csgraph.connected_components(near.all(axis=-1))
  return [np.flatnonzero(labels == i).tolist() for i in range(number)]


def figure(group: Group, paid: Prices) -> draw.Figure:
  """Owner's price against what leaks."""
  points = []
  for name, row in group.rows.items():
    gain, level = row.verdict.gain, row.verdict.level
    if gain and name in paid.change:
      whole = row.whole if group.has_shares and row.whole else 1.0
      price, decision = paid.change[name]['brier'], row.verdict.decision
      ends = gain.low(level) / whole, gain.high() / whole
      points.append(Point(name, price, gain.points / whole, *ends, decision))
  y = 'Gain of the thief (points)'
  meaning = 'The unprotected network gives too little to take shares of'
  if group.has_shares:
    y = 'Leaked share'
    meaning = 'Leaked share: 1 is no protection, 0 is all of it'
  told = '; '.join(
    f'{p.name} Brier {words.signed(p.x, ".3f")}, {y.lower()} {p.y:.2f}'
    for p in points
  )
  caption = (
    'Left is cheap for the owner (beyond 0.02 the axis is logarithmic), down '
    f'is safe. {meaning}. The line joins the defenses than which no other is '
    'both cheaper and safer. Green: undistillable against these attacks, red: '
    'distillable, grey: open. Upright lines are the bounds of the gain.'
  )
  return draw.Figure(
    heading='Price and protection',
    name='plane',
    draw=functools.partial(_panels, points, y) if points else None,
    title='What a defense costs its owner, and what leaks all the same',
    alt=f'Scatter plot. {told}.',
    caption=caption if points else 'There are too few seeds to draw this.',
  )


def _panels(points: Sequence[Point], y_label: str) -> draw.Panels:
  """The plane, and the names of the numbers in it."""
  panel = draw.panel(3.6)
  axes = panel.subplots()
  axes.axhline(0, color=draw.COLORS['line'], linewidth=1.0, zorder=0)
  places = {point.name: (point.x, point.y) for point in points}
  best = [places[name] for name in front(places)]
  axes.plot(
    *zip(*best, strict=True),
    color=draw.COLORS['muted'],
    linewidth=1.0,
    zorder=1,
  )
  colors = [draw.COLORS[_COLORS[point.decision]] for point in points]
  for point, color in zip(points, colors, strict=True):
    axes.errorbar(
      point.x,
      point.y,
      yerr=[[point.y - point.low], [point.high - point.y]],
      color=color,
      elinewidth=0.8,
      alpha=0.6,
      zorder=2,
    )
    axes.plot(point.x, point.y, 'o', color=color, markersize=5, zorder=3)
  axes.locator_params(axis='x', nbins=5)
  if any(abs(point.x) > _LINEAR for point in points):
    # Most cost little, a few fifty times as much.
    axes.set_xscale('symlog', linthresh=_LINEAR, linscale=2.0)
    axes.set_xticks(_TICKS)
    axes.minorticks_off()
  axes.xaxis.set_major_formatter(lambda x, _: words.signed(x, 'g'))
  axes.set(xlabel='Change of the Brier score', ylabel=y_label)
  axes.margins(0.12)
  axes.grid()
  in_axes = (axes.transScale + axes.transLimits).transform
  for members in together(in_axes([*places.values()])):
    last = points[max(members, key=lambda i: points[i].x)]
    axes.annotate(
      ', '.join(str(i + 1) for i in members),
      (last.x, last.y),
      (5, 0),
      textcoords='offset points',
      va='center_baseline',
      size=7,
      weight='bold',
      zorder=4,
    )
  look = {'linestyle': 'none', 'marker': 'o'}
  names = draw.legend(
    (f'{number}  {point.name}', {**look, 'color': color})
    for number, (point, color) in enumerate(zip(points, colors, strict=True), 1)
  )
  return [panel, names]
