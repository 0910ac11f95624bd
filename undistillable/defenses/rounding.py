"""Rounding: scores of few decimals."""

import dataclasses

import jax
import jax.numpy as jnp

from undistillable import losses, serving

PARENTS = ('normal',)
make = None  # The normal teacher is served as it is trained.


@dataclasses.dataclass(frozen=True)
class Settings:
  """That of ModelGuard; the Adversarial Robustness Toolbox has 3 decimals.

  Attributes:
    decimals: of each score, >= 0; None is no defense.
  """

  decimals: int | None = 1

  def __post_init__(self) -> None:
    if self.decimals is not None:
      losses.check_whole('decimals', self.decimals, least=0)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """Scores that are rounded, and then sum to 1 again.

  Equation: `q = r(y) / sum_k r(y)_k`, where r rounds `y = softmax(z)` to so
  many decimals, halves to the even neighbour. What becomes 0 is withheld; where
  all of them do, as of many classes and no clear answer, the top class of y is
  served alone. Classes that round alike become equal, the top class among
  them: `argmax q` is then the first of these.

  Source: Tramèr et al. (2016), arXiv:1609.02943, section 7; there, and in the
  code of Tang et al. (2024), "ModelGuard", USENIX Security, rounded scores are
  served as they are, whatever they sum to.
  """
  log_y = losses.log_scores(query.logits)
  if settings.decimals is None:
    return log_y
  y = jnp.exp(log_y)
  rounded = jnp.round(y, settings.decimals)
  total = rounded.sum(axis=-1, keepdims=True)
  top = jax.nn.one_hot(y.argmax(axis=-1), y.shape[-1])
  q = jnp.where(total > 0, rounded, top) / jnp.where(total > 0, total, 1.0)
  return losses.finite(jnp.log(q))
