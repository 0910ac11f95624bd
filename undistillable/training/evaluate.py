"""What a network answers on every example, and how good that is."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import scipy.special

from undistillable import errors, losses, method
from undistillable.data import checks
from undistillable.state import PyTree
from undistillable.training import parallel

_FLOOR = 1e-4  # Of a probability that is withheld.
_BINS = 15  # Of the calibration errors, equally wide.
_TEMPERATURES = (0.02, 50.0)  # Among which a client looks for one.
_TRIED = 33  # Of them, evenly in their logarithm, beside a search.
_CALIBRATION_IMAGES = 1_000  # On which he does so, at most.


def predict(
  apply_fn: method.ApplyFn,
  variables: PyTree,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  batch_size: int = 256,
) -> np.ndarray:
  """Logits of every example, on all devices.

  Args:
    apply_fn: `(variables, images) -> logits`, e.g. `method.frozen_fn(model)`.
    variables: of the network.
    arrays: image uint8[N, H, W, C] and label int32[N].
    prepare: without augmentation; see `data.batches.prepare_fn`.
    batch_size: over all devices; rounded up to a multiple of their number.

  Returns:
    float32[N, K].

  Raises:
    ValueError: arrays that are no examples.
  """
  arrays = checks.examples(arrays)
  batch_size = checks.whole('batch_size', batch_size, 1)
  key = jax.random.key(0)  # Nothing is drawn.
  # What does not fit is told of all that was given, and not of a batch.
  jax.eval_shape(prepare, arrays, np.zeros(1, np.int32), key)
  num_examples = len(arrays['label'])
  devices = parallel.num_devices()
  batch_size = -(-batch_size // devices) * devices
  answer = parallel.answer_fn(apply_fn, prepare, 0)
  # Every batch has the same shape, or each would be compiled: the padding of
  # the last one is cut off. A device is sent what it reads, all of it.
  order = parallel.share(parallel.order_of_all(num_examples, batch_size), 1)
  places = np.zeros_like(order[0]) + np.arange(order.shape[2], dtype=np.int32)
  parts = []
  for rows in order:
    batch = {name: array[rows] for name, array in arrays.items()}
    parts.append(answer(variables, batch, places, 0, key))
  logits = [np.asarray(x, np.float32).reshape(-1, x.shape[-1]) for x in parts]
  return np.concatenate(logits)[:num_examples]


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """How well the answers fit the labels.

  Args:
    logits: float[N, K].
    labels: int[N].

  Returns:
    accuracy in percent, and nll: the mean cross entropy in nats. Where some
    classes are withheld, it is that of `(1 - K f) p + f` with f = 1e-4: one
    withheld truth would decide it otherwise.

  Raises:
    ValueError: the shapes do not fit, or labels are not in 0..K-1.
  """
  logits, labels = _checked(logits, labels)
  log_p = _log_scores(logits)
  if losses.is_withheld(log_p).any():
    log_p = _floored(np.exp(log_p))
  return {
    'accuracy': 100.0 * float(np.mean(logits.argmax(-1) == labels)),
    'nll': _nll(log_p, labels),
  }


def price(
  logits: np.ndarray,
  normal_logits: np.ndarray,
  labels: np.ndarray,
  held_out: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:
  """What protected answers are worth to a client, beside normal ones.

  Args:
    logits: float[N, K], as served; `losses.WITHHELD` or less where a class is
      withheld.
    normal_logits: float[N, K], of the same network without its protection, or
      of a normal one.
    labels: int[N].
    held_out: (logits float[M, K], labels int[M]) of other images, to whose
      first 1,000 a client fits a temperature.

  Returns:
    accuracy, percent, of equal scores the first; flipped, percent of images
    with another top class than the normal answer; top5, percent, for more than
    5 classes; brier, `mean_n sum_k (q_k - 1[y = k])^2`; nll, of
    `(1 - K f) q + f` with f = 1e-4, in nats; ece and classwise_ece, expected
    calibration errors of 15 bins, percent; aurc, the area under risk and
    coverage: the mean error among the n surest answers, over all n, percent;
    l1, `mean_n sum_k |q_k - p_k|` to the normal posterior p. Given held-out
    answers, temperature, which minimises nll there, and fitted_nll, fitted_ece
    and fitted_classwise_ece at it.

  Raises:
    ValueError: the shapes do not fit, or labels are not in 0..K-1.

  Source: Brier (1950); Naeini et al. (2015), AAAI, and Nixon et al. (2019),
  arXiv:1904.01685 (calibration); Guo et al. (2017), arXiv:1706.04599
  (temperature); Geifman et al. (2019), arXiv:1805.08206 (aurc).
  """
  logits, labels = _checked(logits, labels)
  log_q, log_p = _pair(logits, normal_logits)
  q, truth = np.exp(log_q), np.eye(log_q.shape[-1])[labels]
  right = log_q.argmax(-1) == labels
  found = {
    'accuracy': 100.0 * float(right.mean()),
    'flipped': 100.0 * float(np.mean(log_q.argmax(-1) != log_p.argmax(-1))),
    'brier': float(np.mean(np.sum((q - truth) ** 2, axis=-1))),
    **_calibration(q, labels),
    'aurc': 100.0 * _area_under_risk(q.max(-1), right),
    'l1': float(np.mean(np.abs(q - np.exp(log_p)).sum(-1))),
  }
  if log_q.shape[-1] > 5:
    # Of equal scores the first, as everywhere.
    best = np.argsort(-log_q, axis=-1, kind='stable')[:, :5]
    found['top5'] = 100.0 * float(np.mean((best == labels[:, None]).any(-1)))
  if held_out is not None and len(held_out[1]):
    of_others, theirs = _checked(*held_out)
    log_h = _log_scores(of_others[:_CALIBRATION_IMAGES])
    temperature = _temperature(log_h, theirs[:_CALIBRATION_IMAGES])
    fitted = _calibration(_at(log_q, temperature), labels)
    found |= {'temperature': temperature}
    found |= {f'fitted_{name}': value for name, value in fitted.items()}
  return found


def pack(hits: np.ndarray) -> str:
  """bool[N] as text, 8 images in two hexadecimal digits."""
  return np.packbits(np.asarray(hits, bool)).tobytes().hex()


def unpack(text: str, number: int) -> np.ndarray:
  """bool[number], of `pack`.

  Example:
    >>> unpack(pack(np.array([True, False, True])), 3)
    array([ True, False,  True])
  """
  packed = np.frombuffer(bytes.fromhex(text), np.uint8)
  return np.unpackbits(packed, count=number).astype(bool)


def fidelity(
  logits: np.ndarray, teacher_logits: np.ndarray
) -> dict[str, float]:
  """How closely a student answers like its teacher.

  Args:
    logits: float[N, K], of the student.
    teacher_logits: float[N, K].

  Returns:
    agreement: percent of examples with the same top class; kl: the mean of
    KL(teacher || student) at temperature 1, in nats.

  Raises:
    ValueError: the shapes differ.

  Source: Stanton et al. (2021), arXiv:2106.05945, section 3.
  """
  log_q, log_p = _pair(logits, teacher_logits)
  same = np.argmax(logits, -1) == np.argmax(teacher_logits, -1)
  return {
    'agreement': 100.0 * float(np.mean(same)),
    'kl': float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))),
  }


def largest_change(logits: np.ndarray, other_logits: np.ndarray) -> float:
  """How far a score of some answers lies from that of others, at most.

  Args:
    logits: float[N, K].
    other_logits: float[N, K], to the same images.

  Returns:
    `max_nk |q_nk - p_nk|`, 0 to 1.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> largest_change(np.zeros((1, 2)), np.log([[0.8, 0.2]])).__round__(6)
    0.3
  """
  log_q, log_p = _pair(logits, other_logits)
  return float(np.abs(np.exp(log_q) - np.exp(log_p)).max())


def _checked(
  logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """[N, K] and [N], as arrays."""
  logits, labels = np.asarray(logits), np.asarray(labels)
  if logits.ndim != 2 or not logits.size or logits.shape[:1] != labels.shape:
    raise errors.InputError(
      f'logits of shape {logits.shape} and labels of shape {labels.shape}; '
      'expected [N, K] and [N], of at least one example'
    )
  checks.labels(labels, logits.shape[-1])
  if labels.min() < 0:
    raise errors.InputError('the images have no labels; expected 0 to K - 1')
  return logits, labels


def _pair(
  logits: np.ndarray, other_logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The log-scores of two sets of answers, [N, K] each."""
  log_q, log_p = _log_scores(logits), _log_scores(other_logits)
  if log_q.shape != log_p.shape or log_q.ndim != 2:
    raise errors.InputError(
      f'answers of shapes {log_q.shape} and {log_p.shape}; expected the same '
      '[N, K] of both'
    )
  return log_q, log_p


