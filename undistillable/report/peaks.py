"""How many peaks a teacher's answers have, and how sure they are.

Ma et al. (2021), arXiv:2105.07381, section 4.3, look at the answers to a few
images; here the same is counted over a whole test set.
"""

import functools
import statistics as statistics_lib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import figure as mpl_figure
from scipy import special

from undistillable import losses
from undistillable.report import draw

# A peak is a class above this share of the way from the mean to the top.
_SHARE = 0.5

BARS = ('1', '2', '3', '4', '5 or more')


def count(logits: npt.ArrayLike) -> np.ndarray:
  """Classes at least half as far above the mean logit as the highest.

  Adding a constant to all logits of an image or scaling them changes nothing.
  float[N, K] -> int[N], from 1 to K; K where all logits are equal.
  """
  z = np.asarray(logits, np.float64)
  served = ~np.asarray(losses.is_withheld(z))  # The others have no logit.
  top = z.max(axis=1, keepdims=True)
  # Not below 0: the mean of equal numbers may round to above them.
  height = np.maximum(top - z.mean(axis=1, keepdims=True, where=served), 0.0)
  return np.sum(top - z <= (1 - _SHARE) * height, axis=1)


def statistics(
  logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float
) -> dict[str, Any]:
  """Peaks, entropies and the place of the true class, over all images.

  Args:
    logits: float[N, K], finite.
    labels: int[N].
    temperature: tau of a distilling student, for a second entropy.

  Returns:
    Plain JSON: `num_images`, `temperature`; `mean_peaks` and `histogram`, of
    which entry i is the number of images with i + 1 peaks; `entropy` and
    `entropy_at_temperature`, means in nats of softmax(z) and softmax(z /
    tau); `mean_rank` of the true class (1 is the top, ties in the order of
    argmax) and `top_share`, how often it is 1, in percent, which is the test
    accuracy; `mean_top_probability` at temperature 1.

  Example:
    peaks.statistics([[9.0, 8.0, 0.0]], [0], 4.0)['mean_peaks']  # 2.0
  """
  z, y = np.asarray(logits, np.float64), np.asarray(labels)
  num_peaks = count(z)
  p = special.softmax(z, axis=1)
  order = np.argsort(-z, axis=1, kind='stable')
  rank = 1 + np.argmax(order == y[:, None], axis=1)
  return {
    'num_images': len(z),
    'temperature': float(temperature),
    'mean_peaks': float(num_peaks.mean()),
    'histogram': np.bincount(num_peaks)[1:].tolist(),
    'entropy': _mean_entropy(p),
    'entropy_at_temperature': _mean_entropy(
      special.softmax(z / temperature, axis=1)
    ),
    'mean_rank': float(rank.mean()),
    'top_share': 100 * float(np.mean(rank == 1)),
    'mean_top_probability': float(p.max(axis=1).mean()),
  }


def _mean_entropy(p: np.ndarray) -> float:
  """In nats, of probabilities float64[N, K]."""
  return float(special.entr(p).sum(axis=1).mean())


def figure(by_name: Mapping[str, Sequence[Mapping[str, Any]]]) -> draw.Figure:
  """Share of the test images by number of peaks, in bars side by side.

  Of {'normal': [what `statistics` returns, one a seed], 'nasty': [...]}.
  """
  by_name = {name: found for name, found in by_name.items() if found}
  means = {
    name: statistics_lib.fmean(one['mean_peaks'] for one in found)
    for name, found in by_name.items()
  }
  percent = {name: _shares(found) for name, found in by_name.items()}
  alt = ['Bars of the share of test images by number of peaks.']
  for name, mean in means.items():
    told = [
      f'{bar}: {share:.1f}%'
      for bar, share in zip(BARS, percent[name].mean(axis=0), strict=True)
    ]
    alt.append(f'{name} teacher, {mean:.1f} on average: {", ".join(told)}.')
  caption = (
    'A peak is a class at least half as far above the mean logit as the '
    'highest. Bars are means over seeds, circles single seeds. A student '
    'learns from all peaks, so false ones mislead it.'
  )
  return draw.Figure(
    heading='How many peaks',
    name='peaks',
    draw=functools.partial(_panels, percent) if percent else None,
    title='Peaks in the answer to an image: '
    + ', '.join(f'{name} {mean:.1f}' for name, mean in means.items()),
    alt=' '.join(alt),
    caption=caption if percent else draw.NO_LOGITS,
  )


def _shares(found: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Percent of images with 1, 2, 3, 4, 5 or more peaks: float[seeds, 5]."""
  rows = []
  for one in found:
    bar = np.minimum(np.arange(len(one['histogram'])), len(BARS) - 1)
    numbers = np.bincount(bar, one['histogram'], len(BARS))
    rows.append(numbers * (100 / numbers.sum()))
  return np.array(rows)


def _panels(percent: Mapping[str, np.ndarray]) -> list[mpl_figure.Figure]:
  """The bars of {name of a teacher: float[seeds, 5]}, and the legend."""
  panel = draw.panel(2.6)
  axes = panel.subplots()
  width = 0.8 / len(percent)
  looks: list[tuple[str, dict[str, Any]]] = []
  for i, (name, values) in enumerate(percent.items()):
    color = draw.COLORS[draw.TEACHERS[name]]
    at = np.arange(len(BARS)) + (i - (len(percent) - 1) / 2) * width
    mean = values.mean(axis=0)
    axes.bar(at, mean, 0.94 * width, color=color, linewidth=0)
    for x, height, top in zip(at, mean, values.max(axis=0), strict=True):
      place = (x, top), (0, 4)
      axes.annotate(
        f'{height:.0f}', *place, textcoords='offset points', ha='center'
      )
    if len(values) > 1:
      beside = np.broadcast_to(at, values.shape)
      draw.seeds(axes, list(beside.flat), list(values.flat))
    looks.append((f'{name} teacher', {'color': color, 'linewidth': 6}))
  axes.set_xticks(range(len(BARS)), BARS)
  axes.set(xlabel='Peaks in the answer to an image', ylabel='Test images (%)')
  axes.set(ylim=(0, 108), yticks=range(0, 101, 20))
  axes.grid(axis='y')
  return [panel, draw.legend(looks)]
