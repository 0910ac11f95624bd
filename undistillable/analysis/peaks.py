"""How many peaks a teacher's answers have, and how sure they are.

Ma et al. (2021), arXiv:2105.07381, section 4.3, look at the answers to a few
images; here the same is counted over a whole test set.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

# A peak is a class above this share of the way from the mean to the top.
_SHARE = 0.5


def count(logits: npt.ArrayLike) -> np.ndarray:
  """Classes at least half as far above the mean logit as the highest.

  Adding a constant to all logits of an image or scaling them changes nothing.

  Args:
    logits: float[N, K].

  Returns:
    int[N], from 1 to K; K where all logits are equal.
  """
  z = np.asarray(logits, np.float64)
  top = z.max(axis=1, keepdims=True)
  # Not below 0: the mean of equal numbers may round to above them.
  height = np.maximum(top - z.mean(axis=1, keepdims=True), 0.0)
  return np.sum(top - z <= (1 - _SHARE) * height, axis=1)


def statistics(
  logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float
) -> dict[str, Any]:
  """Peaks, entropies and the place of the true class, over all images.

  Args:
    logits: float[N, K].
    labels: int[N].
    temperature: tau of a distilling student, for a second entropy.

  Returns:
    Plain JSON: `num_images`, `temperature`; `mean_peaks` and `histogram`, of
    which entry i is the number of images with i + 1 peaks; `entropy` and
    `entropy_at_temperature`, means in nats of softmax(z) and softmax(z /
    tau); `mean_rank` of the true class (1 is the top, ties in the order of
    argmax) and `top_share`, how often it is 1, in percent, which is the test
    accuracy; `mean_top_probability` at temperature 1.

  Raises:
    ValueError: for shapes that do not fit, a temperature of 0 or below, or
      logits that are not finite.

  Example:
    peaks.statistics([[9.0, 8.0, 0.0]], [0], 4.0)['mean_peaks']  # 2.0
  """
  z, y = _checked(logits, labels, temperature)
  num_peaks = count(z)
  log_p = _log_softmax(z)
  order = np.argsort(-z, axis=1, kind='stable')
  rank = 1 + np.argmax(order == y[:, None], axis=1)
  return {
    'num_images': len(z),
    'temperature': float(temperature),
    'mean_peaks': float(num_peaks.mean()),
    'histogram': np.bincount(num_peaks)[1:].tolist(),
    'entropy': _mean_entropy(log_p),
    'entropy_at_temperature': _mean_entropy(_log_softmax(z / temperature)),
    'mean_rank': float(rank.mean()),
    'top_share': 100 * float(np.mean(rank == 1)),
    'mean_top_probability': float(np.exp(log_p.max(axis=1)).mean()),
  }


def _checked(
  logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
  """float64[N, K] and int[N], or an error that says what is wrong."""
  z, y = np.asarray(logits, np.float64), np.asarray(labels)
  if z.ndim != 2 or y.shape != z.shape[:1] or not z.size:
    raise ValueError(
      f'peaks: needs logits [N, K] and labels [N]; got {z.shape} and {y.shape}'
    )
  if not np.isfinite(z).all():
    bad = int(np.sum(~np.isfinite(z).all(axis=1)))
    raise ValueError(f'peaks: {bad} of {len(z)} images have logits not finite')
  if y.min() < 0 or y.max() >= z.shape[1]:
    raise ValueError(
      f'peaks: labels must be 0 to {z.shape[1] - 1}; got {y.min()} to {y.max()}'
    )
  if not temperature > 0:
    raise ValueError(f'peaks: temperature must be above 0; got {temperature}')
  return z, y


def _log_softmax(z: np.ndarray) -> np.ndarray:
  z = z - z.max(axis=1, keepdims=True)
  return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def _mean_entropy(log_p: np.ndarray) -> float:
  """In nats, over float64[N, K]."""
  return float(-np.sum(np.exp(log_p) * log_p, axis=1).mean())
