"""The one training loop."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from undistillable import errors, method as method_lib
from undistillable.data import checks
from undistillable.storage import lease, paths
from undistillable.training import (
  checkpoints,
  hosts,
  parallel,
  streaming,
  writers,
)

# What a network sees when it is initialised; most read no more than the shape.
_FIRST_IMAGES = 500
# Between two checkpoints, as a multiple of what the first of them took.
_PAUSE = 20

EvaluateFn = Callable[[Any], dict[str, float]]  # variables -> numbers
OnStepFn = Callable[[int, float, float], None]  # steps, loss, accuracy


@dataclasses.dataclass(frozen=True)
class Trainee:
  """A network to train, alone or beside others.

  Attributes:
    method: from `defenses` or `attacks`.
    evaluate_fn: its numbers enter the metrics under their names.
    folder: for metrics and checkpoints; a training that stopped there is
      resumed. None writes nothing.
    label: what to call the network in errors.
    remedy: what to change should the loss become non-finite.
  """

  method: method_lib.Method
  evaluate_fn: EvaluateFn | None = None
  folder: str | os.PathLike[str] | None = None
  label: str = 'network'
  remedy: str = 'lower the learning rate'


def fit(
  method: method_lib.Method,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  evaluate_fn: EvaluateFn | None = None,
  folder: str | os.PathLike[str] | None = None,
  **options: Any,
) -> Any:
  """Trains one network.

  Args:
    method: from `defenses` or `attacks`.
    arrays: the training set, image uint8[N, H, W, C] and label int[N], in
      0..K-1; or all -1 where the method reads none.
    prepare: see `data.batches.prepare_fn`.
    evaluate_fn: see `Trainee`.
    folder: see there.
    **options: epochs and the others of `fit_together`.

  Returns:
    The last state; `.variables` are those of the trained network.

  Raises:
    ValueError: the batch does not fit the data or the devices, or the arrays
      are no examples of the network's classes.
    errors.DivergedError: the loss, or what is evaluated, is not finite.
  """
  arrays = checks.examples(arrays)
  num_classes = _num_classes(method, arrays, prepare, options.get('frozen'))
  if num_classes is not None:
    checks.labels(arrays['label'], num_classes)
  trainee = Trainee(method, evaluate_fn, folder)
  (outcome,) = fit_together([trainee], arrays, prepare, **options)
  if isinstance(outcome, errors.DivergedError):
    raise outcome
  return outcome


def fit_together(
  trainees: Sequence[Trainee],
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  epochs: int,
  batch_size: int = 128,
  frozen: method_lib.Frozen | None = None,
  seed: int = 0,
  stream: str = '',
  ask_with: parallel.PrepareFn | None = None,
  resident: bool | None = None,
  evaluate_every_epochs: int = 1,
  checkpoint_every_epochs: int = 1,
  on_step: OnStepFn | None = None,
) -> list[Any]:
  """Trains networks on the same batches, epoch by epoch, side by side.

  What frozen networks answer to a batch is asked for once for all of those
  whose `answer_fns` are equal. Each becomes, bit for bit, what it would alone,
  and one that diverges leaves the others as they are.

  Every random number depends on the seed, the stream and the number of the step
  alone, so that a resumed training equals an uninterrupted one.

  Args:
    trainees: the networks.
    arrays: the training set, image uint8[N, H, W, C] and label int[N], in
      0..K-1; or all -1 where the method reads none.
    prepare: see `data.batches.prepare_fn`.
    epochs: how often every example is seen, but for the rest of a last batch.
    batch_size: over all devices.
    frozen: variables of the networks that the methods read, by role.
    seed: of initialisation, order, augmentation and dropout.
    stream: a name that parts the order, augmentation and dropout of networks
      with one seed, not their initial weights: a protected teacher starts
      where its normal twin did, and sees other batches, as in the released
      code of Ma et al. (2021), arXiv:2105.07381.
    ask_with: asks the networks of `method.answer_fns` once, about every image
      as this prepares it; None asks anew in each epoch, about the images as
      the network in training sees them.
    resident: whether the training set lies on the devices, or stays on the
      host, which sends what the next steps take; no number depends on it. None
      decides by the memory there is; see `streaming.is_needed`. Without images
      nothing is sent.
    evaluate_every_epochs: and after the last one.
    checkpoint_every_epochs: or after more of them, where these take less than
      twenty times what a checkpoint does; and after the last one.
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
  frozen = parallel.replicate(dict(frozen or {}))
  # Each host has a memory of its own; numbers alone are wanted as they are.
  if resident is None or 'image' not in arrays:
    resident = hosts.of_main(not streaming.is_needed(arrays))
  split_axis = None if resident else 0
  place = parallel.replicate if resident else lambda tree: tree
  data = place(arrays)

  def ask(
    answer_fns: Mapping[str, method_lib.ApplyFn],
    prepare: parallel.PrepareFn,
    lesson: parallel.Lesson,
  ) -> Any:
    parts = None if resident else streaming.parts(lesson)
    return place(parallel.answers(answer_fns, prepare, lesson, parts))

  members: list[_Member] = []
  # Those that have got equally far, and ask the same.
  alike: dict[Any, list[_Member]] = {}
  with contextlib.ExitStack() as stack:
    for trainee in trainees:
      method = trainee.method
      member = _Member(
        trainee,
        initial_state(method, arrays, prepare, init_key, frozen),
        stack,
      )
      members.append(member)
      key = member.epochs_done, frozenset(method.answer_fns.items())
      alike.setdefault(key, []).append(member)
    for (epochs_done, _), together in alike.items():
      answer_fns = together[0].trainee.method.answer_fns
      read = {k: v for k, v in frozen.items() if k not in answer_fns}
      answers: dict[str, Any] = {}
      if ask_with:
        order = parallel.order_of_all(num_examples, batch_size)
        # Nothing is drawn.
        lesson = parallel.Lesson(frozen, data, order, jax.random.key(0))
        answers = ask(answer_fns, ask_with, lesson)
      save_after = 0.0
      for epoch in range(epochs_done + 1, epochs + 1):
        learning = [member for member in together if not member.failed]
        if not learning:
          break
        epoch_key = jax.random.fold_in(order_key, epoch)
        order = parallel.epoch_order(epoch_key, num_examples, batch_size)
        first_step = (epoch - 1) * len(order)
        lesson = parallel.Lesson(frozen, data, order, step_key, first_step)
        if not ask_with:
          answers = ask(answer_fns, prepare, lesson)
        known = {**data, 'answers': answers}
        lesson = lesson._replace(frozen=read, arrays=known)
        last = epoch == epochs
        for member in learning:
          member.go_through(
            parallel.epoch_fn(member.trainee.method, prepare, split_axis),
            [lesson] if resident else streaming.parts(lesson),
            epoch,
            on_step,
            evaluate=last or epoch % evaluate_every_epochs == 0,
          )
        if last or epoch % checkpoint_every_epochs == 0:
          save_after = _save(learning, epoch, 0.0 if last else save_after)
  return [member.outcome for member in members]


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
  key, order = jax.random.key(0), np.zeros(1, np.int32)
  try:
    batch = jax.eval_shape(prepare, arrays, order, key)
  except KeyError as error:
    raise errors.InputError(
      f'prepare reads {error} of the arrays; given {", ".join(arrays)}'
    ) from error
  if method.logits_fn is None:
    return None
  state = jax.eval_shape(method.init, key, batch, dict(frozen or {}))
  logits = jax.eval_shape(method.logits_fn, state.variables, batch['image'])
  return logits.shape[-1]


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

  options = {}
  optimizes = not jax.config.values.get('jax_disable_most_optimizations')
  if optimizes and jax.default_backend() == 'cpu':
    # Random numbers of dozens of arrays keep LLVM busy for longer than the
    # steps of a small network; the bits are the same.
    options = {'xla_backend_optimization_level': 1}
  return jax.jit(init, compiler_options=options)


