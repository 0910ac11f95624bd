"""Where a teacher puts the test images: on a plane, and in two numbers.

Ma et al. (2021), arXiv:2105.07381, section 4.3, show by t-SNE that a nasty
teacher keeps its features apart by class while its logits run together.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl
from matplotlib import axes as mpl_axes, figure as mpl_figure
from sklearn import manifold, metrics, neighbors

from undistillable.report import draw

# (key, heading, colour): features and logits of both teachers.
_PANELS = [
  (f'{name}_{kind}', f'{name.capitalize()}: {kind}', color)
  for kind in ('features', 'logits')
  for name, color in draw.TEACHERS.items()
]
# Ten hues that have a contrast of 3 or more with light and with dark ground.
CLASS_COLORS = (
  *('#2f7fd1', '#d9730d', '#2e9e4f', '#cf3b3b', '#8e62d9'),
  *('#8f6248', '#d65fae', '#7f868e', '#8f8c1c', '#1299a8'),
)

_MAX_PERPLEXITY = 30.0
_NUM_NEIGHBORS = 5


def choose(labels: npt.ArrayLike, max_points: int = 2000) -> np.ndarray:
  """Indices of at most `max_points` examples, with the shares of the classes.

  Returns:
    int[M], in order; all of labels int[N] where they are no more.

  Example:
    embeddings.choose(np.repeat([0, 1], [300, 100]), 8)  # 6 zeros, 2 ones
  """
  y = np.asarray(labels)
  if max_points < 1:
    raise ValueError(f'max_points must be at least 1; got {max_points}')
  if len(y) <= max_points:
    return np.arange(len(y))
  _, y, sizes = np.unique(y, return_inverse=True, return_counts=True)
  # Largest remainders: whole numbers that add up to max_points.
  quotas = sizes * max_points / len(y)
  numbers = np.floor(quotas).astype(int)
  most = np.argsort(numbers - quotas, kind='stable')
  numbers[most[: max_points - numbers.sum()]] += 1
  rng = np.random.default_rng(0)
  picked = [
    rng.choice(np.flatnonzero(y == i), number, replace=False)
    for i, number in enumerate(numbers)
  ]
  return np.sort(np.concatenate(picked))


def project(vectors: npt.ArrayLike) -> np.ndarray:
  """t-SNE of features or logits: neighbours stay neighbours.

  Distances between far points, and the axes, mean nothing. On one machine the
  points are the same again; 2,000 vectors take about 20 seconds.

  Args:
    vectors: float[N, F].

  Returns:
    float32[N, 2].

  Raises:
    ValueError: for vectors that are all equal, or that t-SNE refuses.

  Reference: van der Maaten and Hinton (2008), Visualizing Data using t-SNE;
    initialised by PCA as Kobak and Berens (2019), 10.1038/s41467-019-13056-x.
  """
  x = _scaled(vectors)
  tsne = manifold.TSNE(
    init='pca',
    perplexity=min(_MAX_PERPLEXITY, (len(x) - 1) / 3),
    random_state=0,
  )
  # Sums of several threads come in any order, and t-SNE is chaotic.
  with threadpoolctl.threadpool_limits(1):
    return tsne.fit_transform(x).astype(np.float32)


def separation(
  vectors: npt.ArrayLike, labels: npt.ArrayLike
) -> dict[str, float]:
  """How far the classes are apart, in the vectors themselves.

  Both numbers are of Euclidean distances between raw vectors, as t-SNE sees
  them, and of ratios or ranks of those: one factor for all vectors, as larger
  logits have, and one shift for all change nothing. Axes are not
  standardised: that would undo what a teacher makes large and small.

  Args:
    vectors: float[N, F].
    labels: int[N], of two or more classes.

  Returns:
    `silhouette`, the mean over examples of (b - a) / max(a, b) with a and b
    the mean distances to the own and to the nearest other class, from -1 to 1
    (apart); `neighbor_accuracy`, how often most of the 5 nearest others are
    of the own class, in percent (on a tie the nearer ones decide).

  Raises:
    ValueError: for vectors that are all equal; of scikit-learn, for fewer
      than two classes, a class for each vector, or what is not finite.

  Reference: Rousseeuw (1987), Silhouettes, 10.1016/0377-0427(87)90125-7.
  """
  x, y = _scaled(vectors), np.asarray(labels)
  with threadpoolctl.threadpool_limits(1):
    silhouette = metrics.silhouette_score(x, y)
    predicted = _vote(x, y)
  return {
    'silhouette': float(silhouette),
    'neighbor_accuracy': 100 * float(np.mean(predicted == y)),
  }


def _vote(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The class of most of each example's nearest others: int[N]."""
  classes, y = np.unique(y, return_inverse=True)
  number = min(_NUM_NEIGHBORS, len(x) - 1)
  search = neighbors.NearestNeighbors(n_neighbors=number).fit(x)
  near = search.kneighbors(return_distance=False)  # Never itself.
  votes = np.zeros((len(x), len(classes)))
  for rank, column in enumerate(near.T):
    # Weights so nearly equal that they settle ties alone.
    votes[np.arange(len(x)), y[column]] += 1 + 0.5 ** (rank + 10)
  return classes[votes.argmax(axis=1)]


