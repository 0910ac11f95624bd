"""Top k: only so many of the largest scores are served."""

import dataclasses

import jax

from undistillable import losses, serving
from undistillable.defenses import stingy

PARENTS = ('normal',)
make = None  # The normal teacher is served as it is trained.
KEEPS_TOP = True


@dataclasses.dataclass(frozen=True)
class Settings:
  """That of ModelGuard: the top class alone.

  Attributes:
    k: how many classes are served, >= 1. All of them is no defense.
  """

  k: int = 1

  def __post_init__(self) -> None:
    losses.check_whole('k', self.k, least=1)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """The k largest scores, which then sum to 1 again.

  Equation: `q_j = y_j / sum_{i in S} y_i` for j in S, the k largest of
  `y = softmax(z)`, and 0 elsewhere. Of equal ones the first is served. It is
  `stingy` with a number instead of a share. With k = 1 a client learns the top
  class and nothing else: no defense that keeps the top class can hold more
  back, since whoever is answered may forget the rest.

  Source: Tramèr et al. (2016), arXiv:1609.02943, section 6; in the code of Tang
  et al. (2024), "ModelGuard", USENIX Security, scores are not made to sum to 1.
  """
  number = min(settings.k, query.logits.shape[-1])
  kept = stingy.keep_largest(query.logits, number)
  return losses.finite(losses.log_scores(kept))
