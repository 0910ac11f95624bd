"""Knowledge distillation with data: the student copies the teacher."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, oracle

PARENTS = ('teacher',)


@dataclasses.dataclass(frozen=True)
class Settings:
  """See `losses.distillation`.

  Attributes:
    temperature: tau > 0, of teacher and student.
    alpha: weight of the teacher against the labels, in 0..1.
  """

  temperature: float = 4.0
  alpha: float = 0.9

  def __post_init__(self) -> None:
    losses.check_positive('temperature', self.temperature)
    losses.check_alpha(self.alpha)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a frozen teacher into a student, on labelled images.

  Equation: `alpha tau^2 KL(T(x) || S(x)) + (1 - alpha) CE(S(x), y)`, see
  `losses.distillation`. Metric `kl` is KL(T(x) || S(x)) at tau, in nats.

  Source: Hinton et al. (2015), arXiv:1503.02531; Ma et al. (2021),
  arXiv:2105.07381, eq. 1.
  """
  return distil(
    model,
    optimizer,
    parents,
    lambda seen: seen.answers['teacher'],
    temperature=settings.temperature,
    alpha=settings.alpha,
  )


def distil(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  parents: oracle.Parents,
  heard_fn: Callable[[method.Forward], jax.Array],
  *,
  temperature: float,
  alpha: float,
) -> method.Method:
  """`make`, where the student hears something else of what all parents answer.

  Args:
    model: the student.
    optimizer: an optax transformation.
    parents: all of whom are asked.
    heard_fn: `Forward -> float[B, K]`, logits or log-scores.
    temperature: tau > 0.
    alpha: weight of what is heard against the labels, in 0..1.
  """

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    heard = heard_fn(seen)
    loss = losses.distillation(
      seen.logits,
      heard,
      seen.batch['label'],
      temperature=temperature,
      alpha=alpha,
    )
    kl = losses.kl_divergence(heard, seen.logits, temperature=temperature)
    return loss, {'kl': kl}

  answer_fns = {
    role: oracle.as_oracle(parent).scores for role, parent in parents.items()
  }
  return method.supervised(model, optimizer, loss_fn, answer_fns=answer_fns)
