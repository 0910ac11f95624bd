"""The one training loop."""

import contextlib
import functools
import os
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
  trainee as trainee_lib,
)
from undistillable.data import batches, checks

# What a network sees when it is initialised; most read no more than the shape.
_FIRST_IMAGES = 500

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
  ask_with: parallel.PrepareFn | None = None,
  evaluate_fn: trainee_lib.EvaluateFn | None = None,
  evaluate_every_epochs: int = 1,
  folder: str | os.PathLike[str] | None = None,
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
    arrays: the training set, image uint8[N, H, W, C] and label int[N], in
      0..K-1; or all -1 where the method reads none.
    prepare: see `data.batches.prepare_fn`.
    epochs: how often every example is seen, but for the rest of a last batch.
    batch_size: over all devices.
    frozen: variables of the networks that the method reads, by role.
    seed: of initialisation, order, augmentation and dropout.
    stream: a name that parts the order, augmentation and dropout of networks
      with one seed, not their initial weights: a protected teacher starts
      where its normal twin did, and sees other batches, as in the released
      code of Ma et al. (2021), arXiv:2105.07381.
    ask_with: asks the networks of `method.answer_fns` once, about every image
      as this prepares it; None asks anew in each epoch, about the images as
      the network in training sees them.
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
    ValueError: the batch does not fit the data or the devices, or the arrays
      are no examples of the network's classes.
    errors.DivergedError: the loss, or what is evaluated, is not finite.
  """
  arrays = checks.examples(arrays)
  num_classes = _num_classes(method, arrays, prepare, frozen)
  if num_classes is not None:
    checks.labels(arrays['label'], num_classes)
  (outcome,) = fit_together(
    [trainee_lib.Trainee(method, evaluate_fn, folder, label, remedy)],
    arrays,
    prepare,
    epochs=epochs,
    batch_size=batch_size,
    frozen=frozen,
    seed=seed,
    stream=stream,
    ask_with=ask_with,
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
  ask_with: parallel.PrepareFn | None = None,
  evaluate_every_epochs: int = 1,
  checkpoint_every_epochs: int = 1,
  on_step: OnStepFn | None = None,
) -> list[Any]:
  """Trains networks on the same batches, epoch by epoch, side by side.

  What frozen networks answer to a batch is asked for once for all of those
  whose `answer_fns` are equal. Each becomes, bit for bit, what it would alone,
  and one that diverges leaves the others as they are.

  Args:
    trainees: the networks.
    arrays: one training set for all of them; see `fit`, as for what follows.
    prepare: images for the networks.
    epochs: as many for each.
    batch_size: over all devices.
    frozen: what any of the methods reads.
    seed: for each the one with which it would train alone.
    stream: for each alike.
    ask_with: for each alike.
    evaluate_every_epochs: and after the last one.
    checkpoint_every_epochs: and after the last one.
    on_step: called with the steps of one of the networks, loss and accuracy.

  Returns:
    For each, in order, its last state, or the DivergedError that stopped it.

  Raises:
    ValueError: the batch does not fit the data or the devices.
  """
  arrays = checks.examples(arrays)
  num_examples = len(arrays['label'])
  batch_size = checks.whole('batch_size', batch_size, 1)
  parallel.check_batch_size(batch_size, num_examples)
  epochs = checks.whole('epochs', epochs, 1)
  seed = checks.whole('seed', seed)
  for name, every in (
    ('evaluate_every_epochs', evaluate_every_epochs),
    ('checkpoint_every_epochs', checkpoint_every_epochs),
  ):
    checks.whole(name, every, 1)
  for trainee in trainees:
    for role in trainee.method.answer_fns:
      if role not in (frozen or {}):
        raise errors.InputError(
          f'the method asks a frozen network, the {role}; expected its '
          f'variables, as frozen={{{role!r}: variables}}'
        )
  init_key, *keys = jax.random.split(jax.random.key(seed), 3)
  number = zlib.crc32(stream.encode())  # Python's own hash is salted.
  order_key, step_key = (jax.random.fold_in(key, number) for key in keys)
  data = parallel.replicate(dict(arrays))
  frozen = parallel.replicate(dict(frozen or {}))

  def train_from(
    first_epoch: int, members: Sequence[trainee_lib.Member]
  ) -> None:
    """Trains those that have got equally far, and ask the same."""
    answer_fns = members[0].trainee.method.answer_fns
    read = {k: v for k, v in frozen.items() if k not in answer_fns}
    answers: dict[str, Any] = {}
    if ask_with:
      answers = _ask_once(answer_fns, frozen, data, ask_with, batch_size)
    for epoch in range(first_epoch + 1, epochs + 1):
      if all(member.failed for member in members):
        return
      order = batches.epoch_order(
        jax.random.fold_in(order_key, epoch),
        num_examples=num_examples,
        batch_size=batch_size,
        num_devices=parallel.num_devices(),
      )
      if not ask_with:
        first_step = (epoch - 1) * len(order)
        answers = {
          role: parallel.answers(
            ask, prepare, frozen[role], data, order, first_step, step_key
          )
          for role, ask in answer_fns.items()
        }
      lesson = {**data, 'answers': parallel.replicate(answers)}
      for member in members:
        if member.failed:
          continue
        start = time.monotonic()
        run_epoch = parallel.epoch_fn(member.trainee.method, prepare)
        state = member.outcome
        for new, metrics in run_epoch(state, read, lesson, order, step_key):
          state = new
          member.add(metrics)
          if on_step:
            on_step(*_last_of(metrics))
          if member.failed:
            break
        last = epoch == epochs
        member.end_epoch(
          epoch,
          state,
          time.monotonic() - start,
          evaluate=last or epoch % evaluate_every_epochs == 0,
          save=last or epoch % checkpoint_every_epochs == 0,
        )

  with contextlib.ExitStack() as stack:
    alike: dict[Any, list[trainee_lib.Member]] = {}
    everyone = []
    for trainee in trainees:
      record = stack.enter_context(trainee_lib.Record(trainee.folder))
      method = trainee.method
      state = initial_state(method, arrays, prepare, init_key, frozen)
      epoch, state = record.resume(state)
      everyone.append(trainee_lib.Member(trainee, record, state))
      key = epoch, frozenset(method.answer_fns.items())
      alike.setdefault(key, []).append(everyone[-1])
    for (epoch, _), members in alike.items():
      train_from(epoch, members)
  return [member.outcome for member in everyone]


def _num_classes(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  frozen: method_lib.Frozen | None,
) -> int | None:
  """How many classes a network tells apart; None where nobody says.

  Nothing is computed. What does not fit the arrays is found before a compiler
  could be busy with it.
  """
  few = {k: v[:1] for k, v in arrays.items()}
  key, order = jax.random.key(0), np.zeros(1, np.int32)
  try:
    batch = jax.eval_shape(prepare, few, order, key)
  except KeyError as error:
    raise errors.InputError(
      f'prepare reads {error} of the arrays; given {", ".join(few)}'
    ) from error
  if method.logits_fn is None:
    return None
  state = jax.eval_shape(method.init, key, batch, dict(frozen or {}))
  logits = jax.eval_shape(method.logits_fn, state.variables, batch['image'])
  return logits.shape[-1]


def _ask_once(
  answer_fns: Mapping[str, method_lib.ApplyFn],
  frozen: method_lib.Frozen,
  arrays: Mapping[str, jax.Array],
  prepare: parallel.PrepareFn,
  batch_size: int,
) -> dict[str, np.ndarray]:
  """Answers to every image, in the order of the data."""
  num_examples, devices = len(arrays['label']), parallel.num_devices()
  steps = -(-num_examples // batch_size)
  # The last batch is padded with the last example.
  order = np.minimum(np.arange(steps * batch_size), num_examples - 1)
  order = order.reshape(steps, devices, -1).astype(np.int32)
  key = jax.random.key(0)  # Nothing is drawn.
  return {
    role: parallel.answers(ask, prepare, frozen[role], arrays, order, 0, key)
    for role, ask in answer_fns.items()
  }


def initial_state(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  key: jax.Array,
  frozen: method_lib.Frozen | None = None,
) -> Any:
  """The state before the first step, on every device."""
  init = _init_fn(method, prepare)
  few = {k: v[:_FIRST_IMAGES] for k, v in arrays.items()}
  return parallel.replicate(init(key, few, dict(frozen or {})))


@functools.lru_cache(maxsize=16)
def _init_fn(
  method: method_lib.Method, prepare: parallel.PrepareFn
) -> Callable[..., Any]:
  """Compiled once for all seeds."""

  def init(key: jax.Array, arrays: Any, frozen: method_lib.Frozen) -> Any:
    order = np.arange(len(arrays['label']), dtype=np.int32)
    batch = prepare(arrays, order, key)
    return method.init(key, batch, frozen)

  return jax.jit(init)


def _last_of(metrics: trainee_lib.HostMetrics) -> tuple[int, float, float]:
  """How many steps were taken, and how well the network did in the last."""
  return (
    len(metrics['loss']),
    float(metrics['loss'][-1]),
    float(metrics['accuracy'][-1]),
  )
