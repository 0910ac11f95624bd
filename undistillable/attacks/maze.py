"""MAZE: theft from answers alone, with many directions and a memory.

As in `dfme` a generator makes images on which student and teacher disagree, by
differences of the answers to images close by. It asks in more directions, and
the student learns the answers that were paid for again and again.

Source: Kariyappa et al. (2021), arXiv:2005.03161, and its code,
github.com/sanjaykariyappa/MAZE.
"""

import dataclasses
import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import errors, losses, method, oracle
from undistillable.attacks import dfme, generators

PARENTS = ('teacher',)
DATA = 'none'

remedy = generators.remedy


@dataclasses.dataclass(frozen=True)
class Settings(dfme.Budgeted):
  """Those of the released code, with our generator, and a memory that ends.

  The generator learns by SGD with momentum 0.9 and weight decay 5e-4, at a rate
  that falls to 0 as a cosine.

  Attributes:
    budget: see `dfme.Budgeted`.
    latent_dim: alike.
    directions: alike.
    replay_steps: updates of the student with answers of the memory.
    memory: images that it holds, the last ones; that of the code has no end.
  """

  budget: int = 5_000_000
  latent_dim: int = 100
  directions: int = 10
  replay_steps: int = 10
  memory: int = 10_000

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_whole('replay_steps', self.replay_steps, least=0)
    losses.check_whole('memory', self.memory, least=1)

  @property
  def queries_per_image(self) -> int:
    """Of one step: m beside the image, and the student's, one of them it."""
    return self.directions + self.student_steps


@flax.struct.dataclass
class State(generators.State):
  """Two networks, see `generators.State`, and the memory of the thief."""

  memory: generators.Memory


def updates_per_epoch(settings: Settings, steps: int) -> int:
  """How often an epoch updates the student, which its schedule must know."""
  return (settings.student_steps + settings.replay_steps) * steps


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """One student, of as many steps as the budget allows."""
  run = dfme.within_budget(job, 'maze', teacher, student)
  memory, batch_size = run.method_settings.memory, run.recipe['batch_size']
  if memory < batch_size:
    raise errors.InputError(
      f'maze: memory={memory} holds less than a batch of {batch_size}'
    )
  return [run]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a teacher that answers into a student, without any data.

  Equation: `KL(q(x) || softmax(S(x)))`, q the teacher's scores; the student
  minimises it, the generator maximises it. Its images and their gradient are
  those of `dfme`; there S is evaluated as in a test, where the released code
  leaves its BatchNorm as in training. The last images of each step enter the
  memory, from which the student learns in further steps. What the paper calls
  MAZE-PD, with a few images of the owner's, is not here.

  Metrics: loss, the divergence of the student's new images; accuracy, the
  percentage of these on which it agrees with the teacher; disagreement, the
  divergence of the generator's.
  """
  teacher = oracle.as_oracle(parents['teacher'])
  student_fn = method.frozen_fn(model)
  student = generators.copier(model, optimizer, teacher.scores)

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> State:
    start = generators.start(student, _trainer(settings, batch), rng, frozen)
    image = batch['image']
    logits = jax.eval_shape(student_fn, start.variables, image)
    empty = {
      'image': jnp.zeros((settings.memory, *image.shape[1:])),
      'answers': jnp.zeros((settings.memory, logits.shape[-1])),
    }
    memory = generators.Memory(empty, jnp.zeros((), jnp.int32))
    return State(start.student, start.generator, memory)

  def step(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[State, method.Metrics]:
    rng, generator_rng, directions_rng, replay_rng = jax.random.split(rng, 4)
    trainer = _trainer(settings, batch, axis_name)
    directions = dfme.draw_directions(
      directions_rng, batch, settings.directions
    )
    ask = functools.partial(teacher.scores, frozen['teacher'])
    learn = functools.partial(generators.learn, student, axis_name=axis_name)

    def gain(images: jax.Array, answers: jax.Array) -> jax.Array:
      """What the generator minimises, of every image."""
      logits = student_fn(state.student.variables, images)
      return -losses.kl_divergence(answers, logits)

    def gain_nearby(inputs: jax.Array) -> jax.Array:
      images = dfme.to_images(inputs, settings)
      return gain(images, ask(images))

    def generator_loss(inputs: jax.Array) -> tuple[jax.Array, Any]:
      images = dfme.to_images(jax.lax.stop_gradient(inputs), settings)
      with dfme.exact_products():
        answers = ask(images)
        values = gain(images, answers)
        loss, _ = dfme.blind_loss(
          gain_nearby, inputs, directions, settings.epsilon, values
        )
      return loss, (values, images, answers)

    generator, _, (values, images, answers) = trainer.update(
      state.generator, generator_loss, generator_rng
    )
    found = method.average({'disagreement': -values.mean()}, axis_name)
    student_state, every = state.student, []
    # A Python loop, for every query to be counted.
    for i, key in enumerate(jax.random.split(rng, settings.student_steps)):
      if i > 0:  # The first lesson is paid for already.
        inputs, generator = trainer.sample(generator, key)
        images = dfme.to_images(inputs, settings)
        answers = ask(images)
      student_state, metrics = learn(student_state, images, answers, key)
      every.append(metrics)
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *every)
    written = {'image': images, 'answers': answers}
    memory = state.memory.write(written, axis_name)

    def replay(student_state: Any, key: jax.Array) -> tuple[Any, None]:
      old = memory.draw(key, batch['index'])
      return learn(student_state, old['image'], old['answers'], key)[0], None

    keys = jax.random.split(replay_rng, settings.replay_steps)
    student_state, _ = jax.lax.scan(replay, student_state, keys)
    return State(student_state, generator, memory), found | mean

  return method.Method(init, step)


def _trainer(
  settings: Settings, batch: method.Batch, axis_name: str | None = None
) -> generators.Trainer:
  num_images = len(batch['index']) * generators.num_devices(axis_name)
  steps = max(1, dfme.num_steps(settings, num_images))
  schedule = optax.cosine_decay_schedule(
    settings.generator_learning_rate, steps
  )
  optimizer = optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(schedule, momentum=0.9)
  )
  return generators.Trainer(settings, optimizer, batch, axis_name)
