"""The one training loop."""

import contextlib
import functools
import pathlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from undistillable import (
  errors,
  method as method_lib,
  parallel,
  state as state_lib,
  trainee as trainee_lib,
)
from undistillable.data import batches

OnStepFn = Callable[[int, float, float], None]  # steps, loss, accuracy


def fit(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  epochs: int,
  batch_size: int = 128,
  frozen: method_lib.Frozen | None = None,
  seed: int = 0,
  stream: str = '',
  evaluate_fn: trainee_lib.EvaluateFn | None = None,
  evaluate_every_epochs: int = 1,
  folder: pathlib.Path | None = None,
  checkpoint_every_epochs: int = 1,
  on_step: OnStepFn | None = None,
  label: str = 'network',
  remedy: str = 'lower the learning rate',
) -> Any:
  """Trains one network.

  Every random number depends on the seed, the stream and the number of the step
  alone, so that a resumed training equals an uninterrupted one.

  Args:
    method: from `defenses` or `attacks`.
    arrays: the training set, image uint8[N, H, W, C] and label int32[N].
    prepare: see `data.batches.prepare_fn`.
    epochs: how often every example is seen, but for the rest of a last batch.
    batch_size: over all devices.
    frozen: variables of the networks that the method reads, by role.
    seed: of initialisation, order, augmentation and dropout.
    stream: a name that parts the order, augmentation and dropout of networks
      with one seed, not their initial weights: a protected teacher starts
      where its normal twin did, and sees other batches, as in the released
      code of Ma et al. (2021), arXiv:2105.07381.
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
  (outcome,) = fit_together(
    [trainee_lib.Trainee(method, evaluate_fn, folder, label, remedy)],
    arrays,
    prepare,
    epochs=epochs,
    batch_size=batch_size,
    frozen=frozen,
    seed=seed,
    stream=stream,
    evaluate_every_epochs=evaluate_every_epochs,
    checkpoint_every_epochs=checkpoint_every_epochs,
    on_step=on_step,
  )
  if isinstance(outcome, errors.DivergedError):
    raise outcome
  return outcome


def fit_together(
  trainees: Sequence[trainee_lib.Trainee],
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  epochs: int,
  batch_size: int = 128,
  frozen: method_lib.Frozen | None = None,
  seed: int = 0,
  stream: str = '',
  evaluate_every_epochs: int = 1,
  checkpoint_every_epochs: int = 1,
  on_step: OnStepFn | None = None,
) -> list[Any]:
  """Trains networks on the same batches; what they share is computed once.

  Each becomes what it would alone, but for the rounding of another program.
  One that diverges leaves the others as they are.

  Args:
    trainees: the networks.
    arrays: one training set for all of them; see `fit`, as for what follows.
    prepare: images for the networks.
    epochs: as many for each.
    batch_size: over all devices.
    frozen: what any of the methods reads.
    seed: for each the one with which it would train alone.
    stream: for each alike.
    evaluate_every_epochs: and after the last one.
    checkpoint_every_epochs: and after the last one.
    on_step: called with a number of steps, summed over the networks, and
      with the mean of their losses and accuracies.

  Returns:
    For each, in order, its last state, or the DivergedError that stopped it.

  Raises:
    ValueError: the batch does not fit the data or the devices.
  """
  parallel.check_batch_size(batch_size, len(arrays['label']))
  if epochs < 1:
    raise ValueError(f'epochs={epochs}; expected at least 1')
  init_key, *keys = jax.random.split(jax.random.key(seed), 3)
  number = zlib.crc32(stream.encode())  # Python's own hash is salted.
  order_key, step_key = (jax.random.fold_in(key, number) for key in keys)
  data = parallel.replicate(dict(arrays))
  frozen = parallel.replicate(dict(frozen or {}))
  order_fn = functools.partial(
    batches.epoch_order,
    num_examples=len(arrays['label']),
    batch_size=batch_size,
    num_devices=parallel.num_devices(),
  )

  def train_from(
    first_epoch: int, members: Sequence[trainee_lib.Member]
  ) -> None:
    """Trains those that have got equally far."""
    method = method_lib.together(tuple(m.trainee.method for m in members))
    run_epoch = parallel.epoch_fn(method, prepare)
    states = state_lib.States(tuple(m.outcome for m in members))
    for epoch in range(first_epoch + 1, epochs + 1):
      start = time.monotonic()
      order = order_fn(jax.random.fold_in(order_key, epoch))
      for new, metrics in run_epoch(states, frozen, data, order, step_key):
        states = new
        for member, of_member in zip(members, metrics, strict=True):
          member.add(of_member)
        if on_step:
          on_step(*_step_of(metrics))
        if all(member.failed for member in members):
          return
      secs = (time.monotonic() - start) / len(members)
      last = epoch == epochs
      for member, state in zip(members, states.members, strict=True):
        member.end_epoch(
          epoch,
          state,
          secs,
          evaluate=last or epoch % evaluate_every_epochs == 0,
          save=last or epoch % checkpoint_every_epochs == 0,
        )

  with contextlib.ExitStack() as stack:
    by_epoch: dict[int, list[trainee_lib.Member]] = {}
    everyone = []
    for trainee in trainees:
      record = stack.enter_context(trainee_lib.Record(trainee.folder))
      state = initial_state(trainee.method, arrays, prepare, init_key)
      epoch, state = record.resume(state)
      everyone.append(trainee_lib.Member(trainee, record, state))
      by_epoch.setdefault(epoch, []).append(everyone[-1])
    for epoch, members in sorted(by_epoch.items()):
      train_from(epoch, members)
  return [member.outcome for member in everyone]


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


def _step_of(
  metrics: Sequence[trainee_lib.HostMetrics],
) -> tuple[int, float, float]:
  """How many steps all networks took, and how well they did in the last."""
  count = sum(len(of_one['loss']) for of_one in metrics)
  loss, accuracy = (
    float(np.mean([of_one[key][-1] for of_one in metrics]))
    for key in ('loss', 'accuracy')
  )
  return count, loss, accuracy
