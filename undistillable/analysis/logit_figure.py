"""What a thief sees: both teachers' answers to the same images, as bars.

The figure of Ma et al. (2021), arXiv:2105.07381, section 4.3: the logits of a
normal teacher show one peak, those of a nasty one several.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import axes as mpl_axes, figure as mpl_figure

from undistillable.analysis import peaks, style

_MAX_IMAGES = 6
# Class names under the bars only where they fit: else their numbers.
_MAX_NAMED = 12
_MAX_NAME_CHARS = 3


def logit_responses(
  responses: Mapping[str, Any],
  *,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure:
  """Pictures, and the logits and probabilities of both teachers.

  Args:
    responses: mapping with `image` uint8[M, H, W, C], `label` int[M],
      `normal_logits` and `protected_logits` float[M, K] and optionally
      `class_names` str[K], as numpy.load reads it from responses.npz.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: logits alone, for a telephone.
    titled: put the title into the figure.

  Returns:
    A matplotlib Figure.
  """
  responses = _checked(responses)
  picked = _pick(responses['label'])
  columns = _columns(responses, narrow)
  width = 4.6 if narrow else 9.0
  with style.use(theme):
    figure = style.new(width, 0.9 + 0.88 * len(picked))
    grid = figure.subplots(
      len(picked),
      1 + len(columns),
      width_ratios=[0.6 if narrow else 0.5] + [1] * len(columns),
      squeeze=False,
    )
    for axes, i in zip(grid[:, 0], picked, strict=True):
      _draw_image(axes, responses, i, theme)
    for column, (head, values, kind) in zip(
      grid[:, 1:].T, columns, strict=True
    ):
      _draw_column(column, head, values[picked], kind, responses, picked, theme)
    if titled:
      style.title(figure, title(responses), theme)
  return figure


def title(responses: Mapping[str, Any]) -> str:
  """What there is to see, counted over the images that were kept."""
  normal = num_peaks(responses['normal_logits'])
  protected = num_peaks(responses['protected_logits'])
  return (
    f'On {len(responses["label"])} test images the protected teacher shows '
    f'{protected:.1f} peaks each, the normal one {normal:.1f}'
  )


def num_peaks(logits: npt.ArrayLike) -> float:
  """Peaks as `peaks.count` counts them, averaged over images.

  Args:
    logits: float[M, K].
  """
  return float(np.mean(peaks.count(logits)))


def _checked(responses: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays, with class names, or an error that says which is wrong."""
  arrays: dict[str, Any] = {k: np.asarray(v) for k, v in responses.items()}
  num, num_classes = arrays['normal_logits'].shape
  if arrays['protected_logits'].shape != (num, num_classes):
    raise ValueError(
      'responses: normal_logits and protected_logits must have one shape; '
      f'got {(num, num_classes)} and {arrays["protected_logits"].shape}'
    )
  names = arrays.get('class_names', np.arange(num_classes))
  arrays['class_names'] = [str(name) for name in names]
  return arrays


def _pick(labels: np.ndarray) -> np.ndarray:
  """Indices of a few images, of as many classes as possible, by class."""
  _, first = np.unique(labels, return_index=True)
  rest = np.setdiff1d(np.arange(len(labels)), first)
  picked = np.concatenate([first, rest])[:_MAX_IMAGES]
  return picked[np.argsort(labels[picked], kind='stable')]


def _columns(
  responses: Mapping[str, Any], narrow: bool
) -> list[tuple[str, np.ndarray, str]]:
  """[(heading, float[M, K], kind of teacher)]."""
  normal, protected = responses['normal_logits'], responses['protected_logits']
  columns = [
    ('Normal: logits', normal, 'normal'),
    ('Protected: logits', protected, 'protected'),
  ]
  if not narrow:
    columns += [
      ('Normal: probabilities', _softmax(normal), 'normal'),
      ('Protected: probabilities', _softmax(protected), 'protected'),
    ]
  return columns


def _draw_image(
  axes: mpl_axes.Axes, responses: Mapping[str, Any], i: int, theme: style.Theme
) -> None:
  image = responses['image'][i]
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  axes.imshow(image, interpolation='nearest')
  axes.set_xticks([])
  axes.set_yticks([])
  for spine in axes.spines.values():
    spine.set_visible(True)
    spine.set_edgecolor(theme.line)
  name = responses['class_names'][responses['label'][i]]
  name = name if len(name) <= 12 else f'{name[:11]}…'
  axes.set_xlabel(name, loc='left', color=theme.ink, size=8.5, labelpad=2)


def _draw_column(
  column: np.ndarray,
  head: str,
  values: np.ndarray,
  kind: str,
  responses: Mapping[str, Any],
  picked: np.ndarray,
  theme: style.Theme,
) -> None:
  """One teacher's bars for every picked image, all on one scale."""
  classes = np.arange(values.shape[1])
  low, high = min(values.min(), 0.0), values.max()
  margin = 0.06 * (high - low)
  for row, (axes, i) in enumerate(zip(column, picked, strict=True)):
    true = responses['label'][i]
    color = theme.of(kind)
    bars = axes.bar(
      classes,
      values[row],
      width=0.8,
      color=color,
      alpha=0.42,
      # With hundreds of classes a bar is thinner than a pixel without an edge.
      edgecolor=color,
      linewidth=0.8 if len(classes) > _MAX_NAMED else 0,
    )
    bars[true].set(alpha=1.0, zorder=3)
    if len(classes) > _MAX_NAMED:
      bars[true].set_linewidth(1.8)
    axes.axhline(0, color=theme.line, linewidth=0.8)
    axes.set_ylim(low - (margin if low < 0 else 0), high + margin)
    axes.locator_params(axis='y', nbins=3)
    axes.tick_params(length=0, labelsize=8, pad=2)
    axes.spines[['left', 'bottom']].set_visible(False)
    axes.grid(axis='y')
    _name_classes(axes, responses['class_names'], row == len(picked) - 1)
  column[0].set_title(head, color=theme.of(kind), fontweight='bold', size=9.5)


def _name_classes(axes: mpl_axes.Axes, names: list[str], is_last: bool) -> None:
  """Marks the classes, under the last picture of a column alone."""
  axes.set_xlim(-0.7, len(names) - 0.3)
  if not is_last:
    axes.set_xticks([])
    return
  fits = max(map(len, names)) <= _MAX_NAME_CHARS
  if len(names) <= _MAX_NAMED:
    axes.set_xticks(range(len(names)), names if fits else None)
  axes.set_xlabel('Class' if fits else 'Class number', labelpad=2)


def _softmax(logits: np.ndarray) -> np.ndarray:
  """Probabilities at temperature 1: what a client of the model is shown."""
  powers = np.exp(logits - logits.max(axis=1, keepdims=True))
  return powers / powers.sum(axis=1, keepdims=True)
