"""The one training loop."""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from undistillable import (
  checkpoints,
  errors,
  method as method_lib,
  parallel,
  writers,
)
from undistillable.data import batches

EvaluateFn = Callable[[Any], dict[str, float]]  # variables -> numbers


def fit(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  epochs: int,
  batch_size: int = 128,
  frozen: method_lib.Frozen | None = None,
  seed: int = 0,
  evaluate_fn: EvaluateFn | None = None,
  evaluate_every_epochs: int = 1,
  folder: pathlib.Path | None = None,
  checkpoint_every_epochs: int = 1,
  on_step: Callable[[int, float, float], None] | None = None,
  label: str = 'network',
  remedy: str = 'lower the learning rate',
) -> Any:
  """Trains one network.

  Every random number depends on the seed and the number of the step alone, so
  that a resumed training equals an uninterrupted one.

  Args:
    method: from `defenses` or `attacks`.
    arrays: the training set, image uint8[N, H, W, C] and label int32[N].
    prepare: see `data.batches.prepare_fn`.
    epochs: how often every example is seen, but for the rest of a last batch.
    batch_size: over all devices.
    frozen: variables of the networks that the method reads, by role.
    seed: of initialisation, order, augmentation and dropout.
    evaluate_fn: its numbers enter the metrics under their names.
    evaluate_every_epochs: and after the last one.
    folder: for metrics and checkpoints; a training that stopped there is
      resumed. None writes nothing.
    checkpoint_every_epochs: and after the last one.
    on_step: called with a number of steps taken, their loss and accuracy.
    label: what to call the network in errors.
    remedy: what to change should the loss become non-finite.

  Returns:
    The last state; `.variables` are those of the trained network.

  Raises:
    ValueError: the batch does not fit the data or the devices.
    errors.DivergedError: the loss, or what is evaluated, is not finite.
  """
  parallel.check_batch_size(batch_size, len(arrays['label']))
  if epochs < 1:
    raise ValueError(f'epochs={epochs}; expected at least 1')
  init_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)
  state = initial_state(method, arrays, prepare, init_key)
  run_epoch = parallel.epoch_fn(method, prepare)
  data = parallel.replicate(dict(arrays))
  frozen = parallel.replicate(dict(frozen or {}))
  order_fn = functools.partial(
    batches.epoch_order,
    num_examples=len(arrays['label']),
    batch_size=batch_size,
    num_devices=parallel.num_devices(),
  )
  with _Record(folder) as record:
    first_epoch, state = record.resume(state)
    for epoch in range(first_epoch + 1, epochs + 1):
      start = time.monotonic()
      order = order_fn(jax.random.fold_in(order_key, epoch))
      means = _Means(label, (epoch - 1) * len(order), remedy)
      for new_state, metrics in run_epoch(state, frozen, data, order, step_key):
        state = new_state
        means.add(metrics)
        if on_step:
          on_step(means.last_count, *means.last)
      last = epoch == epochs
      scalars = {'epoch': epoch, 'step': epoch * len(order), **means.result()}
      if evaluate_fn and (last or epoch % evaluate_every_epochs == 0):
        values = evaluate_fn(state.variables)
        check_finite(values, label, remedy)
        scalars |= values
      record.write(scalars | {'secs': time.monotonic() - start})
      if last or epoch % checkpoint_every_epochs == 0:
        record.save(epoch, state)
  return state


def check_finite(values: Mapping[str, float], label: str, remedy: str) -> None:
  """Raises DivergedError where an evaluation found anything but numbers.

  In training a BatchNorm hides weights that have grown beyond all bounds; its
  running statistics, with which a network is evaluated, do not.
  """
  if not np.isfinite(list(values.values())).all():
    raise errors.DivergedError(
      f'{label}: its answers are not finite when it is evaluated; {remedy}'
    )


def initial_state(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  key: jax.Array,
) -> Any:
  """The state before the first step, on every device."""
  init = _init_fn(method, prepare)
  one = {k: v[:1] for k, v in arrays.items()}
  return parallel.replicate(init(key, one))


def abstract_state(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
) -> Any:
  """The shapes and types of a state, for restoring a checkpoint."""
  one = {k: v[:1] for k, v in arrays.items()}
  return jax.eval_shape(_init_fn(method, prepare), jax.random.key(0), one)


@functools.lru_cache(maxsize=16)
def _init_fn(
  method: method_lib.Method, prepare: parallel.PrepareFn
) -> Callable[..., Any]:
  """Compiled once for all seeds."""

  def init(key: jax.Array, arrays: Any) -> Any:
    batch = prepare(arrays, np.zeros(1, np.int32), key)
    return method.init(key, batch)

  return jax.jit(init)


class _Means:
  """Means of the metrics over an epoch; stops at the first non-finite loss."""

  def __init__(self, label: str, first_step: int, remedy: str):
    self._label, self._step, self._remedy = label, first_step, remedy
    self._chunks: list[parallel.HostMetrics] = []

  def add(self, metrics: parallel.HostMetrics) -> None:
    self._chunks.append(metrics)
    finite = np.isfinite(metrics['loss'])
    if not finite.all():
      step = self._step + int(np.argmin(finite)) + 1
      raise errors.DivergedError(
        f'{self._label}: the loss is not finite at step {step}; {self._remedy}'
      )
    self._step += len(finite)

  @property
  def last_count(self) -> int:
    return len(self._chunks[-1]['loss'])

  @property
  def last(self) -> tuple[float, float]:
    metrics = self._chunks[-1]
    return float(metrics['loss'][-1]), float(metrics['accuracy'][-1])

  def result(self) -> dict[str, float]:
    keys = self._chunks[0]
    return {
      f'train_{k}': float(np.concatenate([c[k] for c in self._chunks]).mean())
      for k in keys
    }


class _Record:
  """What a training leaves in its folder; nothing without one."""

  def __init__(self, folder: pathlib.Path | None):
    self._metrics: writers.Metrics | None = None
    self._checkpoints: checkpoints.Checkpoints | None = None
    if folder:
      folder.mkdir(parents=True, exist_ok=True)
      self._metrics = writers.Metrics(folder)
      self._checkpoints = checkpoints.Checkpoints(folder / 'checkpoints')

  def __enter__(self) -> '_Record':
    return self

  def __exit__(self, *exc_info: object) -> None:
    if self._metrics and self._checkpoints:
      self._metrics.close()
      self._checkpoints.close()

  def resume(self, state: Any) -> tuple[int, Any]:
    """Epochs done, and the state to go on from."""
    if not self._metrics or not self._checkpoints:
      return 0, state
    epoch, restored = self._checkpoints.restore(state)
    self._metrics.resume(epoch)
    return epoch, state if restored is None else restored

  def write(self, scalars: dict[str, float]) -> None:
    if self._metrics:
      self._metrics.write(scalars)

  def save(self, epoch: int, state: Any) -> None:
    if self._checkpoints:
      self._checkpoints.save(epoch, state)
