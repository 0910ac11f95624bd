"""What attacks without data share: a generator of images, who learns of them.

A batch says how the images look: of `image`, float[B, H, W, C], shape and type
alone are read, and `index`, int32[B], tells the examples of all devices apart.
Whatever is drawn for an example depends on its number and the key alone, so
that two devices draw what one would.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, state as state_lib
from undistillable.models import generator

remedy = method.lower('generator_learning_rate')


@flax.struct.dataclass
class State:
  """The two networks of an attack, of which the student is the result."""

  student: state_lib.TrainState  # Counts its own updates, many a step.
  generator: state_lib.TrainState  # Counts the steps of the method.

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
  """The last N examples of those that were written."""

  kept: state_lib.PyTree  # Arrays [N, ...].
  count: jax.Array  # int32[], how many were written, forgotten ones as well.

  def write(
    self, examples: state_lib.PyTree, axis_name: str | None
  ) -> 'Memory':
    """With further examples, of all devices: of arrays [B, ...], B <= N."""
    if axis_name is not None:
      examples = jax.lax.all_gather(examples, axis_name, tiled=True)
    size, number = (
      len(jax.tree.leaves(tree)[0]) for tree in (self.kept, examples)
    )
    rows = (self.count + jnp.arange(number)) % size

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
      return old.at[rows].set(new, unique_indices=True)

    kept = jax.tree.map(put, self.kept, examples)
    return Memory(kept, self.count + number)

  def draw(self, rng: jax.Array, index: jax.Array) -> state_lib.PyTree:
    """One example at random for each number in index, int32[B]."""
    size = len(jax.tree.leaves(self.kept)[0])
    known = jnp.minimum(self.count, size)
    rows = draw(lambda key: jax.random.randint(key, (), 0, known), rng, index)
    return jax.tree.map(lambda x: x[rows], self.kept)


@dataclasses.dataclass(frozen=True)
class Trainer:
  """A generator, and how it learns."""

  settings: Any  # With `latent_dim` and `generator_width`.
  optimizer: optax.GradientTransformation
  batch: method.Batch  # How the images look.
  axis_name: str | None = None  # Over which the batch is spread.
  epsilon: float = 1e-5  # See `models.generator.Generator`.

  @property
  def network(self) -> generator.Generator:
    image, width = self.batch['image'], self.settings.generator_width
    return generator.Generator(
      image.shape[1:], width, self.epsilon, self.axis_name, image.dtype
    )

  def init(self, rng: jax.Array) -> state_lib.TrainState:
    variables = self.network.init(rng, jnp.zeros((1, self.settings.latent_dim)))
    return state_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=variables['batch_stats'],
      opt_state=self.optimizer.init(variables['params']),
    )

  def draw(self, rng: jax.Array) -> jax.Array:
    """The noise of each image, float32[B, Z]."""
    shape, index = (self.settings.latent_dim,), self.batch['index']
    return draw(lambda key: jax.random.normal(key, shape), rng, index)

  def paint(
    self, state: state_lib.TrainState, noise: jax.Array
  ) -> tuple[jax.Array, state_lib.TrainState]:
    """Images [B, H, W, C], and the state with the statistics of these."""
    images, updates = self.network.apply(
      state.variables, noise, train=True, mutable=['batch_stats']
    )
    return images, dataclasses.replace(
      state, batch_stats=updates['batch_stats']
    )

  def sample(
    self, state: state_lib.TrainState, rng: jax.Array
  ) -> tuple[jax.Array, state_lib.TrainState]:
    """`paint`, of noise that is drawn."""
    return self.paint(state, self.draw(rng))

  def update(
    self,
    state: state_lib.TrainState,
    loss_fn: Callable[[jax.Array], tuple[jax.Array, Any]],
    rng: jax.Array,
  ) -> tuple[state_lib.TrainState, jax.Array, Any]:
    """One step down the loss of new images, which is of this device's alone.

    loss_fn: float[B, H, W, C] -> (loss float32[], anything else), which comes
    back after the new state and the images of the old one.
    """

    def image_loss(params: state_lib.PyTree) -> tuple[jax.Array, Any]:
      painter = dataclasses.replace(state, params=params)
      images, used = self.sample(painter, rng)
      loss, aux = loss_fn(images)
      return loss, (images, used.batch_stats, aux)

    grads, (images, batch_stats, aux) = jax.grad(image_loss, has_aux=True)(
      state.params
    )
    state = self.descend(state, method.average(grads, self.axis_name))
    # The statistics are pooled over the devices already.
    state = dataclasses.replace(
      state, step=state.step + 1, batch_stats=batch_stats
    )
    return state, images, aux

  def descend(
    self, state: state_lib.TrainState, grads: state_lib.PyTree
  ) -> state_lib.TrainState:
    """The parameters after one update, of gradients that are given."""
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return dataclasses.replace(state, params=params, opt_state=opt_state)


def copier(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  ask: method.ApplyFn,
  temperature: float = 1.0,
) -> method.Method:
  """A student who minimises `tau^2 KL(T(x) || S(x))`."""

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    kl = losses.kl_divergence(
      seen.answers['teacher'], seen.logits, temperature=temperature
    )
    return temperature**2 * kl, {}

  return method.supervised(
    model, optimizer, loss_fn, answer_fns={'teacher': ask}
  )


def start(
  student: method.Method,
  trainer: Trainer,
  rng: jax.Array,
  frozen: method.Frozen,
) -> State:
  """Both networks before the first step."""
  student_rng, generator_rng = jax.random.split(rng)
  return State(
    student=student.init(student_rng, trainer.batch, frozen),
    generator=trainer.init(generator_rng),
  )


def learn(
  student: method.Method,
  state: state_lib.TrainState,
  images: jax.Array,
  answers: jax.Array,
  rng: jax.Array,
  axis_name: str | None,
) -> tuple[state_lib.TrainState, method.Metrics]:
  """One update of the student, from a teacher's answers float[B, K] to images.

  Its accuracy is the percentage of images on which it agrees with the teacher.
  """
  lesson = {
    'image': images,
    'label': answers.argmax(-1),
    'answers': {'teacher': answers},
  }
  return student.step(state, {}, lesson, rng, axis_name)


def draw(
  draw_fn: Callable[[jax.Array], jax.Array], rng: jax.Array, index: jax.Array
) -> jax.Array:
  """What draw_fn makes of a key, once for each number in index, int32[B]."""
  return jax.vmap(lambda one: draw_fn(jax.random.fold_in(rng, one)))(index)


def stretch(
  share: jax.Array, low: Sequence[float], high: Sequence[float]
) -> jax.Array:
  """From 0..1 to what each channel can be: float[B, H, W, C], alike."""
  least, most = (jnp.asarray(x).reshape(1, 1, 1, -1) for x in (low, high))
  return share * (most - least) + least


def num_devices(axis_name: str | None) -> int:
  """How many share the batch."""
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def updates_per_epoch(settings: Any, steps: int) -> int:
  """How often an epoch updates the student, which its schedule must know."""
  return settings.student_steps * steps