def _log_scores(logits: np.ndarray) -> np.ndarray:
  """float64[N, K]; a class that is withheld has a finite one, too."""
  finite = np.maximum(np.float64(logits), losses.WITHHELD)
  return scipy.special.log_softmax(finite, axis=-1)


def _floored(p: np.ndarray) -> np.ndarray:
  """log((1 - K f) p + f)."""
  return np.log((1 - p.shape[-1] * _FLOOR) * p + _FLOOR)


def _nll(log_p: np.ndarray, labels: np.ndarray) -> float:
  return float(-np.mean(log_p[np.arange(len(labels)), labels]))


def _calibration(q: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """nll, ece and classwise_ece of scores float[N, K]; see `price`."""
  truth = np.eye(q.shape[-1])[labels]
  by_class = zip(q.T, truth.T, strict=True)
  classwise = [_calibration_error(*pair) for pair in by_class]
  return {
    'nll': _nll(_floored(q), labels),
    'ece': 100.0 * _calibration_error(q.max(-1), q.argmax(-1) == labels),
    'classwise_ece': 100.0 * float(np.mean(classwise)),
  }


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
  """`sum_b n_b / N |mean confidence - mean right|` over bins (a, b]."""
  # Of few digits, scores lie on edges, on which rounding is to decide nothing.
  edges = np.ceil(np.round(confidence * _BINS, 5))
  places = np.clip(edges - 1, 0, _BINS - 1).astype(int)
  gaps = np.bincount(places, confidence - right, _BINS)
  return float(np.abs(gaps).sum() / len(confidence))


def _area_under_risk(confidence: np.ndarray, right: np.ndarray) -> float:
  """Among equally sure answers, the mean over all orders of them."""
  # Equal scores of other shapes differ in the last digits of their logarithms.
  _, group, counts = np.unique(
    -np.round(confidence, 6), return_inverse=True, return_counts=True
  )
  wrong = np.bincount(group, ~right, len(counts))
  errors_so_far = np.cumsum(np.repeat(wrong / counts, counts))
  return float(np.mean(errors_so_far / np.arange(1, len(right) + 1)))


def _at(log_p: np.ndarray, temperature: float) -> np.ndarray:
  """softmax(log p / T); what is withheld stays so."""
  return scipy.special.softmax(log_p / temperature, axis=-1)


def _temperature(log_p: np.ndarray, labels: np.ndarray) -> float:
  """The one with the least nll."""
  from scipy import optimize  # Every command would wait for it.

  def loss(log_temperature: float) -> float:
    return _nll(_floored(_at(log_p, np.exp(log_temperature))), labels)

  def least(low: float, high: float) -> Any:
    return optimize.minimize_scalar(loss, bounds=(low, high), method='bounded')

  low, high = np.log(_TEMPERATURES)
  tried = np.linspace(low, high, _TRIED)
  found = least(low, high)
  # The floor lets a loss have several minima, of which the search finds one.
  losses_tried = [loss(one) for one in tried]
  best = int(np.argmin(losses_tried))
  if losses_tried[best] < found.fun - 1e-4:
    found = least(tried[max(best - 1, 0)], tried[min(best + 1, _TRIED - 1)])
  return float(np.exp(found.x))
