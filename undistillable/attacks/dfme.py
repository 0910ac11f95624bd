"""DFME: theft from answers alone, without data, within a budget of queries.

A generator learns to make images on which student and teacher disagree. How
they change the answers it finds by asking about images close by, since it sees
no gradient of the teacher; the student copies the answers.

Source: Truong et al. (2021), arXiv:2011.14779.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import errors, losses, method, oracle
from undistillable.attacks import generators, synthesis

PARENTS = ('teacher',)
DATA = 'none'

updates_per_epoch = generators.updates_per_epoch
remedy = generators.remedy

# Of a class that is not served, for whoever must take it for some number: a
# thousandth of its fair share.
_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Budgeted:
  """Settings of a thief who pays for answers to images that he makes up.

  Attributes:
    budget: queries, at most; the plan finds out how many steps they are.
    low: least value of each channel, after normalisation.
    high: largest value of each channel; the plan fills in both.
    latent_dim: normal random numbers from which one image is made.
    generator_width: see models.generator.
    generator_learning_rate: of the generator's optimizer.
    student_steps: updates of the student with new answers for each of the
      generator.
    directions: m, in which each image of the generator is moved.
    epsilon: how far, in units of tanh's argument.
  """

  budget: int = 20_000_000
  low: tuple[float, ...] = (-2.0,)
  high: tuple[float, ...] = (2.0,)
  latent_dim: int = 256
  generator_width: int = 128
  generator_learning_rate: float = 1e-4
  student_steps: int = 5
  directions: int = 1
  epsilon: float = 1e-3

  def __post_init__(self) -> None:
    for name in ('budget', 'latent_dim', 'student_steps', 'directions'):
      losses.check_whole(name, getattr(self, name), least=1)
    losses.check_whole('generator_width', self.generator_width, least=2)
    for name in ('generator_learning_rate', 'epsilon'):
      losses.check_positive(name, getattr(self, name))

  @property
  def queries_per_image(self) -> int:
    """Of one step: the image itself, m beside it, and the student's."""
    return 1 + self.directions + self.student_steps


@dataclasses.dataclass(frozen=True)
class Settings(Budgeted):
  """Those of the released code for CIFAR-10, with our generator and Adam.

  Attributes:
    milestones: shares of the budget at which both learning rates fall.
    gamma: the factor by which they do; the student's only where its schedule
      is 'step'.
  """

  milestones: tuple[float, ...] = (0.1, 0.3, 0.5)
  gamma: float = 0.3

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_positive('gamma', self.gamma)
    for share in self.milestones:
      if not 0 < share < 1:
        raise ValueError(
          f'milestones={self.milestones}; expected shares of the budget in 0..1'
        )


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """One student, of as many steps as the budget allows."""
  run = within_budget(job, 'dfme', teacher, student)
  settings, epochs = run.method_settings, run.recipe['epochs']
  milestones = (max(1, round(x * epochs)) for x in settings.milestones)
  changes = {'milestones': tuple(milestones), 'gamma': settings.gamma}
  return [dataclasses.replace(run, recipe={**run.recipe, **changes})]


