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
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle, state as state_lib
from undistillable.attacks import generators

PARENTS = ('teacher',)
ACCESS = 'weights'
DATA = 'none'

updates_per_epoch = generators.updates_per_epoch

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
    for name in ('latent_dim', 'student_steps'):
      losses.check_whole(name, getattr(self, name), least=1)
    losses.check_whole('generator_width', self.generator_width, least=2)
    for name in ('generator_learning_rate', 'batch_norm_epsilon'):
      losses.check_positive(name, getattr(self, name))
    losses.check_positive('temperature', self.temperature)
    for name in ('one_hot_weight', 'entropy_weight', 'activation_weight'):
      losses.check_not_negative(name, getattr(self, name))
    losses.check_one_of('entropy_log', self.entropy_log, _LOG_UNITS)
    losses.check_one_of(
      'student_images', self.student_images, ('fresh', 'shared')
    )


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a frozen teacher into a student, without any data.

  Equation: the generator minimises `one_hot_weight CE(T(x), argmax T(x)) +
  entropy_weight sum_k p_k log p_k - activation_weight mean |f_T(x)|`, where p
  is the mean of softmax(T(x)) over the batch; the student `tau^2 KL(T(x) ||
  S(x))`, which sends no gradient to the generator. A batch is one of
  `generators`.

  Metrics: loss, of the student; accuracy, the percentage of images on which it
  agrees with the teacher; one_hot, entropy and activation, the generator's
  terms without their weights; classes and classes_missing, see `warning`.

  Source: Chen et al. (2019), arXiv:1904.01186, eqs. 2 to 7 and algorithm 1.
  """
  teacher = oracle.open_module(parents['teacher'])
  teacher_fn = method.frozen_fn(teacher)
  weights = {
    'one_hot': settings.one_hot_weight,
    'entropy': settings.entropy_weight / _LOG_UNITS[settings.entropy_log],
    'activation': settings.activation_weight,
  }
  student = generators.copier(
    model, optimizer, teacher_fn, settings.temperature
  )

  def init(
    rng: jax.Array, batch: method.Batch, frozen: method.Frozen
  ) -> generators.State:
    return generators.start(student, _trainer(settings, batch), rng, frozen)

  def step(
    state: generators.State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[generators.State, method.Metrics]:
    rng, generator_rng = jax.random.split(rng)
    loss_fn = functools.partial(
      images_loss, teacher, weights, frozen['teacher'], axis_name
    )
    trainer = _trainer(settings, batch, axis_name)
    generator, images, metrics = trainer.update(
      state.generator, loss_fn, generator_rng
    )
    metrics = method.average(metrics, axis_name)
    student_state, every = state.student, []
    # A Python loop: XLA on a CPU is slow at convolutions inside its own.
    for key in jax.random.split(rng, settings.student_steps):
      if settings.student_images == 'fresh':
        images, generator = trainer.sample(generator, key)
      answers = teacher_fn(frozen['teacher'], images)
      student_state, student_metrics = generators.learn(
        student, student_state, images, answers, key, axis_name
      )
      every.append(student_metrics)
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *every)
    return generators.State(student_state, generator), metrics | mean

  return method.Method(init, step)


def _trainer(
  settings: Settings, batch: method.Batch, axis_name: str | None = None
) -> generators.Trainer:
  optimizer = optax.adam(settings.generator_learning_rate)
  epsilon = settings.batch_norm_epsilon
  return generators.Trainer(settings, optimizer, batch, axis_name, epsilon)


def images_loss(
  teacher: nn.Module,
  weights: Mapping[str, float],
  variables: state_lib.PyTree,
  axis_name: str | None,
  images: jax.Array,
) -> tuple[jax.Array, method.Metrics]:
  """What the generator minimises, of the teacher's view of its images."""
  # Not frozen_fn: the gradient goes through the teacher, to the images.
  logits, sown = teacher.apply(
    jax.lax.stop_gradient(variables),
    images,
    train=False,
    mutable=['intermediates'],
  )
  (features,) = sown['intermediates']['features']
  terms = {
    'one_hot': one_hot(logits),
    'entropy': negative_entropy(logits, axis_name),
    'activation': activation(features),
  }
  loss: Any = sum(weight * terms[name] for name, weight in weights.items())
  return loss, terms | count_classes(logits, axis_name)


def one_hot(logits: jax.Array) -> jax.Array:
  """How unsure the teacher is of its own answers, float[B, K], in nats.

  Equation: `mean_b CE(z_b, argmax z_b)`, eq. 2 of the paper; over this device
  alone, as it is linear in the examples.
  """
  return losses.cross_entropy(logits, logits.argmax(-1)).mean()


def activation(features: jax.Array) -> jax.Array:
  """How little the images excite the teacher's last features, float[B, F].

  Equation: `-mean_{b,f} |f_bf|`, eq. 3 of the paper, as its code divides it;
  over this device alone.
  """
  return -jnp.abs(jnp.asarray(features, jnp.float32)).mean()


def negative_entropy(
  logits: jax.Array, axis_name: str | None = None
) -> jax.Array:
  """How unevenly the teacher finds the images to be of its classes.

  Equation: `sum_k p_k log p_k`, with `p = mean_b softmax(z_b)` over all
  devices, eq. 4; of logits z, float[B, K], in nats, from -log K to 0.
  """
  log_p = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
  # The mean in log space: of a class that no image is of, every probability
  # underflows, and with it the only gradient that could bring it back.
  top = jax.lax.stop_gradient(log_p).max(0)
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  mean = method.average(jnp.exp(log_p - top[None]).mean(0), axis_name)
  log_mean = top + jnp.log(mean)
  return jnp.sum(jnp.exp(log_mean) * log_mean)


def count_classes(
  logits: jax.Array, axis_name: str | None = None
) -> dict[str, jax.Array]:
  """How many classes a teacher finds in a batch, and how many it misses.

  A class counts if a tenth of its fair share of the images, 1 / (10 K), is of
  it; logits: float[B, K].
  """
  num_classes = logits.shape[-1]
  hits = jax.nn.one_hot(logits.argmax(-1), num_classes)
  share = method.average(hits.mean(0), axis_name)
  made = jnp.sum(share >= 0.1 / num_classes, dtype=jnp.float32)
  return {'classes': made, 'classes_missing': num_classes - made}


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """Says so if the generator leaves out a tenth of the classes or more."""
  made, missing = metrics['classes'], metrics['classes_missing']
  if missing < 0.1 * (made + missing):
    return None
  return (
    f'the generator makes images of {made:.0f} of {made + missing:.0f} '
    f'classes; raise entropy_weight (now {settings.entropy_weight}) or lower '
    f'generator_learning_rate (now {settings.generator_learning_rate})'
  )
