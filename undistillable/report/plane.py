"""A plane of what defenses cost and what leaks, and who has least of both."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


def front(points: Sequence[Point]) -> list[Point]:
  """Those than which no other has less of both, from left to right.

  Example:
    >>> a = Point('a', 0.0, 2.0, 0.0, 0.0, 'open')
    >>> b, c = a._replace(x=1.0, y=1.0), a._replace(x=2.0, y=1.5)
    >>> front([c, b, a]) == [a, b]
    True
  """
  found: list[Point] = []
  for point in sorted(points, key=lambda p: (p.x, p.y, p.name)):
    if not found or point.y < found[-1].y:
      found.append(point)
  return found


def together(places: np.ndarray) -> list[list[int]]:
  """Which of places[N, 2], in shares of a panel, need one label between them.

  Example:
    >>> together(np.array([[0.0, 0.0], [0.5, 0.5], [0.0, 0.02]]))
    [[0, 2], [1]]
  """
  found: list[list[int]] = []
  for index, place in enumerate(places):
    near = [
      members
      for members in found
      if np.any(np.all(np.abs(places[members] - place) < _NEAR, axis=1))
    ]
    found = [members for members in found if members not in near]
    found.append(sorted([index, *(i for members in near for i in members)]))
  return sorted(found)


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
  best = [(point.x, point.y) for point in front(points)]
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
  for members in together(in_axes([(p.x, p.y) for p in points])):
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
