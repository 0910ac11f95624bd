"""How a generator of training images is trained, whatever is asked of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from undistillable import method, state as state_lib
from undistillable.models import generator

# images float[B, H, W, C] -> (loss float32[], anything else)
ImageLossFn = Callable[[jax.Array], tuple[jax.Array, Any]]


@flax.struct.dataclass
class State:
  """What a step of an attack changes: two networks; the student is its result.

  Attributes:
    student: its `step` counts its own updates, of which a step may have many.
    generator: its `step` counts the steps of the method.
  """

  student: state_lib.TrainState
  generator: state_lib.TrainState

  @property
  def step(self) -> jax.Array:
    """int32[], steps taken so far."""
    return self.generator.step

  @property
  def variables(self) -> dict[str, state_lib.PyTree]:
    """Of the student: what is evaluated and published."""
    return self.student.variables


@flax.struct.dataclass
class Memory:
  """The last examples of those that were written; a full one forgets the first.

  Attributes:
    kept: arrays [N, ...] of N examples.
    count: int32[], how many have been written, forgotten ones as well.
  """

  kept: state_lib.PyTree
  count: jax.Array

  def write(
    self, examples: state_lib.PyTree, axis_name: str | None
  ) -> 'Memory':
    """With further examples, of all devices: of arrays [B, ...], B <= N."""
    if axis_name is not None:
      examples = jax.lax.all_gather(examples, axis_name, tiled=True)
    (size, *_), (number, *_) = (
      [len(x) for x in jax.tree.leaves(tree)] for tree in (self.kept, examples)
    )
    rows = (self.count + jnp.arange(number)) % size
    kept = jax.tree.map(
      lambda old, new: old.at[rows].set(new, unique_indices=True),
      self.kept,
      examples,
    )
    return Memory(kept, self.count + number)

  def draw(self, rng: jax.Array, index: jax.Array) -> state_lib.PyTree:
    """One example at random for each number in index, int32[B].

    Which one depends on the number and the key alone, so that two devices draw
    what one would.
    """
    size = len(jax.tree.leaves(self.kept)[0])
    known = jnp.minimum(self.count, size)

    def one(index: jax.Array) -> jax.Array:
      return jax.random.randint(jax.random.fold_in(rng, index), (), 0, known)

    rows = jax.vmap(one)(index)
    return jax.tree.map(lambda x: x[rows], self.kept)


@dataclasses.dataclass(frozen=True)
class Trainer:
  """A generator, and how it learns.

  A batch says how the images look: of `image`, float[B, H, W, C], shape and
  type alone are read, and `index`, int32[B], tells the examples of all devices
  apart. The noise of an example depends on it and the key alone, so that two
  devices make the images that one would.

  Attributes:
    latent_dim: normal random numbers from which one image is made.
    width: see `models.generator.Generator`.
    epsilon: alike.
    optimizer: an optax transformation.
  """

  latent_dim: int
  width: int
  epsilon: float
  optimizer: optax.GradientTransformation

  def init(self, rng: jax.Array, batch: method.Batch) -> state_lib.TrainState:
    """The state before the first step."""
    noise = jnp.zeros((1, self.latent_dim))
    variables = self._network(batch, None).init(rng, noise)
    return state_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=variables['batch_stats'],
      opt_state=self.optimizer.init(variables['params']),
    )

  def sample(
    self,
    state: state_lib.TrainState,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, state_lib.TrainState]:
    """Images [B, H, W, C], and the state with the statistics of these."""
    return self.paint(state, batch, self.draw(batch, rng), axis_name)

  def draw(self, batch: method.Batch, rng: jax.Array) -> jax.Array:
    """The noise of each image, float32[B, Z]."""

    def one(index: jax.Array) -> jax.Array:
      return jax.random.normal(
        jax.random.fold_in(rng, index), (self.latent_dim,)
      )

    return jax.vmap(one)(batch['index'])

  def paint(
    self,
    state: state_lib.TrainState,
    batch: method.Batch,
    noise: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, state_lib.TrainState]:
    """`sample`, of a noise float[B, Z] that is given."""
    images, updates = self._network(batch, axis_name).apply(
      state.variables, noise, train=True, mutable=['batch_stats']
    )
    return images, dataclasses.replace(
      state, batch_stats=updates['batch_stats']
    )

  def update(
    self,
    state: state_lib.TrainState,
    loss_fn: ImageLossFn,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[state_lib.TrainState, jax.Array, Any]:
    """One step down the loss of new images.

    Args:
      state: before the step.
      loss_fn: of the images of this device.
      batch: see the class.
      rng: of the noise.
      axis_name: the axis over which the batch is spread.

    Returns:
      The new state, the images of the old one, what else loss_fn returned.
    """

    def image_loss(params: state_lib.PyTree) -> tuple[jax.Array, Any]:
      images, used = self.sample(
        dataclasses.replace(state, params=params), batch, rng, axis_name
      )
      loss, aux = loss_fn(images)
      return loss, (images, used.batch_stats, aux)

    grads, (images, batch_stats, aux) = jax.grad(image_loss, has_aux=True)(
      state.params
    )
    grads = method.average(grads, axis_name)
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,  # Already pooled over the devices.
      opt_state=opt_state,
    )
    return state, images, aux

  def _network(
    self, batch: method.Batch, axis_name: str | None
  ) -> generator.Generator:
    _, height, width, channels = batch['image'].shape
    return generator.Generator(
      (height, width, channels),
      self.width,
      self.epsilon,
      axis_name,
      batch['image'].dtype,
    )
