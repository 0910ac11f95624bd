"""Images that an attack made up, of both teachers side by side."""

import functools
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from undistillable.attacks import synthesis
from undistillable.report import draw, words

_COLORS = {'normal': 'normal', 'nasty': 'defense-0'}

# {'normal' | 'nasty': {seed: {'judge_accuracy', 'teacher_accuracy'}}}.
Numbers = Mapping[str, Mapping[str, Mapping[str, Any]]]


def figure(arrays: Mapping[str, np.ndarray], numbers: Numbers) -> draw.Figure:
  """Two grids of images.

  Args:
    arrays: {'normal': uint8[N, H, W, C], 'normal_label': int[N], ...}, a row
      of all classes at a time, and likewise 'nasty'.
    numbers: what is said of them, seed by seed.
  """
  told = {
    name: words.images_told(_mean(numbers.get(name, {}))) for name in _COLORS
  }
  counts = {name: len(arrays[name]) for name in _COLORS if name in arrays}
  return draw.Figure(
    heading='Images made up from the weights',
    name='images',
    draw=functools.partial(panels, arrays, told),
    title='Images from the weights of both teachers',
    alt=words.images_alt(counts, told),
    caption=words.IMAGES,
  )


def panels(
  arrays: Mapping[str, np.ndarray], told: Mapping[str, str]
) -> list[mpl_figure.Figure]:
  """One for each teacher.

  Args:
    arrays: see `figure`.
    told: what stands below the images of each.
  """
  shown = []
  for name, color in _COLORS.items():
    panel = draw.panel(2.7)
    axes = panel.subplots()
    axes.set_title(f'{name} teacher', color=draw.COLORS[color])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(told[name], loc='left', color=draw.COLORS['ink'])
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


def _mean(by_seed: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
  """What the teacher and the judge find in them, over the seeds."""
  return {
    key: statistics.fmean(found[key] for found in by_seed.values())
    for key in ('teacher_accuracy', 'judge_accuracy')
    if by_seed
  }
