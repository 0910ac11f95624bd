"""Recovery: answers of a defense are undone before a student learns them.

A thief who knows a defense by its paper runs it himself, on scores of his own
choice: so he has pairs of scores y and answers q(y), and from them learns the
way back. `bayes` looks answers up among the pairs, `d_dae` trains a network on
them; what both share is here.

Which scores he takes is his prior. The honest one is centred on the scores of a
shadow: a network of his own that learned the top classes of his answers. The
oracle is centred on the owner's scores before the defense, which no thief has:
public code does so, and it is a bound, not an attack.

Source: Tang et al. (2024), "ModelGuard: Information-Theoretic Defense Against
Model Extraction Attacks", USENIX Security, and its code,
github.com/Yoruko-Tang/ModelGuard, wb_recover.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import (
  defenses,
  losses,
  method,
  registry,
  serving,
  state as state_lib,
)
from undistillable.attacks import knockoff

PRIORS = ('honest', 'oracle')
# Of what the thief trains as the owner trains it, see `replica`.
_REPLICA_EPOCHS = 5
_REPLICA_BATCH = 64
_REPLICA_STEPS = 100  # At least, of however few images.
_LEAST_CONCENTRATION = 1e-6  # A gamma variable of 0 has no logarithm.


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the thief tries the defense on.

  Attributes:
    prior: 'honest' or 'oracle', whose scores the draws are centred on.
    concentration: of the Dirichlet, for each class, > 0: large stays close to
      the centre.
    draws: for each of the first images, >= 1; there are up to 500 of these.
    shadow_epochs: of the training of the shadow, >= 1.
    defense: a name of `defenses.DEFENSES`, or of a module; the plan finds out.
    defense_settings: its own; the plan finds them out.
  """

  prior: str = 'honest'
  concentration: float = 8.0
  draws: int = 200
  shadow_epochs: int = 5
  defense: str = 'none'
  defense_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    losses.check_one_of('prior', self.prior, PRIORS)
    losses.check_positive('concentration', self.concentration)
    losses.check_whole('draws', self.draws, least=1)
    losses.check_whole('shadow_epochs', self.shadow_epochs, least=1)


@flax.struct.dataclass
class State:
  """A student, and what restores the answers that he learns from."""

  student: state_lib.TrainState
  way_back: state_lib.PyTree  # It does not change any more.

  @property
  def step(self) -> jax.Array:
    """int32[], steps taken so far."""
    return self.student.step

  @property
  def variables(self) -> dict[str, state_lib.PyTree]:
    """Of the student: what is evaluated and published."""
    return self.student.variables


# (rng, y float32[N, K], q float32[N, K]) -> way_back
LearnFn = Callable[[jax.Array, jax.Array, jax.Array], state_lib.PyTree]
# (way_back, q float32[B, K]) -> log y, float32[B, K]
RestoreFn = Callable[[state_lib.PyTree, jax.Array], jax.Array]


def plan(name: str, job: Any, teacher: Any, student: str) -> list[Any]:
  """The shadow of a thief, and his student.

  Each image is asked about once. The shadow learns from the same answers, which
  the thief keeps. The answers of nobody no defense changes.

  Raises:
    ValueError: what protects the teacher is trained into it, so that there are
      no scores from which its answers are made; or it is no defense of the
      normal network alone.
  """
  parents = {'teacher': teacher}
  run = job.student(name, student, parents, _told(name, teacher))
  settings = run.method_settings
  shadow = job.helper(
    'knockoff',
    student,
    parents,
    {'targets': 'top'},
    {'epochs': settings.shadow_epochs, 'warmup_epochs': 0},
  )
  shadow = dataclasses.replace(shadow, queries='cached')
  others = {'shadow': shadow}
  if settings.prior == 'oracle' and teacher:
    others['clean'] = teacher.parents.get('normal', teacher)
  run = dataclasses.replace(
    run, parents={**run.parents, **others}, queries='cached'
  )
  return [shadow, run]


def _told(name: str, teacher: Any) -> dict[str, Any]:
  """What the thief knows of how a teacher is served."""
  if teacher is None or teacher.method == 'none':
    return {'defense': 'none', 'defense_settings': {}}
  if not hasattr(teacher.module, 'serve'):
    raise ValueError(
      f'{name}: {teacher.shown_method} is trained into the network; there are '
      'no scores that a thief could put through it'
    )
  if tuple(teacher.module.PARENTS) != ('normal',):
    raise ValueError(
      f'{name}: {teacher.shown_method} has PARENTS = '
      f"{teacher.module.PARENTS}; expected a defense of ('normal',), whose "
      'scores it changes'
    )
  own = dict(teacher.settings)
  return {'defense': teacher.method, 'defense_settings': own}


def is_bound(settings: Settings) -> bool:
  """Whether it knows what no thief does: scores before the defense."""
  return settings.prior == 'oracle'


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """What a finished training has to say."""
  del metrics
  if is_bound(settings):
    return (
      'its prior is the oracle: it knows scores before the defense, which no '
      'thief does'
    )
  return None


