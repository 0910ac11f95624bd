"""MAD: scores that turn a thief's gradient as far as a budget allows."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from undistillable import losses, serving
from undistillable.defenses import linear_program

PARENTS = ('normal',)
make = None  # The normal teacher is served as it is trained.
_AHEAD = 1e-5  # By which the top class stays ahead, in what is mixed in.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of ModelGuard.

  Attributes:
    epsilon: budget, `|q - y|_1 <= epsilon`, in 0..2; 0 is no defense.
    oracle: what is looked for. Of Orekondy et al., 'extreme', any class, or
      'argmax', which keeps the top class; of ModelGuard, the least linear
      cost: 'lp_extreme', with any class on top, or 'lp_argmax', which keeps it.
  """

  epsilon: float = 1.0
  oracle: str = 'lp_argmax'

  def __post_init__(self) -> None:
    losses.check_not_negative('epsilon', self.epsilon)
    losses.check_one_of('oracle', self.oracle, _ORACLES)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """Scores near the own ones whose gradient points elsewhere.

  Equation: with `G[k, :]` the gradient of `-log p_k` in the last weights of a
  surrogate of the thief, whose scores are p, and `y = softmax(z)`,

    `max_q |G'q / |G'q| - G'y / |G'y||^2`,   `|q - y|_1 <= epsilon`, q scores.

  G's rows are `(p - e_k) h'`, whatever the features h, so that the objective is
  `2 - 2 cos(q - p, y - p)`. A surrogate that has not learned yet, as the
  article chooses it, says `p = 1/K` up to chance: that is taken here. What
  remains is to make the correlation over the classes of q and y small.

  - 'extreme' and 'argmax': `q = (1 - a) y + a q*` with `a = min(1, epsilon /
    |y - q*|_1)` and q* one of few extreme scores, that of least cosine. For
    'extreme' these are the single classes: the least of y wins. For 'argmax'
    they are uniform over sets that hold the top class, which is a little ahead
    in them; of the sets of m classes, the top class and the least others win,
    and so K - 1 of them are compared instead of 2^(K-1). (For K > 10 the
    article's code searches some of them, and may end with a worse one.)
  - 'lp_extreme' and 'lp_argmax': the numerator alone, `min_q (y - p).q`, solved
    exactly, see `linear_program`; for 'lp_argmax' the top class stays ahead
    by 1e-4. It turns the gradient much further: of Dirichlet(0.3) scores of 10
    classes at epsilon 0.5 to a mean cosine of 0.69, 'argmax' to one of 0.97.

  Source: Orekondy et al. (2020), arXiv:1906.10908, and its code,
  github.com/tribhuvanesh/prediction-poisoning, bb_mad.py; for the linear
  program, Tang et al. (2024), "ModelGuard", USENIX Security, in their mad.py.
  """
  find = _ORACLES[settings.oracle]
  q = find(serving.scores(query), settings.epsilon)
  return serving.log_scores(q, query)


def _extreme(y: jax.Array, epsilon: float) -> jax.Array:
  """Towards the least likely class: [B, K] -> float32[B, K]."""
  return _towards(jax.nn.one_hot(y.argmin(axis=-1), y.shape[-1]), y, epsilon)


def _argmax(y: jax.Array, epsilon: float) -> jax.Array:
  """Towards the best uniform scores with the top class among them."""
  num_classes = y.shape[-1]
  top = jax.nn.one_hot(y.argmax(axis=-1), num_classes)
  # The top class first, then the others from the least on.
  order = jnp.argsort(jnp.where(top > 0, -1.0, y), axis=-1)
  rank = jnp.argsort(order, axis=-1)
  # What a sum of scores lost to rounding would choose where all are equal.
  centred = jnp.take_along_axis(y - 1 / num_classes, order, axis=-1)
  sums = jnp.cumsum(centred, axis=-1)[:, :-1]
  sizes = jnp.arange(1.0, num_classes)[None]
  # The cosine of q* - p and y - p, times the length of the latter.
  cosines = sums / sizes / jnp.sqrt(1 / sizes - 1 / num_classes)
  size = 1 + jnp.argmin(cosines, axis=-1, keepdims=True)
  chosen = (rank < size) + _AHEAD * top
  return _towards(chosen / chosen.sum(axis=-1, keepdims=True), y, epsilon)


def _lp_extreme(y: jax.Array, epsilon: float) -> jax.Array:
  return linear_program.cheapest(y - 1 / y.shape[-1], y, epsilon)


def _lp_argmax(y: jax.Array, epsilon: float) -> jax.Array:
  return linear_program.cheapest_with_top(y - 1 / y.shape[-1], y, epsilon)


def _towards(target: jax.Array, y: jax.Array, epsilon: float) -> jax.Array:
  """As far from y towards a target as the budget allows."""
  distance = jnp.abs(target - y).sum(axis=-1, keepdims=True)
  share = jnp.minimum(1.0, epsilon / jnp.maximum(distance, 1e-9))
  return (1 - share) * y + share * target


_ORACLES: dict[str, Callable[[jax.Array, float], jax.Array]] = {
  'argmax': _argmax,
  'extreme': _extreme,
  'lp_argmax': _lp_argmax,
  'lp_extreme': _lp_extreme,
}