def _scaled(vectors: npt.ArrayLike) -> np.ndarray:
  """float64[N, F] about 0, of which the largest is 1 or -1, or an error."""
  x = np.asarray(vectors, np.float64)
  if (x == x[0]).all():
    raise ValueError(f'all {len(x)} vectors are equal: nothing to tell apart')
  x = x - x.mean(axis=0)
  return x / np.abs(x).max()


def figure(
  arrays: Mapping[str, Any], numbers: Mapping[str, Mapping[str, float]]
) -> draw.Figure:
  """Four maps of the same test images: normal and nasty, features and logits.

  Args:
    arrays: mapping with `label` int[M], `class_names` str[K] and the points
      of `project`, float[M, 2], by the keys of `_PANELS`.
    numbers: {key: what `separation` returns}; written below the panel.
  """
  told = {key: _told(found) for key, found in numbers.items()}
  num_images, num_classes = len(arrays['label']), len(arrays['class_names'])
  alt = [
    f'Four t-SNE maps of {num_images} test images of {num_classes} classes, '
    'coloured by class.'
  ]
  alt += [f'{head}: {told[key]}.' for key, head, _ in _PANELS if key in told]
  shared = ''
  if num_classes > len(CLASS_COLORS):
    shared = (
      f'{num_classes} classes share {len(CLASS_COLORS)} colours, so one colour '
      'is several classes. '
    )
  return draw.Figure(
    heading='Where the test images lie',
    name='embedding',
    draw=functools.partial(_panels, arrays, told),
    title='Where each teacher puts the test images, coloured by class',
    alt=' '.join(alt),
    caption='Each point is a test image, placed by t-SNE: close images get '
    'similar answers, while the axes and the distances between clusters mean '
    f'nothing. {shared}Silhouette: how far classes lie apart in the vectors '
    'themselves, from −1 to 1. Neighbours: how often most of the 5 nearest '
    'images are of the own class.',
  )


def _told(numbers: Mapping[str, float]) -> str:
  """What `separation` returns."""
  rounded = round(numbers['silhouette'], 2) + 0.0  # No −0.00.
  silhouette = f'{rounded:.2f}'.replace('-', '−')
  neighbors = f'{numbers["neighbor_accuracy"]:.1f}%'
  return f'silhouette {silhouette}, neighbours of one class {neighbors}'


def _panels(
  arrays: Mapping[str, Any], told: Mapping[str, str]
) -> list[mpl_figure.Figure]:
  """The four maps, each with what is told of it, and the legend."""
  shown = []
  for key, head, color in _PANELS:
    panel = draw.panel(draw.WIDTH)
    axes = panel.subplots()
    _draw(axes, np.asarray(arrays[key]), np.asarray(arrays['label']))
    axes.set_title(head, color=draw.COLORS[color])
    axes.set_xlabel(told.get(key, ''))
    shown.append(panel)
  names = [str(name) for name in arrays['class_names']]
  if len(names) > len(CLASS_COLORS):
    return shown  # The caption says that classes share colours.
  look = {'linestyle': 'none', 'marker': 'o', 'markersize': 6}
  looks = [
    (draw.clipped(name), {**look, 'color': color})
    for name, color in zip(names, CLASS_COLORS, strict=False)
  ]
  return [*shown, draw.legend(looks, columns=3)]


def _draw(axes: mpl_axes.Axes, points: np.ndarray, label: np.ndarray) -> None:
  """The points of one map, in an order that lets no class cover another."""
  order = np.random.default_rng(0).permutation(len(points))
  colors = np.array(CLASS_COLORS)[label % len(CLASS_COLORS)]
  axes.scatter(
    points[order, 0],
    points[order, 1],
    s=6.0,
    c=colors[order],
    linewidths=0,
    alpha=0.85,
    rasterized=True,  # Thousands of shapes make a page slow.
  )
  axes.set(xticks=[], yticks=[])
  axes.spines[:].set_visible(True)
