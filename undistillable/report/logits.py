"""What a thief sees: the answers of each teacher to the same images, as bars.

The figure of Ma et al. (2021), arXiv:2105.07381, section 4.3: the logits of a
normal teacher show one peak, those of a nasty one several.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure
from scipy import special

from undistillable import losses
from undistillable.report import draw, peaks, summary as summary_lib
from undistillable.report.summary import Row, Summary

_MAX_IMAGES = 6
# Class names under the bars only where they fit: else their numbers.
_MAX_NAMED = 12
_MAX_NAME_CHARS = 3


def figure(
  summary: Summary, responses: Mapping[str, np.ndarray] | None
) -> draw.Figure:
  """A few images, and the logits and probabilities of each teacher."""
  missing = draw.Figure(
    'What a thief sees', 'logits', None, '', '', draw.NO_LOGITS
  )
  if responses is None:
    return missing
  answers = [
    (row, logits)
    for row in summary_lib.teachers(summary)
    for name, logits in zip(responses['ids'], responses['logits'], strict=True)
    if name in row['ids']
  ]
  if not answers:
    return missing
  picked = _pick(responses['label'])
  counts = {
    row['label']: float(np.mean(peaks.count(logits[picked])))
    for row, logits in answers
  }
  told = [f'the {name} teacher {count:.1f}' for name, count in counts.items()]
  title = f'Peaks in the answers to {len(picked)} test images: '
  title += ', '.join(told)
  return missing._replace(
    draw=lambda: [_panel(responses, picked, *answer) for answer in answers],
    title=title,
    alt=f'{title}. Bars of the logits and probabilities of each teacher over '
    'the classes, for the same test images.',
    caption=f'{title}: classes at least half as far above the mean logit as '
    'the highest. The full-coloured bar is the true class. A client reads off '
    'the highest bar alone; a student learns from all of them, so false peaks '
    'mislead it.',
  )


def _pick(labels: np.ndarray) -> np.ndarray:
  """Indices of a few images, of as many classes as possible, by class."""
  _, first = np.unique(labels, return_index=True)
  rest = np.setdiff1d(np.arange(len(labels)), first)
  picked = np.concatenate([first, rest])[:_MAX_IMAGES]
  return picked[np.argsort(labels[picked], kind='stable')]


def _panel(
  responses: Mapping[str, Any], picked: np.ndarray, row: Row, logits: np.ndarray
) -> mpl_figure.Figure:
  panel = draw.panel(0.7 + 0.66 * len(picked))
  grid = panel.subplots(
    len(picked), 3, width_ratios=[0.36, 1, 1], squeeze=False
  )
  draw.heading(panel, f'{row["label"]} teacher', row['color'])
  names = [str(name) for name in responses['class_names']]
  labels = responses['label'][picked]
  images = responses['image'][picked]
  if images.shape[-1] == 1:
    images = np.repeat(images, 3, axis=-1)
  for axes, image, label in zip(grid[:, 0], images, labels, strict=True):
    axes.imshow(image, interpolation='nearest')
    axes.set(xticks=[], yticks=[])
    axes.spines['bottom'].set_visible(False)
    told, ink = draw.clipped(names[label]), draw.COLORS['ink']
    axes.set_xlabel(told, color=ink, labelpad=2)
  color = draw.COLORS[row['color']]
  # A class that is withheld has no bar.
  served = np.where(losses.is_withheld(logits), np.nan, logits)
  columns = (
    ('Logits', served),
    ('Probabilities', special.softmax(logits, axis=1)),
  )
  for i, (told, values) in enumerate(columns, 1):
    _draw_column(grid[:, i], values[picked], labels, color)
    grid[0, i].set_title(
      told, size=9, weight='normal', color=draw.COLORS['muted']
    )
    _name_classes(grid[:, i], names)
  return panel


def _draw_column(
  column: np.ndarray, values: np.ndarray, labels: np.ndarray, color: str
) -> None:
  """Bars for every picked image, all on one scale."""
  classes = np.arange(values.shape[1])
  many = len(classes) > _MAX_NAMED
  low, high = min(np.nanmin(values), 0.0), max(np.nanmax(values), 0.0)
  margin = 0.06 * (high - low) or 1.0  # Where nothing but 0 is shown.
  for axes, row, true in zip(column, values, labels, strict=True):
    bars = axes.bar(
      classes,
      row,
      width=0.8,
      color=color,
      alpha=0.42,
      # With hundreds of classes a bar is thinner than a pixel without an edge.
      edgecolor=color,
      linewidth=0.8 if many else 0,
    )
    bars[true].set(alpha=1.0, zorder=3)
    if many:
      bars[true].set_linewidth(1.8)
    axes.axhline(0, color=draw.COLORS['line'], linewidth=0.8)
    axes.set_ylim(low - (margin if low < 0 else 0), high + margin)
    axes.locator_params(axis='y', nbins=3)
    axes.tick_params(labelsize=8, pad=2)
    axes.spines['bottom'].set_visible(False)
    axes.grid(axis='y')


def _name_classes(column: np.ndarray, names: list[str]) -> None:
  """Marks the classes, under the last picture of a column alone."""
  for axes in column:
    axes.set_xlim(-0.7, len(names) - 0.3)
  *others, last = column
  for axes in others:
    axes.set_xticks([])
  fits = max(map(len, names)) <= _MAX_NAME_CHARS
  if len(names) <= _MAX_NAMED:
    last.set_xticks(range(len(names)), names if fits else None)
  told = 'Class' if fits else 'Class number'
  last.set_xlabel(told, labelpad=2, loc='center')
