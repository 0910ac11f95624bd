"""How many peaks the answers of each teacher have, over a whole test set."""

import statistics as statistics_lib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes, figure as mpl_figure

from undistillable.analysis import style

# {name of a teacher: what `peaks.statistics` returned for each seed}.
ByName = Mapping[str, Sequence[Mapping[str, Any]]]

_NUM_BARS = 5  # The last one is of this many peaks or more.
_LABELS = ('1', '2', '3', '4', '5 or more')


def peaks(
  statistics_by_name: ByName,
  *,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure | None:
  """Share of the test images by number of peaks, in bars side by side.

  Args:
    statistics_by_name: {'normal': [what `peaks.statistics` returns, one a
      seed], 'nasty': [...]}. 'normal' is blue, others are protected teachers.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: lay it out for a telephone.
    titled: put the title into the figure.

  Returns:
    A matplotlib Figure, or None if there are no statistics.
  """
  shares = {name: _shares(s) for name, s in statistics_by_name.items() if s}
  if not shares:
    return None
  with style.use(theme):
    figure = style.new(4.6 if narrow else 7.2, 3.5)
    axes = figure.subplots()
    protected = [name for name in shares if name != 'normal']
    width = 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
      kind = 'normal' if name == 'normal' else 'protected'
      index = protected.index(name) if name in protected else 0
      at = np.arange(_NUM_BARS) + (i - (len(shares) - 1) / 2) * width
      _draw(axes, at, values, 0.94 * width, theme.of(kind, index), name, theme)
    axes.set_xticks(range(_NUM_BARS), _LABELS)
    axes.set_xlabel('Peaks in the answer to an image', loc='left')
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel('Test images (%)')
    axes.tick_params(length=0)
    axes.spines['left'].set_visible(False)
    axes.grid(axis='y')
    figure.legend(loc='outside lower left', ncols=2 if narrow else 4)
    if titled:
      style.title(figure, title(statistics_by_name, narrow), theme)
  return figure


def title(statistics_by_name: ByName, narrow: bool = False) -> str:
  """What there is to see."""
  told = [
    f'{name} {_mean(s, "mean_peaks"):.1f}'
    for name, s in statistics_by_name.items()
    if s
  ]
  lead = 'Peaks an image:' if narrow else 'Peaks in the answer to an image:'
  return f'{lead} {", ".join(told)}'


def caption() -> str:
  """How to read the figure."""
  return (
    'A peak is a class at least half as far above the mean logit as the '
    'highest. Bars are means over seeds, circles single seeds. A student '
    'learns from all peaks, so false ones mislead it.'
  )


def alt_text(statistics_by_name: ByName) -> str:
  """The figure in words, with every bar's number."""
  parts = ['Bars of the share of test images by number of peaks.']
  for name, statistics in statistics_by_name.items():
    if statistics:
      shares = _shares(statistics).mean(axis=0)
      told = ', '.join(
        f'{label}: {share:.1f}%'
        for label, share in zip(_LABELS, shares, strict=True)
      )
      mean = _mean(statistics, 'mean_peaks')
      parts.append(f'{name} teacher, {mean:.1f} on average: {told}.')
  return ' '.join(parts)


def _shares(statistics: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Percent of images with 1, 2, 3, 4, 5 or more peaks: float[seeds, 5]."""
  rows = np.zeros((len(statistics), _NUM_BARS))
  for row, one in zip(rows, statistics, strict=True):
    histogram = np.array(one['histogram'], float)
    first = histogram[: _NUM_BARS - 1]
    row[: len(first)] = first
    row[-1] = histogram[_NUM_BARS - 1 :].sum()
    row *= 100 / histogram.sum()
  return rows


def _mean(statistics: Sequence[Mapping[str, Any]], key: str) -> float:
  return statistics_lib.fmean(one[key] for one in statistics)


def _draw(
  axes: mpl_axes.Axes,
  at: np.ndarray,
  shares: np.ndarray,
  width: float,
  color: str,
  name: str,
  theme: style.Theme,
) -> None:
  """One teacher's bars, with a circle for each of several seeds."""
  mean = shares.mean(axis=0)
  axes.bar(at, mean, width, color=color, linewidth=0, label=f'{name} teacher')
  for x, height, top in zip(at, mean, shares.max(axis=0), strict=True):
    axes.annotate(
      f'{height:.0f}',
      (x, top),
      (0, 4),
      textcoords='offset points',
      ha='center',
      size=8.5,
    )
  if len(shares) > 1:
    axes.plot(
      np.broadcast_to(at, shares.shape).ravel(),
      shares.ravel(),
      'o',
      markersize=3.2,
      markerfacecolor=theme.surface,
      markeredgecolor=theme.ink,
      markeredgewidth=0.7,
    )
