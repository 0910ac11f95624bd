"""DeepInversion: images from the weights of a network, without any data.

The images are the parameters; they train a student in a run of its own, with
`kd`. A step moves the rows `batch['index']` of the set down the gradient of a
loss that reads a frozen network; an epoch moves every image once. The released
code finishes one fixed batch after the other. Here every step mixes a batch
anew, so that the BatchNorm prior compares other sets of images each time, the
ordinary training loop with its checkpoints serves, and memory is bounded by the
set: the images and the optimizer's moments of each, three times their size with
Adam.

Source: Yin et al. (2020), arXiv:1912.08795, section 3.2, and its released code.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle, state as state_lib
from undistillable.attacks import batch_norm, synthesis

PARENTS = ('teacher',)
ACCESS = 'weights'
DATA = 'none'

judge = synthesis.judge
watch = synthesis.watch

# (frozen, images float[B, H, W, C], teacher's logits float[B, K]) -> further
# terms of the loss, float[B] by name
TermsFn = Callable[[method.Frozen, jax.Array, jax.Array], method.Metrics]


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the article's command for CIFAR-10.

  Attributes:
    num_images: N, with as many of each class as can be.
    low: least value of each channel, as the teacher sees it.
    high: largest value of each channel; the plan fills in both.
    cross_entropy: w, weight of the labels.
    total_variation: a_tv, of the differences between neighbours.
    l2: a_l2, of the norm of the batch.
    batch_norm: a_f, of the distance to the teacher's statistics.
    jitter: pixels; a step rolls its images by up to as many.
    flip: whether a step mirrors its images with probability 1/2.
  """

  num_images: int = 50_000
  low: Sequence[float] = ()
  high: Sequence[float] = ()
  cross_entropy: float = 1.0
  total_variation: float = 2.5e-5
  l2: float = 0.0
  batch_norm: float = 10.0
  jitter: int = 2
  flip: bool = False

  def __post_init__(self) -> None:
    losses.check_whole('num_images', self.num_images, least=1)
    losses.check_whole('jitter', self.jitter, least=0)
    if len(self.low) != len(self.high) or not all(
      least < most for least, most in zip(self.low, self.high, strict=False)
    ):
      raise ValueError(
        f'low={self.low} and high={self.high}; expected one value a channel, '
        'low < high'
      )
    for name, weight in self.weights.items():
      losses.check_not_negative(name, weight)

  @property
  def weights(self) -> dict[str, float]:
    """Of the terms of the loss."""
    names = ('cross_entropy', 'total_variation', 'l2', 'batch_norm')
    return {name: getattr(self, name) for name in names}


@flax.struct.dataclass
class ImageState:
  """A set of images in the making."""

  step: jax.Array  # int32[], steps taken so far.
  seed: jax.Array  # uint32[], of the jitter; all images are moved alike.
  image: jax.Array  # float32[N, H, W, C], normalised.
  label: jax.Array  # int32[N], what each image shall show.
  opt_state: state_lib.PyTree  # Of each image, with a leading axis N.

  @property
  def variables(self) -> dict[str, state_lib.PyTree]:
    """What is published: the images and their labels."""
    return {'images': {'image': self.image, 'label': self.label}}


