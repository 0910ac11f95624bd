"""A plane of what defenses cost and what leaks, and who has least of both."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import figure as mpl_figure

from undistillable.report import draw

_COLORS = {'distillable': 'bad', 'undistillable': 'good', 'open': 'control'}


class Point(NamedTuple):
  """A defense.

  Attributes:
    name: of it.
    x: what it costs.
    y: what leaks; `low` and `high` are its bounds.
    decision: 'distillable', 'undistillable' or 'open'.
  """

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


def panels(points: Sequence[Point], y_label: str) -> draw.Panels:
  """The plane, and the names of the numbers in it."""
  panel = draw.panel(3.6)
  axes = panel.subplots()
  axes.axhline(0, color=draw.COLORS['line'], linewidth=1.0, zorder=0)
  best = front(points)
  axes.plot(
    [p.x for p in best],
    [p.y for p in best],
    color=draw.COLORS['muted'],
    linewidth=1.0,
    zorder=1,
  )
  for number, point in enumerate(points, 1):
    color = draw.COLORS[_COLORS[point.decision]]
    axes.errorbar(
      point.x,
      point.y,
      yerr=[[point.y - point.low], [point.high - point.y]],
      color=color,
      elinewidth=0.8,
      alpha=0.6,
      zorder=2,
    )
    axes.plot(point.x, point.y, 'o', color=color, markersize=11, zorder=3)
    axes.annotate(
      str(number),
      (point.x, point.y),
      ha='center',
      va='center_baseline',
      color=draw.COLORS['ground'],
      size=7,
      weight='bold',
      zorder=4,
    )
  axes.set_xlabel('Change of the Brier score', loc='left')
  axes.set_ylabel(y_label)
  axes.margins(0.12)
  axes.grid()
  return [panel, _names(points)]


def _names(points: Sequence[Point]) -> mpl_figure.Figure:
  return draw.legend(
    [
      (
        f'{number}  {point.name}',
        {
          'linestyle': 'none',
          'marker': 'o',
          'color': draw.COLORS[_COLORS[point.decision]],
        },
      )
      for number, point in enumerate(points, 1)
    ]
  )
