"""DAFL: distillation without data, from images that a generator makes up.

The generator learns to make images of which the teacher is sure, which excite
its features, and which it finds to be of all classes alike; the student copies
the teacher on them. The attack is a white box: the gradient goes through the
teacher, and its features are read.

Source: Chen et al. (2019), arXiv:1904.01186.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import optax

from undistillable import losses, method, state as state_lib
from undistillable.attacks import generator_losses, generators

PARENTS = ('teacher',)
# A batch gives the shape of the images alone, and a number to each.
DATA_FREE = True

_PAPER = {
  'latent_dim': 1000,  # Normal random numbers an image.
  'generator_width': 128,  # Features of its first convolution.
  'generator_learning_rate': 0.02,  # Of Adam.
  'entropy_log': 'natural',
  'batch_norm_epsilon': 1e-5,
  'student_images': 'fresh',  # As in algorithm 1.
  'student_steps': 1,  # For each of the generator.
  'temperature': 1.0,
}
PRESETS: dict[str, dict[str, Any]] = {
  'cifar10': {
    **_PAPER,
    'one_hot_weight': 0.05,
    'entropy_weight': 5.0,
    'activation_weight': 0.01,
  },
  'cifar100': {
    **_PAPER,
    'one_hot_weight': 0.5,
    'entropy_weight': 20.0,
    'activation_weight': 0.1,
  },
  # Our own. At a rate of 1e-3 the images drift so far from the data that the
  # student's BatchNorm statistics alone cost it up to 9 points. With one_hot
  # at 0.1, images of which the teacher is unsure balance the classes.
  'digits': {
    **_PAPER,
    'latent_dim': 100,
    'generator_width': 32,
    'generator_learning_rate': 3e-4,
    'one_hot_weight': 3.0,
    'entropy_weight': 5.0,
    'activation_weight': 0.01,
  },
  # How the released code departs from the paper; merge it onto one of them.
  'released': {
    'entropy_log': 'log10',
    # Meant as the momentum, but PyTorch's second argument is epsilon.
    'batch_norm_epsilon': 0.8,
    'student_images': 'shared',
  },
}
_LOG_UNITS = {'natural': 1.0, 'log10': math.log(10.0)}  # In nats.


# To be asked of a finished training.
collapsed = generator_losses.collapsed


@flax.struct.dataclass
class State:
  """What a step changes: two networks, of which the student is the result.

  Attributes:
    student: its `step` counts its own updates, `student_steps` a step.
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


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  teacher: nn.Module,
  latent_dim: int,
  generator_width: int,
  generator_learning_rate: float,
  one_hot_weight: float,
  entropy_weight: float,
  activation_weight: float,
  entropy_log: str,
  batch_norm_epsilon: float,
  student_images: str,
  student_steps: int,
  temperature: float,
) -> method.Method:
  """Distils a frozen teacher into a student, without any data.

  Equation: the generator minimises `one_hot_weight CE(T(x), argmax T(x)) +
  entropy_weight sum_k p_k log p_k - activation_weight mean |f_T(x)|`, where p
  is the mean of softmax(T(x)) over the batch; the student
  `tau^2 KL(T(x) || S(x))`, which sends no gradient to the generator.

  A batch is {'image': float[B, H, W, C], of which shape and type alone are
  read; 'index': int32[B], distinct numbers, from which the noise is drawn}.

  Args:
    model: the student to train.
    optimizer: of the student; updated `student_steps` times a step, which a
      schedule must know.
    teacher: the teacher's module; its variables are frozen['teacher'].
    latent_dim: random numbers from which one image is made.
    generator_width: see models.generator.
    generator_learning_rate: of Adam.
    one_hot_weight: alpha of the released code, >= 0.
    entropy_weight: beta, >= 0.
    activation_weight: of the excitement, >= 0.
    entropy_log: 'natural', or 'log10' as released.
    batch_norm_epsilon: of the generator's inner BatchNorms; 0.8 as released.
    student_images: 'fresh', of new noise and the generator just updated; or
      'shared', those that the generator was updated with, as released.
    student_steps: updates of the student a step.
    temperature: tau_S > 0.

  Returns:
    The method. Metrics: loss, of the student; accuracy, the percentage of
    images on which it agrees with the teacher; one_hot, entropy and
    activation, the generator's terms without their weights; classes and
    classes_missing, see `collapsed`.

  Raises:
    ValueError: a setting out of its range, or an unknown name.

  Source: Chen et al. (2019), arXiv:1904.01186, eqs. 2 to 7 and algorithm 1.
  """
  for name, count, least in (
    ('latent_dim', latent_dim, 1),
    ('generator_width', generator_width, 2),
    ('student_steps', student_steps, 1),
  ):
    if not isinstance(count, int) or count < least:
      raise ValueError(f'{name}={count}; expected an integer >= {least}')
  losses.check_positive('generator_learning_rate', generator_learning_rate)
  losses.check_positive('batch_norm_epsilon', batch_norm_epsilon)
  losses.check_positive('temperature', temperature)
  weights = {
    'one_hot': one_hot_weight,
    'entropy': entropy_weight,
    'activation': activation_weight,
  }
  for name, value in weights.items():
    losses.check_not_negative(f'{name}_weight', value)
  weights['entropy'] /= _choose('entropy_log', entropy_log, _LOG_UNITS)
  next_images_fn = _choose('student_images', student_images, _STUDENT_IMAGES)
  loss_fn = images_loss_fn(teacher, weights)
  teacher_fn = method.frozen_fn(teacher)
  student = method.supervised(model, optimizer, _copy_loss_fn(temperature))
  trainer = generators.Trainer(
    latent_dim,
    generator_width,
    batch_norm_epsilon,
    optax.adam(generator_learning_rate),
  )

  def init(rng: jax.Array, batch: method.Batch) -> State:
    student_rng, generator_rng = jax.random.split(rng)
    return State(
      student=student.init(student_rng, batch),
      generator=trainer.init(generator_rng, batch),
    )

  def step(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[State, method.Metrics]:
    rng, generator_rng = jax.random.split(rng)
    generator, images, metrics = trainer.update(
      state.generator,
      functools.partial(loss_fn, frozen['teacher'], axis_name),
      batch,
      generator_rng,
      axis_name,
    )
    metrics = method.average(metrics, axis_name)
    student_state, every = state.student, []
    # A Python loop: XLA on a CPU is slow at convolutions inside its own.
    for student_rng in jax.random.split(rng, student_steps):
      images, generator = next_images_fn(
        trainer, generator, images, batch, student_rng, axis_name
      )
      logits = teacher_fn(frozen['teacher'], images)
      lesson = {'image': images, 'label': logits.argmax(-1), 'teacher': logits}
      student_state, student_metrics = student.step(
        student_state, {}, lesson, student_rng, axis_name
      )
      every.append(student_metrics)
    mean = jax.tree.map(lambda *x: sum(x) / student_steps, *every)
    return State(student=student_state, generator=generator), metrics | mean

  return method.Method(init, step)


def images_loss_fn(
  teacher: nn.Module, weights: Mapping[str, float]
) -> Callable[..., tuple[jax.Array, method.Metrics]]:
  """What the generator minimises, of the teacher's view of its images."""

  def loss_fn(
    variables: state_lib.PyTree, axis_name: str | None, images: jax.Array
  ) -> tuple[jax.Array, method.Metrics]:
    # Not frozen_fn: the gradient goes through the teacher, to the images.
    logits, sown = teacher.apply(
      jax.lax.stop_gradient(variables),
      images,
      train=False,
      mutable=['intermediates'],
    )
    (features,) = sown['intermediates']['features']
    terms = {
      'one_hot': generator_losses.one_hot(logits),
      'entropy': generator_losses.negative_entropy(logits, axis_name),
      'activation': generator_losses.activation(features),
    }
    loss: Any = sum(weight * terms[name] for name, weight in weights.items())
    return loss, terms | generator_losses.count_classes(logits, axis_name)

  return loss_fn


def _copy_loss_fn(temperature: float) -> method.LossFn:
  """What the student minimises; see `make`."""

  def loss_fn(
    logits: jax.Array, frozen: method.Frozen, batch: method.Batch
  ) -> tuple[jax.Array, method.Metrics]:
    del frozen
    loss = temperature**2 * losses.kl_divergence(
      batch['teacher'], logits, temperature=temperature
    )
    return loss, {}

  return loss_fn


def _fresh(
  trainer: generators.Trainer,
  generator: state_lib.TrainState,
  images: jax.Array,
  batch: method.Batch,
  rng: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, state_lib.TrainState]:
  """New images, by the generator as it now is."""
  del images
  return trainer.sample(generator, batch, rng, axis_name)


def _shared(
  trainer: generators.Trainer,
  generator: state_lib.TrainState,
  images: jax.Array,
  batch: method.Batch,
  rng: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, state_lib.TrainState]:
  """The images that the generator has just learned from."""
  del trainer, batch, rng, axis_name
  return images, generator


_STUDENT_IMAGES = {'fresh': _fresh, 'shared': _shared}


def _choose(name: str, value: str, known: Mapping[str, Any]) -> Any:
  """The entry of a table, or an error that says what there is."""
  if value not in known:
    raise ValueError(f'unknown {name} {value!r}; known: {", ".join(known)}')
  return known[value]