def within_budget(job: Any, name: str, teacher: Any, student: str) -> Any:
  """The run of a thief who makes up what he asks about, of a student.

  Raises:
    errors.InputError: the budget is too small for one step, or an answer is
      computed in less than float32.
    ValueError: a step or an epoch of the recipe is empty.
  """
  in_range = synthesis.value_range(job.config.normalization)
  run = job.student(name, student, {'teacher': teacher}, in_range)
  for one in filter(None, (run, teacher)):
    if one.dtype != 'float32':
      raise errors.InputError(
        f'{name}: forward differences vanish in {one.dtype}; set '
        "config.dtype='float32'"
      )
  for field in ('batch_size', 'steps_per_epoch'):
    losses.check_whole(field, run.recipe[field], least=1)
  settings, batch_size = run.method_settings, run.recipe['batch_size']
  steps = num_steps(settings, batch_size)
  if not steps:
    raise errors.InputError(
      f'{name}: budget={settings.budget} is less than the '
      f'{batch_size * settings.queries_per_image} queries of one step'
    )
  # Epochs about as long as wanted, and fewer steps too few than epochs.
  epochs = max(1, steps // run.recipe['steps_per_epoch'])
  length = {'epochs': epochs, 'steps_per_epoch': steps // epochs}
  return dataclasses.replace(run, recipe={**run.recipe, **length})


def num_steps(settings: Budgeted, batch_size: int) -> int:
  """How many steps the budget pays for."""
  return settings.budget // (batch_size * settings.queries_per_image)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a teacher that answers into a student, without any data.

  Equation: `D(x) = mean_k |S(x)_k - v(x)_k|`, with v of `centred_scores`; the
  student minimises it, the generator maximises it. Its image is `x = tanh(a)`,
  stretched to low..high, and the gradient with respect to a that of
  `forward_differences`, in which S does not change and is evaluated as in a
  test. The budget says when the generator's learning rate falls, and not when
  to stop, which `plan` does. A batch is one of `generators`.

  Metrics: loss, D of the student's images; accuracy, the percentage of these on
  which it agrees with the teacher; disagreement, D of the generator's.
  """
  teacher = oracle.as_oracle(parents['teacher'])
  student_fn = method.frozen_fn(model)

  def copy_loss(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    return disagreement(seen.logits, seen.answers['teacher']), {}

  student = oracle.student(model, optimizer, copy_loss, parents)

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
    rng, generator_rng, directions_rng = jax.random.split(rng, 3)
    trainer = _trainer(settings, batch, axis_name)
    directions = draw_directions(directions_rng, batch, settings.directions)
    ask = functools.partial(teacher.scores, frozen['teacher'])

    def gain(inputs: jax.Array) -> jax.Array:
      """-D of every image, which asks the teacher."""
      images = to_images(inputs, settings)
      logits = student_fn(state.student.variables, images)
      return -disagreement(logits, ask(images))

    def generator_loss(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
      with exact_products():
        return blind_loss(gain, inputs, directions, settings.epsilon)

    generator, _, values = trainer.update(
      state.generator, generator_loss, generator_rng
    )
    found = method.average({'disagreement': -values.mean()}, axis_name)
    student_state, every = state.student, []
    # A Python loop, for every query to be counted.
    for key in jax.random.split(rng, settings.student_steps):
      inputs, generator = trainer.sample(generator, key)
      images = to_images(inputs, settings)
      student_state, metrics = generators.learn(
        student, student_state, images, ask(images), key, axis_name
      )
      every.append(metrics)
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *every)
    return generators.State(student_state, generator), found | mean

  return method.Method(init, step)


def _trainer(
  settings: Settings, batch: method.Batch, axis_name: str | None = None
) -> generators.Trainer:
  num_images = len(batch['index']) * generators.num_devices(axis_name)
  steps = num_steps(settings, num_images)
  schedule = optax.piecewise_constant_schedule(
    settings.generator_learning_rate,
    {round(share * steps): settings.gamma for share in settings.milestones},
  )
  return generators.Trainer(settings, optax.adam(schedule), batch, axis_name)


def to_images(inputs: jax.Array, settings: Budgeted) -> jax.Array:
  """What a client could send: tanh of whatever inputs, stretched."""
  share = 0.5 + 0.5 * jnp.tanh(inputs)
  return generators.stretch(share, settings.low, settings.high)


def disagreement(student_logits: jax.Array, answers: jax.Array) -> jax.Array:
  """How far the student is from what a teacher answers, float32[B].

  Equation: `D = mean_k |z_k - v_k|`, with v of `centred_scores`; as in the
  released code the student's logits z, float[B, K], are not centred.
  """
  difference = losses.finite(student_logits) - centred_scores(answers)
  return jnp.mean(jnp.abs(difference), axis=-1)


def centred_scores(answers: jax.Array) -> jax.Array:
  """The logits behind some scores, float[B, K], but for their mean, which is 0.

  Equation: `v = log q - mean_k log q_k`. Where any class is withheld, no log q
  is below log(1e-3 / K).
  """
  log_q = losses.log_scores(answers)
  withheld = jnp.any(losses.is_withheld(answers), axis=-1, keepdims=True)
  floor = jnp.log(_FLOOR / answers.shape[-1])
  log_q = jnp.where(withheld, jnp.maximum(log_q, floor), log_q)
  return log_q - log_q.mean(-1, keepdims=True)


def exact_products() -> contextlib.AbstractContextManager[None]:
  """Inside, products of float32 have all their digits, on any device.

  By default a GPU takes 10 bits of them (TF32), and a TPU 7: fewer than tell an
  image from one that is 1e-3 away, and their difference would be noise.
  """
  return jax.default_matmul_precision('highest')


def blind_loss(
  fn: Callable[[jax.Array], jax.Array],
  inputs: jax.Array,
  directions: jax.Array,
  epsilon: float,
  values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """A loss whose gradient is that of `forward_differences`; values of fn."""
  fixed = jax.lax.stop_gradient(inputs)
  values, grads = forward_differences(fn, fixed, directions, epsilon, values)
  return jnp.mean(jnp.sum(grads * inputs, axis=(1, 2, 3))), values


def forward_differences(
  fn: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  directions: jax.Array,
  epsilon: float,
  values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The values of fn at x, and its gradients estimated from m others.

  Equation: `(1/m) sum_i (n / epsilon) (f(x + epsilon r_i) - f(x)) r_i`, of
  directions r, float[m, B, ...], of length 1; exact for a linear function and n
  orthonormal ones. The inputs x, float[B, ...], are of n numbers each. fn
  returns one number an example; it is called m times, and once for its values
  where these, float[B], are not given.
  """
  values = fn(x) if values is None else values
  total = jnp.zeros_like(x)
  # A Python loop, for every query to be counted.
  for direction in directions:
    change = (fn(x + epsilon * direction) - values) / epsilon
    total += change.reshape(-1, *(1,) * (x.ndim - 1)) * direction
  return values, (x[0].size / len(directions)) * total


def draw_directions(
  rng: jax.Array, batch: method.Batch, number: int
) -> jax.Array:
  """Directions of length 1 for each image, float32[number, B, H, W, C]."""

  def draw(key: jax.Array) -> jax.Array:
    normal = jax.random.normal(key, (number, *batch['image'].shape[1:]))
    square = jnp.sum(jnp.square(normal), axis=(1, 2, 3), keepdims=True)
    return normal * jax.lax.rsqrt(square)

  return jnp.moveaxis(generators.draw(draw, rng, batch['index']), 1, 0)
