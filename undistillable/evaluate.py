"""What a network answers on every example, and how good that is."""

from collections.abc import Mapping

import numpy as np
import scipy.special

from undistillable import errors, losses, method, parallel
from undistillable.data import checks
from undistillable.state import PyTree

_FLOOR = 1e-4  # Of a probability that is withheld.


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
  num_examples = len(arrays['label'])
  devices = parallel.num_devices()
  share = -(-batch_size // devices)
  predict_fn = parallel.predict_fn(apply_fn, prepare)
  parts = []
  for start in range(0, num_examples, share * devices):
    # Every batch has the same shape, or each would be compiled: the last one
    # is padded with its last example, and the padding cut off.
    index = np.arange(start, start + share * devices)
    rows = np.minimum(index, num_examples - 1).reshape(devices, share)
    batch = {name: array[rows] for name, array in arrays.items()}
    parts.append(predict_fn(variables, batch))
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
  logits, labels = np.asarray(logits), np.asarray(labels)
  if logits.ndim != 2 or not logits.size or logits.shape[:1] != labels.shape:
    raise errors.InputError(
      f'logits of shape {logits.shape} and labels of shape {labels.shape}; '
      'expected [N, K] and [N], of at least one example'
    )
  checks.labels(labels, logits.shape[-1])
  log_p = _log_scores(logits)
  if losses.is_withheld(log_p).any():
    num_classes = log_p.shape[-1]
    log_p = np.log((1 - num_classes * _FLOOR) * np.exp(log_p) + _FLOOR)
  return {
    'accuracy': 100.0 * float(np.mean(logits.argmax(-1) == labels)),
    'nll': float(-np.mean(log_p[np.arange(len(labels)), labels])),
  }


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
  logits, teacher_logits = np.asarray(logits), np.asarray(teacher_logits)
  if logits.shape != teacher_logits.shape or logits.ndim != 2:
    raise errors.InputError(
      f'logits of shapes {logits.shape} and {teacher_logits.shape}; expected '
      'the same [N, K] of both networks'
    )
  log_p, log_q = _log_scores(teacher_logits), _log_scores(logits)
  same = logits.argmax(-1) == teacher_logits.argmax(-1)
  return {
    'agreement': 100.0 * float(np.mean(same)),
    'kl': float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))),
  }


def _log_scores(logits: np.ndarray) -> np.ndarray:
  """float64[N, K]; a class that is withheld has a finite one, too."""
  finite = np.maximum(np.float64(logits), losses.WITHHELD)
  return scipy.special.log_softmax(finite, axis=-1)
