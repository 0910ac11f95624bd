"""GRAD2: scores that redirect a thief's update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, serving, state as state_lib
from undistillable.defenses import linear_program

PARENTS = ('normal',)
_NAME = 'surrogate'
_DIRECTIONS = ('back', 'ones', 'signs')

remedy = method.lower('grad2.epsilon')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the article's main experiment, at the budget of ModelGuard.

  Attributes:
    epsilon: budget, `|q - y|_1 <= epsilon`, in 0..2; 0 is no defense. The
      article has 0 to 1 in steps of 0.1.
    direction: where the weights of a thief are sent: 'ones', all of them
      upwards; 'signs', each up or down by lot; 'back', against the update that
      the own scores would make ("MIN-IP").
    seed: of the lot of 'signs'.
  """

  epsilon: float = 1.0
  direction: str = 'ones'
  seed: int = 0

  def __post_init__(self) -> None:
    losses.check_not_negative('epsilon', self.epsilon)
    losses.check_whole('seed', self.seed, least=0)
    losses.check_one_of('direction', self.direction, _DIRECTIONS)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, nn.Module],
) -> method.Method:
  """Trains a surrogate of the thief, beside the normal network.

  It is distilled from the normal network's scores at temperature 1, `KL(y ||
  p)`, and not to the end: see its epochs in `config.recipes`. Loss and accuracy
  are those of the surrogate.

  Source: Mazeika et al. (2022), arXiv:2206.14157, whose surrogate, of the
  teacher's architecture too, learns from a transfer set that the owner guesses,
  for 10 epochs of a schedule of 50; here from the owner's images.
  """
  del settings

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    return losses.kl_divergence(seen.answers['normal'], seen.logits), {}

  answer_fns = {'normal': method.as_frozen_fn(parents['normal'])}
  learner = method.supervised(model, optimizer, loss_fn, answer_fns=answer_fns)
  return method.beside(learner, model, _NAME)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """Scores near the own ones that move the surrogate the most along v.

  Equation: `min_q c.q` over scores q with `|q - y|_1 <= epsilon`, where
  `y = softmax(z)` and `c = J v` with the surrogate's `J[k, :] = d log p_k / d
  weights`. The update that q makes is `J'q`, and so `c.q = v.J'q`: with
  `v = -1` ('ones') it is sent upwards. Solved exactly, see `linear_program`.
  The top class is not kept.

  v is of each image alone also for 'back', `v = J'y`; the authors' code takes
  the mean over a batch there. The last layer adds nothing to 'ones', since a
  shift of all logits changes no score.

  Source: Mazeika et al. (2022), "How to Steer Your Adversary: Targeted and
  Efficient Model Stealing Defenses with Gradient Redirection", ICML,
  arXiv:2206.14157; its code, github.com/mmazeika/model-stealing-defenses.
  """
  surrogate = serving.trained_beside(query, _NAME)
  y = serving.scores(query)
  params = surrogate.variables['params']

  def back(image: jax.Array, y: jax.Array) -> jax.Array:
    _, pull = _log_scores_and_pull(surrogate, image[None])
    return along(surrogate, image[None], pull(y[None]))[0]

  if settings.direction == 'back':
    cost = jax.vmap(back)(query.images, y)
  elif settings.direction == 'ones':
    down = jax.tree.map(lambda x: -jnp.ones_like(x), params)
    cost = along(surrogate, query.images, down)
  else:
    rng, sampler = jax.random.key(settings.seed), jax.random.rademacher
    signs = optax.tree.random_like(rng, params, sampler=sampler)
    cost = along(surrogate, query.images, signs)
  q = linear_program.cheapest(cost, y, settings.epsilon)
  return serving.log_scores(q, query)


def along(
  network: serving.Network, images: jax.Array, direction: state_lib.PyTree
) -> jax.Array:
  """J v, float32[B, K]: how log-scores change along v, of the parameters."""
  log_p, pull = _log_scores_and_pull(network, images)
  # v -> J v is the transpose of w -> J'w, and so its own gradient. There is no
  # shorter way: convolutions know reverse-mode differentiation only.
  _, push = jax.vjp(pull, jnp.zeros_like(log_p))
  return push(direction)[0]


def _log_scores_and_pull(
  network: serving.Network, images: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], state_lib.PyTree]]:
  """log p, float32[B, K]; and w -> J'w, from [B, K] to parameters."""

  def log_scores(params: state_lib.PyTree) -> jax.Array:
    variables = {**network.variables, 'params': params}
    logits: Any = network.module.apply(variables, images, train=False)
    return losses.log_scores(logits)

  log_p, pull = jax.vjp(log_scores, network.variables['params'])
  return log_p, lambda weights: pull(weights)[0]
