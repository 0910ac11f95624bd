"""Reverse sigmoid: served scores are bent against themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from undistillable import losses, serving

PARENTS = ('normal',)
make = None  # The normal teacher is served as it is trained.
# logit(1 - 1e-9): a score is taken for at least 1e-9 from 0 and from 1.
_LARGEST_LOGIT = float(np.log1p(-1e-9) - np.log(1e-9))


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of ModelGuard for CIFAR-10; it has beta 0.02 for CIFAR-100.

  Attributes:
    beta: size of the perturbation, >= 0; 0 is no defense.
    gamma: steepness of the sigmoid, >= 0; 0 is no defense.
  """

  beta: float = 0.21
  gamma: float = 0.2

  def __post_init__(self) -> None:
    losses.check_not_negative('beta', self.beta)
    losses.check_not_negative('gamma', self.gamma)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """Scores from which a sigmoid of their own logits is subtracted.

  Equation: `q = (y - r(y)) / sum_k (y - r(y))_k` with
  `r(y) = beta (sigmoid(gamma logit(y)) - 1/2)`, `logit(y) = log(y / (1 - y))`
  and `y = softmax(z)`. Scores above 1/2 shrink, others grow; it is not
  monotone, so small ones change places. Where beta > 1 leaves less than
  nothing of a score, it is withheld.

  Source: Lee et al. (2019), IEEE SPW, arXiv:1806.00054; settings of Tang et
  al. (2024), "ModelGuard", USENIX Security.
  """
  log_y = losses.log_scores(query.logits)
  # log(1 - y) is the score of all others: 1 - y would be 0 from 6e-8 on.
  itself = jnp.eye(log_y.shape[-1], dtype=bool)[None]
  others = jnp.where(itself, losses.WITHHELD, log_y[:, None, :])
  logit = log_y - jax.nn.logsumexp(others, axis=-1)
  logit = jnp.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT)
  bent = settings.beta * (jax.nn.sigmoid(settings.gamma * logit) - 0.5)
  kept = jnp.maximum(jnp.exp(log_y) - bent, 0.0)
  q = kept / kept.sum(axis=-1, keepdims=True)
  return losses.finite(jnp.log(q))
