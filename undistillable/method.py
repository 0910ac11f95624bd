"""The contract that defenses and attacks fulfil: a pair of pure functions.

A method trains one network. What it may read of other networks comes in
`frozen`, a dict from a role ('adversary', 'teacher') to variables; it is an
argument of every step, never a closure, or XLA would bake the weights into the
program.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import state as state_lib

Batch = Mapping[str, jax.Array]  # image: float[B, H, W, C], label: int[B]
Frozen = Mapping[str, state_lib.PyTree]
Metrics = dict[str, jax.Array]
# (variables, images float[B, H, W, C]) -> logits float[B, K]
ApplyFn = Callable[[state_lib.PyTree, jax.Array], jax.Array]
# (logits, frozen, batch) -> (loss float[B], further metrics float[B] by name)
LossFn = Callable[[jax.Array, Frozen, Batch], tuple[jax.Array, Metrics]]


class Method(NamedTuple):
  """How one network learns.

  Attributes:
    init: `(rng, batch) -> state`; the state has a property `variables`.
    step: `(state, frozen, batch, rng, axis_name=None) -> (state, metrics)`;
      metrics are scalars by name, averaged over the devices of `axis_name`.
  """

  init: Callable[..., Any]
  step: Callable[..., tuple[Any, Any]]


def supervised(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  loss_fn: LossFn,
) -> Method:
  """The method that minimises the mean of one loss over a batch.

  Args:
    model: a linen module, `model.apply(variables, images, train=...)`, whose
      variables are 'params' and, with BatchNorm, 'batch_stats'. Where it has a
      field `axis_name`, its BatchNorm pools statistics over that axis.
    optimizer: an optax transformation.
    loss_fn: `(logits, frozen, batch) -> (loss, metrics)`, one number an
      example each; batch['image'] is what `logits` were computed from.

  Returns:
    The method. Its metrics are loss, accuracy (percent), and those of loss_fn.
    Its step raises AssertionError, while it is traced, for a loss_fn that
    returns anything but one number an example.
  """

  def init(rng: jax.Array, batch: Batch) -> state_lib.TrainState:
    variables = model.init(rng, batch['image'], train=False)
    params = variables['params']
    return state_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=variables.get('batch_stats', {}),
      opt_state=optimizer.init(params),
    )

  def step(
    state: state_lib.TrainState,
    frozen: Frozen,
    batch: Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[state_lib.TrainState, Metrics]:
    network = _on_axis(model, axis_name)

    def mean_loss(
      params: state_lib.PyTree,
    ) -> tuple[jax.Array, tuple[Metrics, state_lib.PyTree]]:
      logits, updates = network.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        batch['image'],
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': rng},
      )
      loss, metrics = loss_fn(logits, frozen, batch)
      hits = logits.argmax(-1) == batch['label']
      metrics = {'loss': loss, 'accuracy': 100.0 * hits, **metrics}
      # What is a mean already would go unnoticed through the mean below.
      chex.assert_equal_shape([batch['label'], *metrics.values()])
      batch_stats = updates.get('batch_stats', state.batch_stats)
      return loss.mean(), (jax.tree.map(jnp.mean, metrics), batch_stats)

    grads, (metrics, batch_stats) = jax.grad(mean_loss, has_aux=True)(
      state.params
    )
    # Statistics are averaged too: a model that cannot pool them over the
    # devices would otherwise leave each device with its own.
    grads, metrics, batch_stats = average(
      (grads, metrics, batch_stats), axis_name
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return state, metrics

  return Method(init, step)


@functools.lru_cache(maxsize=16)
def together(methods: tuple[Method, ...]) -> Method:
  """Trains several networks on the same batches.

  What they have in common, above all the answers of a frozen teacher, is the
  same expression in one program, and XLA computes it once.

  Args:
    methods: that need the same frozen networks.

  Returns:
    The method; its state is a `state.States`, its metrics a tuple of those of
    the methods.
  """

  def init(rng: jax.Array, batch: Batch) -> state_lib.States:
    return state_lib.States(tuple(m.init(rng, batch) for m in methods))

  def step(
    states: state_lib.States,
    frozen: Frozen,
    batch: Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[state_lib.States, tuple[Metrics, ...]]:
    members, metrics = zip(
      *(
        method.step(state, frozen, batch, rng, axis_name=axis_name)
        for method, state in zip(methods, states.members, strict=True)
      ),
      strict=True,
    )
    return state_lib.States(members), metrics

  return Method(init, step)


def frozen_fn(
  model: nn.Module, serve: Callable[[jax.Array], jax.Array] | None = None
) -> ApplyFn:
  """A network that must not change, in evaluation mode, without gradients.

  Args:
    model: a linen module.
    serve: what its owner does to the logits before a client sees them.

  Returns:
    `(variables, images) -> logits`.
  """

  def apply_fn(variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    frozen = jax.lax.stop_gradient(variables)
    logits: Any = model.apply(frozen, images, train=False)
    return jax.lax.stop_gradient(serve(logits) if serve else logits)

  return apply_fn


@functools.lru_cache(maxsize=16)
def features_fn(model: nn.Module) -> ApplyFn:
  """What the last layer of a network reads, in evaluation mode.

  Args:
    model: a linen module that sows 'features' into 'intermediates', as all of
      `models.MODELS` do.

  Returns:
    `(variables, images) -> float[B, F]`; the same for equal modules.
  """

  def apply_fn(variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    _, sown = model.apply(
      variables, images, train=False, mutable=['intermediates']
    )
    (features,) = sown['intermediates']['features']
    return features.reshape(len(features), -1)

  return apply_fn


def as_frozen_fn(network: ApplyFn | nn.Module) -> ApplyFn:
  """`frozen_fn` of a module; a function is taken as it is."""
  return frozen_fn(network) if isinstance(network, nn.Module) else network


def average(tree: Any, axis_name: str | None) -> Any:
  """The mean of every array over the devices; the tree itself on one."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _on_axis(model: nn.Module, axis_name: str | None) -> nn.Module:
  """The same model with its BatchNorm pooled over the devices."""
  if axis_name is None or not hasattr(model, 'axis_name'):
    return model
  return model.clone(axis_name=axis_name)
