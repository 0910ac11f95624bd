"""Self-undermining: a nasty teacher is accurate, its students are not."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import optax

from undistillable import losses, method

PARENTS = ('adversary',)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the article; see `losses.self_undermining`.

  Attributes:
    omega: weight of the divergence, >= 0. The released code has 0.04.
    temperature: tau_A > 0.
  """

  omega: float = 0.004
  temperature: float = 4.0

  def __post_init__(self) -> None:
    losses.check_not_negative('omega', self.omega)
    losses.check_positive('temperature', self.temperature)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, method.ApplyFn | nn.Module],
) -> method.Method:
  """Trains a nasty teacher against a frozen, normally trained adversary.

  Args:
    model: the teacher to train.
    optimizer: an optax transformation.
    settings: see there.
    parents: 'adversary', its module, or `(variables, images) -> logits`; its
      variables are frozen['adversary'].

  Returns:
    The method. Metric `kl` is KL(teacher || adversary) at tau_A, in nats.

  Source: Ma et al. (2021), arXiv:2105.07381, eq. 2.
  """
  return method.supervised(
    model,
    optimizer,
    loss_fn(settings),
    answer_fns={'adversary': method.as_frozen_fn(parents['adversary'])},
  )


def loss_fn(settings: Settings) -> method.LossFn:
  """Self-undermining against the answers of 'adversary'."""

  def loss(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    adversary_logits = seen.answers['adversary']
    loss = losses.self_undermining(
      seen.logits,
      adversary_logits,
      seen.batch['label'],
      temperature=settings.temperature,
      omega=settings.omega,
    )
    kl = losses.kl_divergence(
      seen.logits, adversary_logits, temperature=settings.temperature
    )
    return loss, {'kl': kl}

  return loss


def remedy(settings: Settings) -> str:
  """What to change where the teacher collapses or diverges."""
  return f'lower nasty.omega (now {settings.omega})'
