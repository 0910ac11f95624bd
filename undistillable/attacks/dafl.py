"""DAFL: distillation without data, from images that a generator makes up.

The generator learns to make images of which the teacher is sure, which excite
its features, and which it finds to be of all classes alike; the student copies
the teacher on them. The attack is a white box: the gradient goes through the
teacher, and its features are read.

Source: Chen et al. (2019), arXiv:1904.01186.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, oracle, state as state_lib
from undistillable.attacks import generator_losses, generators

PARENTS = ('teacher',)
ACCESS = 'weights'
DATA = 'none'

_LOG_UNITS = {'natural': 1.0, 'log10': math.log(10.0)}  # In nats.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the article for CIFAR-10.

  The released code has 'log10', 0.8 (meant as the momentum, but PyTorch's
  second argument is epsilon) and 'shared' where the article has the defaults
  of `entropy_log`, `batch_norm_epsilon` and `student_images`.

  Attributes:
    latent_dim: normal random numbers from which one image is made.
    generator_width: see models.generator.
    generator_learning_rate: of Adam.
    one_hot_weight: alpha of the released code, >= 0.
    entropy_weight: beta, >= 0.
    activation_weight: of the excitement, >= 0.
    entropy_log: 'natural', or 'log10'.
    batch_norm_epsilon: of the generator's inner BatchNorms.
    student_images: 'fresh', of new noise and the generator just updated, as in
      algorithm 1; or 'shared', those that the generator was updated with.
    student_steps: updates of the student for each of the generator.
    temperature: tau_S > 0.
  """

  latent_dim: int = 1000
  generator_width: int = 128
  generator_learning_rate: float = 0.02
  one_hot_weight: float = 0.05
  entropy_weight: float = 5.0
  activation_weight: float = 0.01
  entropy_log: str = 'natural'
  batch_norm_epsilon: float = 1e-5
  student_images: str = 'fresh'
  student_steps: int = 1
  temperature: float = 1.0

  def __post_init__(self) -> None:
    for name, least in (
      ('latent_dim', 1),
      ('generator_width', 2),
      ('student_steps', 1),
    ):
      losses.check_whole(name, getattr(self, name), least=least)
    for name in (
      'generator_learning_rate',
      'batch_norm_epsilon',
      'temperature',
    ):
      losses.check_positive(name, getattr(self, name))
    for name in ('one_hot_weight', 'entropy_weight', 'activation_weight'):
      losses.check_not_negative(name, getattr(self, name))
    losses.check_one_of('entropy_log', self.entropy_log, _LOG_UNITS)
    losses.check_one_of('student_images', self.student_images, _STUDENT_IMAGES)


def updates_per_epoch(settings: Settings, steps: int) -> int:
  """How often an epoch updates the student, which its schedule must know."""
  return settings.student_steps * steps


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """What a finished training has to say of its last epoch."""
  return generator_losses.collapsed(metrics, dataclasses.asdict(settings))


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, oracle.Oracle | nn.Module],
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
    settings: see there.
    parents: 'teacher', its module, or an oracle that has it; its variables
      are frozen['teacher'].

  Returns:
    The method. Metrics: loss, of the student; accuracy, the percentage of
    images on which it agrees with the teacher; one_hot, entropy and
    activation, the generator's terms without their weights; classes and
    classes_missing, see `generator_losses.collapsed`.

  Raises:
    ValueError: the weights of the teacher are not known.

  Source: Chen et al. (2019), arXiv:1904.01186, eqs. 2 to 7 and algorithm 1.
  """
  weights = {
    'one_hot': settings.one_hot_weight,
    'entropy': settings.entropy_weight / _LOG_UNITS[settings.entropy_log],
    'activation': settings.activation_weight,
  }
  teacher = oracle.open_module(parents['teacher'])
  next_images_fn = _STUDENT_IMAGES[settings.student_images]
  loss_fn = images_loss_fn(teacher, weights)
  teacher_fn = method.frozen_fn(teacher)
  student = method.supervised(
    model,
    optimizer,
    _copy_loss_fn(settings.temperature),
    answer_fns={'teacher': teacher_fn},
  )
  trainer = generators.Trainer(
    settings.latent_dim,
    settings.generator_width,
    settings.batch_norm_epsilon,
    optax.adam(settings.generator_learning_rate),
  )

  def init(
    rng: jax.Array, batch: method.Batch, frozen: method.Frozen
  ) -> generators.State:
    student_rng, generator_rng = jax.random.split(rng)
    return generators.State(
      student=student.init(student_rng, batch, frozen),
      generator=trainer.init(generator_rng, batch),
    )

  def step(
    state: generators.State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[generators.State, method.Metrics]:
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
    for student_rng in jax.random.split(rng, settings.student_steps):
      images, generator = next_images_fn(
        trainer, generator, images, batch, student_rng, axis_name
      )
      logits = teacher_fn(frozen['teacher'], images)
      lesson = {
        'image': images,
        'label': logits.argmax(-1),
        'answers': {'teacher': logits},
      }
      student_state, student_metrics = student.step(
        student_state, {}, lesson, student_rng, axis_name
      )
      every.append(student_metrics)
    mean = jax.tree.map(lambda *x: sum(x) / settings.student_steps, *every)
    return generators.State(student_state, generator), metrics | mean

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

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    loss = temperature**2 * losses.kl_divergence(
      seen.answers['teacher'], seen.logits, temperature=temperature
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