class _Member:
  """A network in training, what has become of it, and what its folder holds."""

  def __init__(self, trainee: Trainee, state: Any, stack: contextlib.ExitStack):
    self.trainee = trainee
    self.epochs_done = 0
    self.outcome: Any = state  # Or the error that ended it.
    self._folder: pathlib.Path | None = None
    if trainee.folder is not None:
      self._folder = paths.local(trainee.folder, 'folder')
      self._checkpoints = stack.enter_context(
        checkpoints.Checkpoints(self._folder / 'checkpoints')
      )
      # The main host alone writes them.
      self._metrics = writers.Metrics(self._folder)
      stack.callback(self._metrics.close)
      self.epochs_done, last = self._checkpoints.restore(state)
      self.outcome = state if last is None else last
      hosts.by_main(self._metrics.resume)(
        self.epochs_done, self._checkpoints.metrics()
      )
    self._step = int(self.outcome.step)
    self._chunks: list[parallel.HostMetrics] = []  # Of this epoch.

  @property
  def failed(self) -> bool:
    """Whether it has diverged; what is still computed for it is dropped."""
    return isinstance(self.outcome, errors.DivergedError)

  def go_through(
    self,
    run_epoch: parallel.EpochFn,
    lessons: Iterable[parallel.Lesson],
    epoch: int,
    on_step: OnStepFn | None,
    *,
    evaluate: bool,
  ) -> None:
    """Takes the steps of an epoch, and writes what there is to say of it."""
    start, state = time.monotonic(), self.outcome
    for lesson in lessons:
      for new, metrics in run_epoch(state, lesson):
        state = new
        self._note(metrics)
        if on_step:
          loss, accuracy = metrics['loss'], metrics['accuracy']
          on_step(len(loss), float(loss[-1]), float(accuracy[-1]))
        if self.failed:
          return
    scalars = {'epoch': epoch, 'step': self._step, **self._means()}
    if evaluate and self.trainee.evaluate_fn:
      values = self.trainee.evaluate_fn(state.variables)
      try:
        check_finite(values, self.trainee.label, self.trainee.remedy)
      except errors.DivergedError as error:
        self.outcome = error
        return
      scalars |= values
    self.outcome = state
    self._write(scalars | {'secs': time.monotonic() - start})

  def _note(self, metrics: parallel.HostMetrics) -> None:
    """Takes note of the next steps; the first non-finite loss is the end."""
    finite = np.isfinite(metrics['loss'])
    if not finite.all():
      step = self._step + int(np.argmin(finite)) + 1
      self.outcome = errors.DivergedError(
        f'{self.trainee.label}: the loss is not finite at step {step}; '
        f'{self.trainee.remedy}'
      )
    self._chunks.append(metrics)
    self._step += len(finite)

  def _means(self) -> dict[str, float]:
    """The metrics of the epoch that ends."""
    chunks, self._chunks = self._chunks, []
    return {
      f'train_{key}': float(np.concatenate([c[key] for c in chunks]).mean())
      for key in chunks[0]
    }

  @hosts.by_main
  def _write(self, scalars: Mapping[str, float]) -> None:
    """Writes the metrics of an epoch."""
    if self._folder:
      lease.check(self._folder)
      self._metrics.write(scalars)

  def save(self, epoch: int) -> None:
    """Writes a checkpoint, of what has not diverged."""
    if self._folder and not self.failed:
      lease.check(self._folder)
      self._checkpoints.save(epoch, self.outcome, self._metrics.lines)


@hosts.by_main
def _save(members: Iterable[_Member], epoch: int, after: float) -> float:
  """Saves networks that are trained side by side, all of them or none.

  A small network has an epoch in less time than a checkpoint takes: what comes
  before a time is not saved. Returns that of the next.
  """
  start = time.monotonic()
  if start < after:
    return after
  for member in members:
    member.save(epoch)
  now = time.monotonic()
  return now + _PAUSE * (now - start)


def check_finite(values: Mapping[str, float], label: str, remedy: str) -> None:
  """Raises DivergedError where an evaluation found anything but numbers.

  In training a BatchNorm hides weights that have grown beyond all bounds; its
  running statistics, with which a network is evaluated, do not.
  """
  if not np.isfinite(list(values.values())).all():
    raise errors.DivergedError(
      f'{label}: its answers are not finite when it is evaluated; {remedy}'
    )
