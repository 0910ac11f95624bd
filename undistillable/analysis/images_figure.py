"""Images that an attack made up, of both teachers side by side."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from undistillable import synthesis
from undistillable.analysis import style

CAPTION = (
  'Images that DeepInversion made from nothing but the weights of a teacher, '
  'a column for each class that they were made for. The judge is a network '
  'that was trained alone and knows neither teacher.'
)
_NAMES = ('normal', 'nasty')

# {'normal' | 'nasty': {seed: {'judge_accuracy', 'teacher_accuracy'}}}.
Numbers = Mapping[str, Mapping[str, Mapping[str, Any]]]


def images(
  arrays: Mapping[str, np.ndarray],
  numbers: Numbers,
  *,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure:
  """Two grids of images.

  Args:
    arrays: {'normal': uint8[N, H, W, C], 'normal_label': int[N], ...}, a row
      of all classes at a time, and likewise 'nasty'.
    numbers: what is said of them, seed by seed.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: lay it out for a telephone.
    titled: put the title into the figure.
  """
  with style.use(theme):
    figure = style.new(*((4.6, 6.4) if narrow else (9.0, 3.2)))
    grid = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
    for axes, name in zip(grid, _NAMES, strict=True):
      kind = 'normal' if name == 'normal' else 'protected'
      axes.set_title(f'{name} teacher', color=theme.of(kind, 0))
      axes.set_axis_off()
      if name in arrays:
        columns = len(np.unique(arrays[f'{name}_label']))
        shown = synthesis.image_grid(arrays[name], columns)
        axes.imshow(
          shown.squeeze(-1) if shown.shape[-1] == 1 else shown,
          cmap='gray',
          vmin=0,
          vmax=255,
          interpolation='nearest',
        )
      told = _told(numbers.get(name, {}))
      axes.text(0, -0.04, told, transform=axes.transAxes, va='top', size=9)
    if titled:
      style.title(figure, 'Images from the weights of both teachers', theme)
  return figure


def alt_text(arrays: Mapping[str, np.ndarray], numbers: Numbers) -> str:
  """The figure in words."""
  parts = ['Two grids of images made up from the weights of teachers.']
  parts += [
    f'{name} teacher, {len(arrays[name])} images: {_told(numbers[name])}.'
    for name in _NAMES
    if name in arrays
  ]
  return ' '.join(parts)


def _told(by_seed: Mapping[str, Mapping[str, Any]]) -> str:
  """What the teacher and the judge find in them, over the seeds."""
  if not by_seed:
    return 'none'
  means = {
    key: statistics.fmean(found[key] for found in by_seed.values())
    for key in ('teacher_accuracy', 'judge_accuracy')
  }
  return (
    f'recognised by the teacher {means["teacher_accuracy"]:.0f} %, '
    f'by the judge {means["judge_accuracy"]:.0f} %'
  )
