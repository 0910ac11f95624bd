"""D-DAE: a network learns the way back from answers to the scores behind."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle, state as state_lib
from undistillable.attacks import recovery
from undistillable.models import layers

PARENTS = ('teacher',)
DATA = 'foreign'

plan = functools.partial(recovery.plan, 'd_dae')
is_bound = recovery.is_bound
warning = recovery.warning


@dataclasses.dataclass(frozen=True)
class Settings(recovery.Settings):
  """Those of ModelGuard, but for fewer pairs.

  Attributes:
    draws: see `recovery.Settings`; of 500 images 10,000 pairs.
    epochs: so many times as many pairs as there are are drawn.
    batch_size: pairs of a step, at most.
    learning_rate: of SGD with momentum 0.9 and weight decay 1e-4; half of it
      in the second half.
  """

  draws: int = 20
  epochs: int = 200
  batch_size: int = 1024
  learning_rate: float = 1e-2

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_whole('epochs', self.epochs, least=1)
    losses.check_whole('batch_size', self.batch_size, least=2)
    losses.check_positive('learning_rate', self.learning_rate)


class Restorer(nn.Module):
  """Two hidden layers with BatchNorm, as wide as in ModelGuard's code."""

  @nn.compact
  def __call__(self, q: jax.Array, train: bool = False) -> jax.Array:
    """q: float[B, K], scores as served -> logits: float32[B, K]."""
    x, num_classes = q, q.shape[-1]
    if num_classes <= 10:
      widths = 128, 64
    elif num_classes <= 100:
      widths = 1024, 512
    else:
      widths = 2048, 1024
    for i, width in enumerate(widths):
      x = layers.Dense(width, name=f'fc{i}')(x)
      x = layers.BatchNorm(train, name=f'bn{i}')(x)
      x = nn.leaky_relu(x, 0.2)
    return layers.Dense(num_classes, name='out')(x)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Trains a student on answers that a network has restored.

  Equation: the restorer R minimises `mean |R(q(y)) - y|_1` over the pairs of
  `recovery.pairs`; the student learns R(q) as `knockoff` learns answers. With
  scores from Dirichlets it is what Tang et al. call D-DAE+. As in their code
  there is no tanh before the softmax of R, with which no score of 10 classes
  could be above 0.451. See `recovery.attack` for parents and metrics.

  Source: "D-DAE: Defense-Penetrating Model Extraction Attacks", IEEE Symposium
  on Security and Privacy (2023); Tang et al. (2024), "ModelGuard", USENIX
  Security, and its code.
  """

  def restore(variables: state_lib.PyTree, q: jax.Array) -> jax.Array:
    logits: Any = Restorer().apply(variables, q)
    return losses.log_scores(logits)

  learn = functools.partial(train_restorer, settings)
  return recovery.attack(model, optimizer, settings, parents, learn, restore)


def train_restorer(
  settings: Settings, rng: jax.Array, y: jax.Array, q: jax.Array
) -> dict[str, state_lib.PyTree]:
  """The variables of `Restorer`, of scores y and answers q float32[N, K]."""

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    error = jnp.abs(jax.nn.softmax(seen.logits) - seen.batch['y'])
    return error.sum(-1), {}

  size = min(settings.batch_size, len(y))
  steps = settings.epochs * (len(y) // size)
  rate = optax.piecewise_constant_schedule(
    settings.learning_rate, {steps // 2: 0.5}
  )
  optimizer = optax.chain(
    optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9)
  )
  learner = method.supervised(Restorer(), optimizer, loss_fn)
  init_rng, order_rng = jax.random.split(rng)

  def body(i: jax.Array, state: state_lib.TrainState) -> state_lib.TrainState:
    key = jax.random.fold_in(order_rng, i)
    rows = jax.random.randint(key, (size,), 0, len(y))
    pairs = {'image': q[rows], 'label': y[rows].argmax(-1), 'y': y[rows]}
    return learner.step(state, {}, pairs, key)[0]

  state = learner.init(init_rng, {'image': q[:1]}, {})
  return jax.lax.fori_loop(0, steps, body, state).variables
