"""Images that an attack made up, of both teachers side by side."""

import functools
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from undistillable.attacks import synthesis
from undistillable.report import draw

# {'normal' | 'nasty': {seed: {'judge_accuracy', 'teacher_accuracy'}}}.
Numbers = Mapping[str, Mapping[str, Mapping[str, Any]]]


def figure(arrays: Mapping[str, np.ndarray], numbers: Numbers) -> draw.Figure:
  """Two grids of images, and what is said of them, seed by seed.

  `arrays` are {'normal': uint8[N, H, W, C], 'normal_label': int[N], ...}, a
  row of all classes at a time, and likewise 'nasty'.
  """
  told = {name: _told(numbers.get(name, {})) for name in draw.TEACHERS}
  alt = ['Two grids of images made up from the weights of teachers.']
  alt += [
    f'{name} teacher, {len(arrays[name])} images: {told[name]}.'
    for name in draw.TEACHERS
    if name in arrays
  ]
  return draw.Figure(
    heading='Images made up from the weights',
    name='images',
    draw=functools.partial(_panels, arrays, told),
    title='Images from the weights of both teachers',
    alt=' '.join(alt),
    caption='Images that DeepInversion made from nothing but the weights of a '
    'teacher, a column for each class that they were made for. The judge is a '
    'network that was trained alone and knows neither teacher.',
  )


def _told(by_seed: Mapping[str, Mapping[str, Any]]) -> str:
  """How many of the images the teacher and the judge recognise."""
  if not by_seed:
    return 'none'
  teacher, judge = (
    statistics.fmean(found[key] for found in by_seed.values())
    for key in ('teacher_accuracy', 'judge_accuracy')
  )
  return (
    f'recognised by the teacher {teacher:.0f} %, by the judge {judge:.0f} %'
  )


def _panels(
  arrays: Mapping[str, np.ndarray], told: Mapping[str, str]
) -> list[mpl_figure.Figure]:
  """One for each teacher, and below it what is told."""
  shown = []
  for name, color in draw.TEACHERS.items():
    panel = draw.panel(2.7)
    axes = panel.subplots()
    axes.set_title(f'{name} teacher', color=draw.COLORS[color])
    axes.set_xlabel(told[name], color=draw.COLORS['ink'])
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if name in arrays:
      columns = len(np.unique(arrays[f'{name}_label']))
      grid = synthesis.image_grid(arrays[name], columns)
      axes.imshow(
        grid.squeeze(-1) if grid.shape[-1] == 1 else grid,
        cmap='gray',
        vmin=0,
        vmax=255,
        interpolation='nearest',
      )
    shown.append(panel)
  return shown
