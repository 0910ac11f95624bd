"""A network in training: what watches it, what is written of it, its end."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from undistillable import (
  checkpoints,
  errors,
  method as method_lib,
  paths,
  writers,
)

EvaluateFn = Callable[[Any], dict[str, float]]  # variables -> numbers
HostMetrics = Mapping[str, np.ndarray]  # float[n] of n steps, by name


@dataclasses.dataclass(frozen=True)
class Trainee:
  """A network to train, alone or beside others; see `fit` for the fields."""

  method: method_lib.Method
  evaluate_fn: EvaluateFn | None = None
  folder: str | os.PathLike[str] | None = None
  label: str = 'network'
  remedy: str = 'lower the learning rate'


class Member:
  """A network in training, and what has become of it."""

  def __init__(self, trainee: Trainee, record: 'Record', state: Any):
    self.trainee = trainee
    self.outcome = state  # Or the error that ended it.
    self._record = record
    self._step = int(state.step)
    self._chunks: list[HostMetrics] = []  # Of this epoch.

  @property
  def failed(self) -> bool:
    """Whether it has diverged; what is still computed for it is dropped."""
    return isinstance(self.outcome, errors.DivergedError)

  def add(self, metrics: HostMetrics) -> None:
    """Takes note of the next steps; the first non-finite loss is the end."""
    if self.failed:
      return
    finite = np.isfinite(metrics['loss'])
    if not finite.all():
      step = self._step + int(np.argmin(finite)) + 1
      self.outcome = errors.DivergedError(
        f'{self.trainee.label}: the loss is not finite at step {step}; '
        f'{self.trainee.remedy}'
      )
    self._chunks.append(metrics)
    self._step += len(finite)

  def end_epoch(
    self, epoch: int, state: Any, secs: float, *, evaluate: bool, save: bool
  ) -> None:
    """Writes what there is to say of an epoch that took it `secs`."""
    if self.failed:
      return
    self.outcome = state
    scalars = {'epoch': epoch, 'step': self._step, **self._means()}
    if evaluate and self.trainee.evaluate_fn:
      start = time.monotonic()
      values = self.trainee.evaluate_fn(state.variables)
      secs += time.monotonic() - start
      try:
        check_finite(values, self.trainee.label, self.trainee.remedy)
      except errors.DivergedError as error:
        self.outcome = error
        return
      scalars |= values
    self._record.write(scalars | {'secs': secs})
    if save:
      self._record.save(epoch, state)

  def _means(self) -> dict[str, float]:
    """The metrics of the epoch that ends."""
    chunks, self._chunks = self._chunks, []
    return {
      f'train_{key}': float(np.concatenate([c[key] for c in chunks]).mean())
      for key in chunks[0]
    }


class Record:
  """What a training leaves in its folder; nothing without one."""

  def __init__(self, folder: str | os.PathLike[str] | None):
    self._metrics: writers.Metrics | None = None
    self._checkpoints: checkpoints.Checkpoints | None = None
    if folder is not None:
      folder = paths.local(folder, 'folder')
      folder.mkdir(parents=True, exist_ok=True)
      self._metrics = writers.Metrics(folder)
      self._checkpoints = checkpoints.Checkpoints(folder / 'checkpoints')

  def __enter__(self) -> 'Record':
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


def check_finite(values: Mapping[str, float], label: str, remedy: str) -> None:
  """Raises DivergedError where an evaluation found anything but numbers.

  In training a BatchNorm hides weights that have grown beyond all bounds; its
  running statistics, with which a network is evaluated, do not.
  """
  if not np.isfinite(list(values.values())).all():
    raise errors.DivergedError(
      f'{label}: its answers are not finite when it is evaluated; {remedy}'
    )