def updates_per_epoch(settings: Settings, steps: int) -> int:
  """Every image counts its own updates, one an epoch."""
  del settings, steps
  return 1


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """The images of a teacher, and a student of its answers to them."""
  images = job.images('deep_inversion', {'teacher': teacher})
  return [images, job.student_of_images(student, teacher, images)]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
  terms_fn: TermsFn = lambda *_: {},
) -> method.Method:
  """Synthesises images that a teacher takes for its training data.

  Equation: `w CE(T(x), y) + a_tv TV(x) + a_l2 ||x|| + a_f sum_l (||mu_l(x) -
  mu_l|| + ||sigma^2_l(x) - sigma^2_l||)`, over the BatchNorm layers l of T. All
  norms are over a whole batch, and not squared. `settings.weights` are also of
  the further terms that terms_fn returns.

  The model is not used: what is trained are the images. The optimizer is of one
  image: each has its own moments and counts its own updates, so a schedule
  counts epochs. Read are only the shape and type of batch['image'], which is
  what the networks get, and batch['index'], int32[B], distinct in 0..N-1.

  Metrics: the loss, its terms without their weights, and accuracy, the
  percentage of images of which the teacher says what they shall show.
  """
  del model
  teacher = oracle.open_module(parents['teacher'])
  low, high = settings.low, settings.high

  def init(
    rng: jax.Array, batch: method.Batch, frozen: method.Frozen
  ) -> ImageState:
    del frozen
    noise_rng, seed_rng = jax.random.split(rng)
    shape = (settings.num_images, *batch['image'].shape[1:])
    if shape[-1] != len(low):
      raise ValueError(
        f'low and high have {len(low)} values, but images {shape[-1]} channels'
      )
    image = _clip(jax.random.normal(noise_rng, shape), low, high)
    logits, _ = jax.eval_shape(
      functools.partial(teacher.init_with_output, train=False),
      rng,
      batch['image'],
    )
    label = jnp.arange(settings.num_images, dtype=jnp.int32) % logits.shape[-1]
    return ImageState(
      step=jnp.zeros((), jnp.int32),
      seed=jax.random.bits(seed_rng, (), jnp.uint32),
      image=image,
      label=label,
      opt_state=jax.vmap(optimizer.init)(image),
    )

  def step(
    state: ImageState,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[ImageState, method.Metrics]:
    del rng  # See ImageState.seed.
    index = batch['index']
    image, label, opt_state = jax.tree.map(
      lambda x: x[index], (state.image, state.label, state.opt_state)
    )
    num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)

    def share(image: jax.Array) -> tuple[Any, jax.Array]:
      """What this device adds to the sums of which the loss is made."""
      image = _move(image, state, settings.jitter, settings.flip)
      seen = image.astype(batch['image'].dtype)
      logits, gaps = batch_norm.read(teacher, frozen['teacher'], seen)
      terms = {
        'cross_entropy': losses.cross_entropy(logits, label),
        **terms_fn(frozen, seen, logits),
      }
      means = (jax.tree.map(jnp.mean, terms), gaps)
      means = jax.tree.map(lambda x: x / num_devices, means)
      energies = variation_energies(image), jnp.sum(jnp.square(image))
      return (*means, *energies), 100.0 * jnp.mean(logits.argmax(-1) == label)

    # The norms need the sums of all devices. They are pooled between the two
    # halves of the chain rule, which so never differentiates through psum.
    sums, pull_back, accuracy = jax.vjp(share, image, has_aux=True)
    sums = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    (loss, terms), slopes = jax.value_and_grad(_loss, has_aux=True)(
      sums, settings.weights
    )
    (grads,) = pull_back(slopes)
    updates, opt_state = jax.vmap(optimizer.update)(grads, opt_state, image)
    image = _clip(optax.apply_updates(image, updates), low, high)
    rows = (image, opt_state)
    if axis_name is not None:  # Those of all devices, one after the other.
      index, rows = jax.lax.all_gather((index, rows), axis_name, tiled=True)
    image, opt_state = jax.tree.map(
      lambda x, row: x.at[index].set(row, unique_indices=True),
      (state.image, state.opt_state),
      rows,
    )
    state = dataclasses.replace(
      state, step=state.step + 1, image=image, opt_state=opt_state
    )
    accuracy = method.average(accuracy, axis_name)
    return state, {'loss': loss, 'accuracy': accuracy, **terms}

  return method.Method(init, step)


def _loss(
  sums: Any, weights: Mapping[str, float]
) -> tuple[jax.Array, method.Metrics]:
  """The loss and its terms, of the sums over all devices."""
  means, gaps, energies, energy = sums
  terms = {
    **means,
    'total_variation': jnp.sum(batch_norm.root(energies)),
    'l2': batch_norm.root(energy),
    'batch_norm': batch_norm.distance(batch_norm.moments(gaps)),
  }
  weighted = [weights[name] * term for name, term in terms.items()]
  return jnp.sum(jnp.stack(weighted)), terms


def variation_energies(image: jax.Array) -> jax.Array:
  """Sums of squared differences of neighbours, float32[4]; add up all devices'.

  Of images float[B, H, W, C] horizontal, vertical and both diagonals; their
  total variation is `sum_d sqrt(energy_d)`.
  """
  x = image.astype(jnp.float32)
  differences = (
    x[:, :, :-1] - x[:, :, 1:],
    x[:, :-1] - x[:, 1:],
    x[:, 1:, :-1] - x[:, :-1, 1:],
    x[:, :-1, :-1] - x[:, 1:, 1:],
  )
  return jnp.stack([jnp.sum(jnp.square(d)) for d in differences])


def _move(
  image: jax.Array, state: ImageState, jitter: int, flip: bool
) -> jax.Array:
  """Rolls and mirrors a batch, float32[B, H, W, C], as a whole, as released."""
  key = jax.random.fold_in(jax.random.key(state.seed), state.step)
  shift_key, flip_key = jax.random.split(key)
  if jitter:
    shift = jax.random.randint(shift_key, (2,), -jitter, jitter + 1)
    image = jnp.roll(image, shift, axis=(1, 2))
  if flip:
    mirrored = jax.random.bernoulli(flip_key)
    image = jnp.where(mirrored, image[:, :, ::-1], image)
  return image


def _clip(
  image: jax.Array, low: Sequence[float], high: Sequence[float]
) -> jax.Array:
  """Keeps float32[N, H, W, C] where images of bytes lie."""
  least, most = (jnp.float32(x).reshape(1, 1, 1, -1) for x in (low, high))
  return jnp.clip(image, least, most)
