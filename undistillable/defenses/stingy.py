"""Sparse scores: a stingy teacher serves the largest of them, no others."""

import dataclasses

import jax
import jax.numpy as jnp

from undistillable import losses, serving

PARENTS = ('normal',)
make = None  # The normal teacher is served as it is trained.
KEEPS_TOP = True


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the article for CIFAR-10; it has 0.1 for 100 classes and more.

  Attributes:
    ratio: share of the K classes that is served, in 0..1: int(ratio K) of
      them, at least one. 1 is no defense.
  """

  ratio: float = 0.2

  def __post_init__(self) -> None:
    losses.check_share('ratio', self.ratio)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """The N largest log-scores; all others are withheld.

  Equation: `z'_k = z_k` where z_k is one of the N largest, else
  `losses.WITHHELD`, with `N = max(1, int(ratio K))`. Of equal ones the first
  is served. The top class stays, and so do the ratios of those served: their
  softmax at any temperature is that of the N.

  Source: Ma et al. (2022), "Stingy Teacher: Sparse Logits Suffice to Fail
  Knowledge Distillation", ICLR workshop PAIR2Struct.
  """
  # Not less for 0.29 of 100, which is 28.999999999999996.
  number = max(1, int(settings.ratio * query.logits.shape[-1] + 1e-6))
  return keep_largest(query.logits, number)


def keep_largest(logits: jax.Array, number: int) -> jax.Array:
  """All but 1..K of the largest are withheld: [B, K] -> float32[B, K].

  Of equal ones the first is kept.
  """
  logits = losses.finite(logits)
  # To top_k -0.0 is less than 0.0, to argmax, which says the top class, equal.
  logits = jnp.where(logits == 0, 0.0, logits)
  largest, places = jax.lax.top_k(logits, number)
  withheld = jnp.full_like(logits, losses.WITHHELD)
  return jnp.put_along_axis(withheld, places, largest, axis=-1, inplace=False)
