"""Training and prediction on many devices: the only file that splits work.

State, frozen networks and data are replicated; batches are split. Data may be
parts of a set that stays on the host, too, of which each device has its share:
see `streaming.parts`, for which `split_axis` is 0 instead of None. With
`in_axes=None` and `out_axes=None` the state has no device axis, so nothing is
ever replicated, unreplicated or indexed by hand. `out_axes=None` is not
checked: a step must average whatever it returns over `AXIS`.

Of several hosts each holds its own copies, feeds its own devices with their
share of every batch, and is given the answers of all: no array spans hosts.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from undistillable import errors, method as method_lib
from undistillable.data import augment
from undistillable.training import hosts

AXIS = 'batch'
# A loop on a CPU comes back after about as long, and after as many steps.
_SECS_ON_CPU = 4.0
_STEPS_ON_CPU = 64

# (arrays, indices int[b], rng) -> batch, on the device: gather, augment, ...
# The key is that of the whole batch, the same on all devices.
PrepareFn = Callable[[Any, jax.Array | np.ndarray, jax.Array], method_lib.Batch]
HostMetrics = Mapping[str, np.ndarray]  # float[n] of n steps, by name
T = TypeVar('T')


class Lesson(NamedTuple):
  """What the steps of an epoch read.

  Attributes:
    frozen: variables of other networks, by role.
    arrays: the training set, or a part of it.
    order: int32[steps, D, b], the examples of each step and device.
    key: of the random numbers of all steps.
    first_step: the number of the first step.
    num_steps: that are to be taken; None takes all of the order.
  """

  frozen: method_lib.Frozen
  arrays: Any
  order: np.ndarray
  key: jax.Array
  first_step: int = 0
  num_steps: int | None = None


# (state, lesson) -> states and the metrics of the steps since the last one.
EpochFn = Callable[[Any, Lesson], Iterator[tuple[Any, HostMetrics]]]

_permutation = jax.jit(jax.random.permutation, static_argnums=1)

_chosen: list[jax.Device] = []  # Empty: all there are.


def use(num_devices: int | None) -> None:
  """Says how many devices share a batch from now on; None for all there are.

  Raises:
    errors.InputError: there are not so many, or they are not all of several
      hosts.
  """
  there = jax.devices()
  if num_devices is not None and not 1 <= num_devices <= len(there):
    raise errors.InputError(
      f'num_devices={num_devices}; there are {len(there)}, and None takes all'
    )
  if hosts.count() > 1 and num_devices not in (None, len(there)):
    raise errors.InputError(
      f'num_devices={num_devices}; {hosts.count()} hosts take all of their '
      f'{len(there)} devices'
    )
  _chosen[:] = there[:num_devices]


def devices() -> list[jax.Device]:
  """Those that share a batch."""
  if hosts.count() == 1:
    return local_devices()
  return list(_chosen) or jax.devices()


def local_devices() -> list[jax.Device]:
  """Those of this host that share a batch."""
  here = jax.process_index()
  return [x for x in _chosen or jax.devices() if x.process_index == here]


def num_devices() -> int:
  """The number of devices that share a batch."""
  return len(devices())


def _for_devices(make: Callable[..., T]) -> Callable[..., T]:
  """Keeps the last few that were made, each for the devices of that moment."""

  @functools.lru_cache(maxsize=16)
  def made(_: tuple[jax.Device, ...], *args: Any, **kwargs: Any) -> T:
    return make(*args, **kwargs)

  @functools.wraps(make)
  def find(*args: Any, **kwargs: Any) -> T:
    return made(tuple(devices()), *args, **kwargs)

  return find


def check_batch_size(batch_size: int, num_examples: int) -> None:
  """Raises InputError for a batch that cannot be split or filled."""
  if batch_size < 1 or batch_size % num_devices():
    raise errors.InputError(
      f'batch_size={batch_size} cannot be split over {num_devices()} devices; '
      f'use a positive multiple of {num_devices()}'
    )
  if batch_size > num_examples:
    raise errors.InputError(
      f'batch_size={batch_size} is larger than the {num_examples} training '
      'examples; use a smaller one'
    )


def replicate(tree: Any) -> Any:
  """Arrays on every device, sent once and not again with each step.

  Of several hosts each sends its own to its devices; they must be the same.
  """
  return jax.device_put(tree, _everywhere())


def split(tree: Any) -> Any:
  """Arrays [D, ...] of which each of the D devices of this host has one."""
  return jax.device_put(tree, _everywhere(AXIS))


def epoch_order(
  key: jax.Array, num_examples: int, batch_size: int
) -> np.ndarray:
  """Which examples each device sees at each step of one epoch.

  A permutation of all examples; those left over by the last whole batch wait
  for the next epoch, which has another permutation.

  Args:
    key: of the epoch.
    num_examples: in the training set.
    batch_size: over all devices.

  Returns:
    int32[steps, D, batch_size // D], of D devices.
  """
  order = np.asarray(_permutation(key, num_examples))
  steps = num_examples // batch_size
  return order[: steps * batch_size].reshape(steps, num_devices(), -1)


@_for_devices
def epoch_fn(
  method: method_lib.Method, prepare: PrepareFn, split_axis: int | None = None
) -> EpochFn:
  """The fitting way to run an epoch on this backend.

  Compiled loops over the steps, which save what a call costs and, on a CPU, a
  page fault for every 4 KiB that a step works with. Only where a CPU would run
  what a foreign module puts into the loop slowly, one call a step.
  """
  loops = loops_fn(method, prepare, split_axis)
  single_steps = steps_fn(method, prepare, split_axis)
  if jax.default_backend() != 'cpu':
    return loops
  chosen: list[EpochFn] = []  # One, from the first epoch on.

  def epoch(state: Any, lesson: Lesson) -> Iterator[tuple[Any, HostMetrics]]:
    if not chosen:
      frozen, arrays, order, key, *_ = lesson
      first = share(order, 1)[:_STEPS_ON_CPU]
      program = _loop_fn(method, prepare, split_axis)
      # Not compiled for this alone: the first loop is lowered with the same.
      lowered = program.lower(state, frozen, arrays, first, 1, key)
      chosen.append(loops if _fits_a_loop(lowered.as_text()) else single_steps)
    return chosen[0](state, lesson)

  return epoch


@_for_devices
def steps_fn(
  method: method_lib.Method, prepare: PrepareFn, split_axis: int | None = None
) -> EpochFn:
  """An epoch as one call a step; metrics come one step late."""
  step = jax.pmap(
    _device_step(method, prepare),
    axis_name=AXIS,
    devices=devices(),
    in_axes=(None, None, split_axis, 0, None),
    out_axes=None,
    donate_argnums=0,
  )

  def epoch(state: Any, lesson: Lesson) -> Iterator[tuple[Any, HostMetrics]]:
    frozen, arrays, order, key, _, num_steps = lesson
    late: Any = None  # The metrics of the step before.
    for indices in share(order, 1)[:num_steps]:
      state, metrics = step(state, frozen, arrays, indices, key)
      if late is not None:
        yield None, _one(late)
      late = metrics if hosts.count() == 1 else jax.block_until_ready(metrics)
    yield state, _one(late)

  return epoch


@_for_devices
def loops_fn(
  method: method_lib.Method, prepare: PrepareFn, split_axis: int | None = None
) -> EpochFn:
  """An epoch as compiled loops, each over as many steps as fit into seconds.

  An accelerator takes the whole epoch in one; a CPU, whose steps may take
  seconds, comes back now and then. How many steps a loop has is an argument,
  so there is one program, and no number depends on it.
  """
  compiled = _loop_fn(method, prepare, split_axis)

  def epoch(state: Any, lesson: Lesson) -> Iterator[tuple[Any, HostMetrics]]:
    frozen, arrays, order, key, _, num_steps = lesson
    on_cpu = jax.default_backend() == 'cpu'
    most = min(len(order), _STEPS_ON_CPU) if on_cpu else len(order)
    count, done = 1 if on_cpu else most, 0
    total = len(order[:num_steps])
    order = share(order, 1)
    while done < total:
      count = min(count, total - done)
      start = time.monotonic()
      these = order[done : done + count]
      padded = np.pad(these, ((0, most - count), (0, 0), (0, 0)))
      state, metrics = compiled(state, frozen, arrays, padded, count, key)
      metrics = jax.device_get(metrics)
      fetched = {name: x[:count] for name, x in metrics.items()}
      secs = max(1e-6, time.monotonic() - start) / count
      done += count
      count = max(1, min(most, int(_SECS_ON_CPU / secs)))
      if on_cpu:
        count = hosts.of_main(count)  # Each has a clock of its own.
      yield state, fetched

  return epoch


@_for_devices
def _loop_fn(
  method: method_lib.Method, prepare: PrepareFn, split_axis: int | None = None
) -> Any:
  """The compiled loop of `loops_fn`."""
  # Traced once for its metrics and its loop; no call is left of it.
  step = jax.jit(_device_step(method, prepare), inline=True)

  def loop(
    state: Any,
    frozen: method_lib.Frozen,
    arrays: Any,
    order: jax.Array,
    count: jax.Array,
    key: jax.Array,
  ) -> tuple[Any, method_lib.Metrics]:
    """Takes the first `count` steps of order int[steps, b]."""

    def body(
      i: jax.Array, carry: tuple[Any, method_lib.Metrics]
    ) -> tuple[Any, method_lib.Metrics]:
      state, metrics = carry
      state, of_step = step(state, frozen, arrays, order[i], key)
      return state, jax.tree.map(lambda x, y: x.at[i].set(y), metrics, of_step)

    _, shapes = jax.eval_shape(step, state, frozen, arrays, order[0], key)
    metrics = jax.tree.map(
      lambda x: jnp.zeros((len(order), *x.shape), x.dtype), shapes
    )
    # A loop whose length it knows is what an accelerator runs ahead in; the
    # last part of a set that is streamed has fewer steps.
    known = jax.default_backend() != 'cpu' and split_axis is None
    steps = len(order) if known else count
    return jax.lax.fori_loop(0, steps, body, (state, metrics))

  return jax.pmap(
    loop,
    axis_name=AXIS,
    devices=devices(),
    in_axes=(None, None, split_axis, 1, None, None),
    out_axes=None,
    donate_argnums=0,
  )


def _fits_a_loop(program: str) -> bool:
  """Whether XLA's CPU backend runs a step inside a loop as fast as outside.

  There it has no fast way for a convolution whose dimensions are in another
  order than these, as they are in the gradients of `flax.linen.Conv`: a loop
  took 15 times as long. The layers of `models` avoid them. Some others that a
  loop would run as fast, such as gradients of 1x1 kernels, are not told apart.

  Args:
    program: the lowered loop, in StableHLO.
  """
  return all(
    '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]' in line
    and 'batch_group_count = 1 ' in line
    and 'feature_group_count = 1 ' in line
    for line in program.splitlines()
    if 'stablehlo.convolution' in line
  )


def _everywhere(*axes: str) -> jax.sharding.NamedSharding:
  """Where the state lies: the same copy on every device; or split by axes."""
  mesh = jax.sharding.Mesh(np.array(local_devices()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def _device_step(
  method: method_lib.Method, prepare: PrepareFn
) -> Callable[..., tuple[Any, method_lib.Metrics]]:
  """One step on one device, whose share of the batch is `indices`."""

  def step(
    state: Any,
    frozen: method_lib.Frozen,
    arrays: Any,
    indices: jax.Array,
    key: jax.Array,
  ) -> tuple[Any, method_lib.Metrics]:
    prepare_rng, step_rng = _keys(key, state.step)
    batch = _batch(prepare, arrays, indices, prepare_rng)
    return method.step(state, frozen, batch, step_rng, axis_name=AXIS)

  return step


def _batch(
  prepare: PrepareFn,
  arrays: Any,
  indices: jax.Array | np.ndarray,
  key: jax.Array,
) -> method_lib.Batch:
  """A batch, with what is known already of its frozen networks' answers."""
  answers = arrays.get('answers', {})
  known = {role: of_all[indices] for role, of_all in answers.items()}
  with augment.spread(AXIS):
    return {**prepare(arrays, indices, key), 'answers': known}


def _keys(key: jax.Array, step: jax.Array) -> jax.Array:
  """Of a step: for preparing its images, and for the step itself.

  They are the same on all devices: what is drawn for an image depends on its
  place in the whole batch.
  """
  rng = jax.random.fold_in(key, step)
  return jax.random.split(jax.random.fold_in(rng, 0))


def answers(
  answer_fns: Mapping[str, method_lib.ApplyFn],
  prepare: PrepareFn,
  lesson: Lesson,
  parts: Iterable[Lesson] | None = None,
) -> dict[str, np.ndarray]:
  """What frozen networks say of an epoch's images, as a step prepares them.

  Args:
    answer_fns: {role: `(variables, images) -> [B, ...]`}.
    prepare: images, drawn as the steps of the epoch draw them.
    lesson: the epoch.
    parts: of the lesson, as `streaming.parts` splits it; None for arrays that
      are on every device.

  Returns:
    {role: [N, ...]}, by example; zeros for those that are not in the order.
  """
  if not answer_fns:
    return {}
  split_axis = None if parts is None else 0
  said: dict[str, list[np.ndarray]] = {role: [] for role in answer_fns}
  for part in [lesson] if parts is None else parts:
    frozen, arrays, order, key, first_step, num_steps = part
    for role, ask in answer_fns.items():
      answer = answer_fn(ask, prepare, split_axis)
      of_part = [
        answer(frozen[role], arrays, indices, first_step + i, key)
        for i, indices in enumerate(share(order, 1)[:num_steps])
      ]
      said[role] += jax.device_get(of_part)

  def by_example(answers: list[np.ndarray]) -> np.ndarray:
    rows = np.concatenate(answers)  # [steps * D, b, ...]
    rows = rows.reshape(-1, *rows.shape[2:])
    number = len(lesson.arrays['label'])
    table = np.zeros((number, *rows.shape[1:]), rows.dtype)
    table[lesson.order.ravel()] = rows
    return table

  return {role: by_example(answers) for role, answers in said.items()}


def order_of_all(num_examples: int, batch_size: int) -> np.ndarray:
  """Every example once, in batches; like `epoch_order`, and nothing is drawn.

  The last batch is padded with the last example.
  """
  steps = -(-num_examples // batch_size)
  order = np.minimum(np.arange(steps * batch_size), num_examples - 1)
  return order.reshape(steps, num_devices(), -1).astype(np.int32)


@_for_devices
def answer_fn(
  ask: method_lib.ApplyFn, prepare: PrepareFn, split_axis: int | None
) -> Callable[..., jax.Array]:
  """What a network says of one batch, `[D, b, ...]` of all hosts, on each."""

  def answer(
    variables: Any, arrays: Any, indices: jax.Array, step: int, key: jax.Array
  ) -> jax.Array:
    prepare_rng, _ = _keys(key, jnp.asarray(step))
    batch = _batch(prepare, arrays, indices, prepare_rng)
    return ask(variables, batch['image'])

  mapped = functools.partial(
    jax.pmap,
    axis_name=AXIS,
    devices=devices(),
    in_axes=(None, split_axis, 0, None, None),
  )
  if hosts.count() == 1:
    return mapped(answer)
  gathered = mapped(
    lambda *args: jax.lax.all_gather(answer(*args), AXIS), out_axes=None
  )
  # CPUs that begin several calls at once may each wait for another one.
  return lambda *args: jax.block_until_ready(gathered(*args))


def share(array: np.ndarray, axis: int) -> np.ndarray:
  """What the devices of this host get, of one place for each of all."""
  if hosts.count() == 1:
    return array
  own = set(local_devices())
  return array.take([i for i, d in enumerate(devices()) if d in own], axis)


def _one(metrics: method_lib.Metrics) -> HostMetrics:
  """The metrics of a single step, with the leading axis of one of many."""
  return jax.tree.map(lambda x: np.asarray(x)[None], jax.device_get(metrics))
