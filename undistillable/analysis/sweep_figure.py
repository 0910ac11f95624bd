"""How accurate teachers and students are as one setting is swept.

The ablations of Ma et al. (2021), arXiv:2105.07381, section 4.3, as small
multiples: one panel a network, all on one scale of accuracy.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import axes as mpl_axes, figure as mpl_figure, lines

from undistillable.analysis import stats, style, sweep_lines, sweep_series

_CHAR_INCHES = 0.08  # Of a letter in a label or legend, on average.


def sweep(
  series: Sequence[sweep_series.Series],
  *,
  x_label: str,
  log_x: bool = False,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure | None:
  """Test accuracy by a setting: mean, band of one deviation, every seed.

  Args:
    series: list of {panel, name, kind, points}. `kind` is 'teacher' (the one
      whose setting is swept; its panel comes first), 'control' (a student
      alone), 'normal' or 'protected' (by the teacher a student learned from,
      or such a teacher). `points` are {x, accuracy}, with `accuracy` as
      `stats.stat` makes it, or None where there is no run yet. A control with
      one point, and any one point at x None, is a level independent of x.
      Words for x make separate marks instead of lines.
    x_label: what is swept.
    log_x: x grows by factors. Its values are then drawn at even distances,
      which unlike a logarithmic axis has a place for 0.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: lay it out for a telephone.
    titled: put the title into the figure.

  Returns:
    A matplotlib Figure, or None if there is no accuracy to show.

  Raises:
    ValueError: for an unknown kind, or two points of a series at one x.
  """
  series = sweep_series.checked(series)
  if not series:
    return None
  xs = sweep_series.values(series)
  at = sweep_series.places(xs, log_x)
  panels = sweep_series.panels(series)
  labels = [sweep_series.text(x) for x in xs]
  words = sweep_series.are_words(xs)
  columns = 1 if narrow else _num_columns(len(panels), at, labels)
  rows = math.ceil(len(panels) / columns)
  width = 4.6 if narrow else min(9.0, 3.4 + 2.0 * columns)
  num_chars = int(width / columns / _CHAR_INCHES) - 4
  with style.use(theme):
    handles, legend_columns = _legend(series, theme, width)
    figure = style.new(
      width,
      0.9
      + (2.5 if rows == 1 else 2.0) * rows
      + 0.2 * math.ceil(len(handles) / legend_columns),
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel, axes in zip(panels, grid, strict=False):
      chosen = [one for one in series if one['panel'] == panel]
      sweep_lines.draw_panel(axes, chosen, series, xs, at, theme)
      _finish(axes, panel, at, labels, num_chars, words)
    for axes in grid[len(panels) :]:
      axes.remove()
    grid[0].set_ylim(*sweep_series.limits(series))
    for axes in grid[: len(panels) : columns]:
      axes.set_ylabel('Test accuracy (%)')
    # Below the first of a row alone: it may run on under its neighbours.
    note = '' if sweep_series.is_to_scale(xs, at) else ' (not to scale)'
    below = textwrap.fill(x_label + note, int(width / 0.07) - 6)
    grid[(rows - 1) * columns].set_xlabel(below, loc='left')
    figure.legend(
      handles=handles, loc='outside lower left', ncols=legend_columns
    )
    if titled:
      heading = textwrap.fill(title(series, x_label), int(width / 0.1))
      style.title(figure, heading, theme)
  return figure


def title(series: Sequence[sweep_series.Series], x_label: str) -> str:
  """What there is to see."""
  alone = all(one['kind'] == 'teacher' for one in series)
  who = 'the teacher' if alone else 'each network'
  return f'Test accuracy of {who} by {x_label}'


def caption(series: Sequence[sweep_series.Series]) -> str:
  """How to read the figure."""
  series = sweep_series.checked(series)
  accuracies = [point['accuracy'] for s in series for point in s['points']]
  text = (
    'Grey: students on their own. Blue: the normal teacher and students who '
    'learned from it. Orange and other colours: protected teachers and the '
    'students of each. A dashed line without points does not depend on the '
    'setting; a gap is a run that is missing. '
  )
  if all(accuracy['num_seeds'] == 1 for accuracy in accuracies):
    text += 'Every point is one seed'
    if any(map(stats.spread, accuracies)):
      text += ', bands one standard error for the number of test images'
    return f'{text}.'
  return (
    f'{text}Large points are means over seeds, bands one standard deviation, '
    'small points single seeds.'
  )


def alt_text(series: Sequence[sweep_series.Series], x_label: str) -> str:
  """The figure in words: where each line starts, ends and is lowest."""
  series = sweep_series.checked(series)
  panels = sweep_series.panels(series)
  parts = [f'Line charts of test accuracy by {x_label}.']
  for panel in panels:
    told = [sweep_series.told(one) for one in series if one['panel'] == panel]
    parts.append(f'{panel}: {"; ".join(told)}.')
  return ' '.join(parts)


def _num_columns(
  num_panels: int, at: Sequence[float], labels: Sequence[str]
) -> int:
  """As many panels beside each other as their labels have room for."""
  inches = 1.5
  for i, step in enumerate(np.diff(at)):
    chars = (len(labels[i]) + len(labels[i + 1])) / 2 + 1
    inches = max(inches, chars * _CHAR_INCHES * (at[-1] - at[0]) * 1.12 / step)
  fit = max(1, min(4, int(8.4 / inches)))
  return math.ceil(num_panels / math.ceil(num_panels / fit))


def _finish(
  axes: mpl_axes.Axes,
  panel: str,
  at: Sequence[float],
  labels: Sequence[str],
  num_chars: int,
  words: bool,
) -> None:
  """The name above, every value of the sweep below, and a faint grid."""
  axes.set_title(textwrap.fill(panel, num_chars), fontweight='bold')
  axes.set_xticks(at, labels)
  if at:
    margin = 0.5 if words else 0.06 * (at[-1] - at[0]) or 0.5
    axes.set_xlim(at[0] - margin, at[-1] + margin)
  axes.tick_params(length=0)
  axes.spines['left'].set_visible(False)
  axes.grid(axis='y')


def _legend(
  series: Sequence[sweep_series.Series], theme: style.Theme, width: float
) -> tuple[list[lines.Line2D], int]:
  """One line for each name, and in how many columns they fit."""
  fit = int((width - 0.6) / _CHAR_INCHES)
  handles = {}
  for one in series:
    color, dashes = sweep_lines.look(one, series, theme)
    level = sweep_series.is_level(one)
    handles[one['name'], color, level] = lines.Line2D(
      [],
      [],
      color=color,
      linestyle='--' if level else dashes,
      marker=None if level else 'o',
      markersize=4.5,
      label=textwrap.fill(one['name'], fit),
    )
  longest = max(len(name) for name, _, _ in handles)
  columns = int(width / (longest * _CHAR_INCHES + 0.6))
  return list(handles.values()), max(1, min(4, columns, len(handles)))