def attack(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, Any],
  learn_fn: LearnFn,
  restore_fn: RestoreFn,
) -> method.Method:
  """Trains a student as `knockoff` does, on restored answers.

  The way back is learned when the training begins, from images alone: no one is
  asked for it. Beside 'teacher' the parents are modules: 'shadow', or without
  one the prior is flat; and 'clean', the owner's network, for the oracle. No
  labels of a batch are read. Metrics: those of `knockoff`, and `moved`, `|y -
  q|_1` between restored and served scores.
  """
  student = knockoff.make(
    model, optimizer, knockoff.Settings(), {'teacher': parents['teacher']}
  )
  ask = student.answer_fns['teacher']

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> State:
    images = batch['image']
    replica_rng, pairs_rng, learn_rng = jax.random.split(
      jax.random.fold_in(rng, 1), 3
    )
    start = student.init(rng, batch, frozen)
    shape = jax.eval_shape(method.frozen_fn(model), start.variables, images)
    centres, network = jnp.zeros(shape.shape), None
    if 'shadow' in parents:
      shadow = serving.Network(parents['shadow'], frozen['shadow'])
      centres = shadow(images)
      network = replica(settings, optimizer, replica_rng, shadow, images)
    if 'clean' in parents:
      centres = serving.Network(parents['clean'], frozen['clean'])(images)
    y, q = pairs(settings, pairs_rng, centres, images, network)
    return State(start, learn_fn(learn_rng, y, q))

  def step(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[State, method.Metrics]:
    served = method.answer('teacher', ask, frozen, batch)
    q = jnp.exp(losses.log_scores(served))
    log_y = restore_fn(state.way_back, q)
    moved = jnp.abs(jnp.exp(log_y) - q).sum(-1).mean()
    lesson = {**batch, 'answers': {'teacher': log_y}}
    new, metrics = student.step(state.student, frozen, lesson, rng, axis_name)
    moved = method.average(moved, axis_name)
    return dataclasses.replace(state, student=new), {**metrics, 'moved': moved}

  return method.Method(init, step, student.answer_fns, student.logits_fn)


def replica(
  settings: Settings,
  optimizer: optax.GradientTransformation,
  rng: jax.Array,
  shadow: serving.Network,
  images: jax.Array,
) -> serving.Network:
  """The shadow, protected: with what the defense trains beside a network.

  The owner's own is not known. The thief trains another as the owner does, on
  his images float[N, H, W, C] with the shadow's top classes for labels.
  """
  module = defenses.get(settings.defense)
  if module.make is None or not hasattr(module, 'serve'):
    return shadow
  learner = module.make(
    shadow.module, optimizer, _known(settings), {'normal': shadow.module}
  )
  frozen = {'normal': shadow.variables}
  logits = shadow(images)
  batch = {
    'image': images,
    'label': logits.argmax(-1).astype(jnp.int32),
    'index': jnp.arange(len(images)),
    'answers': {'normal': logits},
  }
  size = min(_REPLICA_BATCH, len(images))
  num_batches = len(images) // size
  init_rng, order_rng, step_rng = jax.random.split(rng, 3)

  def body(i: jax.Array, state: Any) -> Any:
    key = jax.random.fold_in(order_rng, i // num_batches)
    order = jax.random.permutation(key, len(images))
    start = (i % num_batches) * size
    rows = jax.lax.dynamic_slice_in_dim(order, start, size)
    few = jax.tree.map(lambda x: x[rows], batch)
    return learner.step(state, frozen, few, jax.random.fold_in(step_rng, i))[0]

  state = learner.init(init_rng, batch, frozen)
  steps = max(_REPLICA_STEPS, _REPLICA_EPOCHS * num_batches)
  state = jax.lax.fori_loop(0, steps, body, state)
  return serving.Network(shadow.module, state.variables)


def pairs(
  settings: Settings,
  rng: jax.Array,
  centres: jax.Array,
  images: jax.Array,
  network: serving.Network | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Scores that a thief chooses, and how they are answered.

  Equation: `y ~ Dirichlet(concentration K softmax(z))` for every centre z,
  float[N, K], as often as `draws` says; q is what the defense serves of y. Some
  defenses read the images, float[N, H, W, C], and the network of `replica`.

  Returns:
    (y, q), each float32[draws * N, K] of scores.
  """
  serve = getattr(defenses.get(settings.defense), 'serve', None)
  num_classes = centres.shape[-1]
  mean = jnp.exp(losses.log_scores(centres))
  alpha = settings.concentration * num_classes * mean
  alpha = jnp.maximum(alpha, _LEAST_CONCENTRATION)

  def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    # In logarithms, in which no score is 0.
    log_y = losses.log_scores(jax.random.loggamma(key, alpha))
    log_q = log_y
    if serve:
      query = serving.Query(images, log_y, {}, network)
      log_q = losses.log_scores(serve(query, _known(settings)))
    return jnp.exp(log_y), jnp.exp(log_q)

  y, q = jax.lax.map(one, jax.random.split(rng, settings.draws))
  return y.reshape(-1, num_classes), q.reshape(-1, num_classes)


def _known(settings: Settings) -> Any:
  """The settings of the defense, as it takes them."""
  module = defenses.get(settings.defense)
  return registry.settings(module, dict(settings.defense_settings))
