"""Features and logits of both teachers on a plane, coloured by class.

The figure of Ma et al. (2021), arXiv:2105.07381, section 4.3: classes keep
apart in the features of a nasty teacher, not in its logits.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes, figure as mpl_figure, lines

from undistillable.analysis import style

# {name of a panel: what `embeddings.separation` returns}.
Separation = Mapping[str, Mapping[str, float]]

# (key, heading, kind): two rows, features and logits, of both teachers.
_PANELS = (
  ('normal_features', 'Normal: features', 'normal'),
  ('nasty_features', 'Nasty: features', 'protected'),
  ('normal_logits', 'Normal: logits', 'normal'),
  ('nasty_logits', 'Nasty: logits', 'protected'),
)

# Ten hues that have a contrast of 3 or more with light and with dark ground.
_CLASS_COLORS = (
  '#2f7fd1',
  '#d9730d',
  '#2e9e4f',
  '#cf3b3b',
  '#8e62d9',
  '#8f6248',
  '#d65fae',
  '#7f868e',
  '#8f8c1c',
  '#1299a8',
)
_MAX_NAME_CHARS = 12


def embedding(
  arrays: Mapping[str, Any],
  *,
  separation: Separation | None = None,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure:
  """Four maps of the same test images: normal and nasty, features and logits.

  Args:
    arrays: mapping with `label` int[M], `class_names` str[K] and the points
      of `embeddings.project`, float[M, 2]: `normal_features`,
      `nasty_features`, `normal_logits`, `nasty_logits`.
    separation: {name of such points: what `embeddings.separation` returns};
      its numbers are written below their panel.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: lay it out for a telephone.
    titled: put the title into the figure.

  Returns:
    A matplotlib Figure. More than ten classes share ten colours, which the
    figure then says.

  Raises:
    ValueError: for points that are not float[M, 2] or a label without name.
  """
  label, names = _checked(arrays)
  with style.use(theme):
    width = 4.6 if narrow else 7.2
    figure = style.new(width, width + (1.3 if narrow else 0.7))
    figure.set_dpi(200)  # Of the points, which are pixels in an SVG too.
    grid = figure.subplots(2, 2).flatten()
    for axes, (key, head, kind) in zip(grid, _PANELS, strict=True):
      points = np.asarray(arrays[key])
      _draw(axes, points, label, 3.0 if narrow else 6.0)
      axes.set_title(head, color=theme.of(kind), fontweight='bold')
      if separation and key in separation:
        told = _told(separation[key], '\n' if narrow else ', ')
        axes.set_xlabel(told, loc='left', size=8 if narrow else 9)
      for spine in axes.spines.values():
        spine.set_visible(True)
    _name_classes(figure, names, narrow)
    if titled:
      style.title(figure, title(narrow), theme)
  return figure


def title(narrow: bool = False) -> str:
  """What there is to see."""
  where = 'Test images' if narrow else 'Where each teacher puts the test images'
  return f'{where}, coloured by class'


def caption(arrays: Mapping[str, Any]) -> str:
  """How to read the figure."""
  num_classes = len(arrays['class_names'])
  shared = ''
  if num_classes > len(_CLASS_COLORS):
    shared = f'{_sharing(num_classes)}, so one colour is several classes. '
  return (
    'Each point is a test image, placed by t-SNE: close images get similar '
    'answers, while the axes and the distances between clusters mean nothing. '
    f'{shared}Silhouette: how far classes lie apart in the vectors '
    'themselves, from −1 to 1. Neighbours: how often most of the 5 nearest '
    'images are of the own class.'
  )


def alt_text(
  arrays: Mapping[str, Any], *, separation: Separation | None = None
) -> str:
  """The figure in words, with the numbers of `separation`."""
  parts = [
    f'Four t-SNE maps of {len(arrays["label"])} test images of '
    f'{len(arrays["class_names"])} classes, coloured by class.'
  ]
  for key, head, _ in _PANELS:
    if separation and key in separation:
      parts.append(f'{head}: {_told(separation[key])}.')
  return ' '.join(parts)


def _checked(arrays: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
  """Labels and class names, or an error that says which array is wrong."""
  label = np.asarray(arrays['label'])
  names = [str(name) for name in arrays['class_names']]
  for key, _, _ in _PANELS:
    shape = np.shape(arrays[key])
    if shape != (len(label), 2):
      raise ValueError(
        f'embedding: {key} must be {(len(label), 2)} as there are '
        f'{len(label)} labels; got {shape}'
      )
  if len(label) and not 0 <= label.min() <= label.max() < len(names):
    raise ValueError(
      f'embedding: labels {label.min()} to {label.max()}, but '
      f'{len(names)} class names'
    )
  return label, names


def _draw(
  axes: mpl_axes.Axes, points: np.ndarray, label: np.ndarray, size: float
) -> None:
  """The points of one panel, in an order that lets no class cover another."""
  order = np.random.default_rng(0).permutation(len(points))
  colors = np.array(_CLASS_COLORS)[label % len(_CLASS_COLORS)]
  axes.scatter(
    points[order, 0],
    points[order, 1],
    s=size,
    c=colors[order],
    linewidths=0,
    alpha=0.85,
    rasterized=True,  # Thousands of shapes make a page slow.
  )
  axes.set_xticks([])
  axes.set_yticks([])


def _told(numbers: Mapping[str, float], between: str = ', ') -> str:
  """The two numbers of `embeddings.separation`."""
  rounded = round(numbers['silhouette'], 2) + 0.0  # No −0.00.
  silhouette = f'{rounded:.2f}'.replace('-', '−')
  neighbors = f'{numbers["neighbor_accuracy"]:.1f}%'
  return f'silhouette {silhouette}{between}neighbours of one class {neighbors}'


def _name_classes(
  figure: mpl_figure.Figure, names: list[str], narrow: bool
) -> None:
  """A dot for each class, or for too many a line that says so."""
  if len(names) > len(_CLASS_COLORS):
    figure.legend(
      handles=[lines.Line2D([], [], ls='none', label=_sharing(len(names)))],
      loc='outside lower left',
      handlelength=0,
      handletextpad=0,
    )
    return
  handles = [
    lines.Line2D(
      [],
      [],
      linestyle='none',
      marker='o',
      markersize=6,
      color=color,
      label=name
      if len(name) <= _MAX_NAME_CHARS
      else f'{name[: _MAX_NAME_CHARS - 1]}…',
    )
    for name, color in zip(names, _CLASS_COLORS, strict=False)
  ]
  figure.legend(
    handles=handles,
    loc='outside lower left',
    ncols=3 if narrow else 5,
    handletextpad=0.1,
    columnspacing=1.2,
  )


def _sharing(num_classes: int) -> str:
  return f'{num_classes} classes share {len(_CLASS_COLORS)} colours'
