"""ModelGuard-W: scores that say of the own ones little but the top class."""

import dataclasses

import jax
import jax.numpy as jnp

from undistillable import losses, serving
from undistillable.defenses import linear_program

PARENTS = ('normal',)
make = None  # The normal teacher is served as it is trained.
_FLOOR = 1e-6  # Under the logarithm of a score.
_MARGIN = 1e-4  # By which the top class stays ahead.


@dataclasses.dataclass(frozen=True)
class Settings:
  """That of ModelGuard.

  Attributes:
    epsilon: budget, `|q - y|_1 <= epsilon`, in 0..2; 0 is no defense.
  """

  epsilon: float = 1.0

  def __post_init__(self) -> None:
    losses.check_not_negative('epsilon', self.epsilon)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """Scores under which the network's own answer is the least likely.

  Equation: `min_q sum_k q_k log(y_k + 1e-6)` with `y = softmax(z)`, over scores
  q with `|q - y|_1 <= epsilon` and `q_top >= q_j + 1e-4` for all others j.
  Solved exactly, see `linear_program`. The top class is kept, and accuracy with
  it; what may be taken from it goes to the least likely classes, and so the
  scores are worth little to clients either.

  Source: Tang et al. (2024), "ModelGuard: Information-Theoretic Defense Against
  Model Extraction Attacks", USENIX Security; the constants, its code,
  github.com/Yoruko-Tang/ModelGuard, mld.py.
  """
  y = serving.scores(query)
  cost = jnp.log(y + _FLOOR)
  q = linear_program.cheapest_with_top(cost, y, settings.epsilon, _MARGIN)
  return serving.log_scores(q, query)
