"""Training and prediction on all devices: the only file that knows them.

State, frozen networks and data are replicated; batches are split. With
`in_axes=None` and `out_axes=None` the state has no device axis, so nothing is
ever replicated, unreplicated or indexed by hand. `out_axes=None` is not
checked: a step must average whatever it returns over `AXIS`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from undistillable import errors, method as method_lib

AXIS = 'batch'

# (arrays, indices int[b], rng) -> batch, on the device: gather, augment, ...
PrepareFn = Callable[[Any, jax.Array | np.ndarray, jax.Array], method_lib.Batch]
# The metrics of a method as float[n], of n steps
HostMetrics = Any
# (state, frozen, arrays, order int[steps, D, b], key) -> states and the metrics
# of the steps taken since the last one
EpochFn = Callable[..., Iterator[tuple[Any, HostMetrics]]]


def num_devices() -> int:
  """The number of devices that share a batch."""
  return jax.device_count()


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
  """Arrays on every device, sent once and not again with each step."""
  return jax.device_put(tree, _everywhere())


def epoch_fn(method: method_lib.Method, prepare: PrepareFn) -> EpochFn:
  """The fitting way to run an epoch on this backend.

  A CPU takes one step a call: there XLA runs a convolution inside a loop about
  40 times slower than outside. Accelerators take the whole epoch in one call.
  """
  if jax.default_backend() == 'cpu':
    return steps_fn(method, prepare)
  return scan_fn(method, prepare)


@functools.lru_cache(maxsize=16)
def steps_fn(method: method_lib.Method, prepare: PrepareFn) -> EpochFn:
  """An epoch as one call a step; metrics come one step late."""
  step = jax.pmap(
    _device_step(method, prepare),
    axis_name=AXIS,
    in_axes=(None, None, None, 0, None),
    out_axes=None,
    donate_argnums=0,
  )

  def epoch(
    state: Any,
    frozen: method_lib.Frozen,
    arrays: Any,
    order: np.ndarray,
    key: jax.Array,
  ) -> Iterator[tuple[Any, HostMetrics]]:
    late: Any = None  # The metrics of the step before.
    for indices in order:
      state, metrics = step(state, frozen, arrays, indices, key)
      if late is not None:
        yield None, _one(late)
      late = metrics
    yield state, _one(late)

  return epoch


@functools.lru_cache(maxsize=16)
def scan_fn(method: method_lib.Method, prepare: PrepareFn) -> EpochFn:
  """An epoch as one compiled loop over its steps."""
  step = _device_step(method, prepare)

  def steps(
    state: Any,
    frozen: method_lib.Frozen,
    arrays: Any,
    order: jax.Array,
    key: jax.Array,
  ) -> tuple[Any, method_lib.Metrics]:
    return jax.lax.scan(
      lambda state, indices: step(state, frozen, arrays, indices, key),
      state,
      order,
    )

  compiled = jax.pmap(
    steps,
    axis_name=AXIS,
    in_axes=(None, None, None, 1, None),
    out_axes=None,
    donate_argnums=0,
  )

  def epoch(
    state: Any,
    frozen: method_lib.Frozen,
    arrays: Any,
    order: np.ndarray,
    key: jax.Array,
  ) -> Iterator[tuple[Any, HostMetrics]]:
    state, metrics = compiled(state, frozen, arrays, order, key)
    yield state, jax.device_get(metrics)

  return epoch


def _everywhere() -> jax.sharding.NamedSharding:
  """Where the state lies: the same copy on every device."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


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
    rng = jax.random.fold_in(
      jax.random.fold_in(key, state.step), jax.lax.axis_index(AXIS)
    )
    prepare_rng, step_rng = jax.random.split(rng)
    batch = prepare(arrays, indices, prepare_rng)
    return method.step(state, frozen, batch, step_rng, axis_name=AXIS)

  return step


def _one(metrics: method_lib.Metrics) -> HostMetrics:
  """The metrics of a single step, with the leading axis of one of many."""
  return jax.tree.map(lambda x: np.asarray(x)[None], jax.device_get(metrics))


@functools.lru_cache(maxsize=16)
def predict_fn(
  apply_fn: method_lib.ApplyFn, prepare: PrepareFn
) -> Callable[..., jax.Array]:
  """Logits of a batch, whose arrays are split: `[D, b, ...] -> [D, b, K]`."""

  def predict(variables: Any, arrays: Any) -> jax.Array:
    everything = np.arange(len(arrays['label']))
    # An evaluation draws nothing; the key is there for prepare's signature.
    batch = prepare(arrays, everything, jax.random.key(0))
    return apply_fn(variables, batch['image'])

  return jax.pmap(predict, axis_name=AXIS, in_axes=(None, 0))
