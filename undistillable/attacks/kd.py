"""Knowledge distillation with data: the student copies the teacher."""

import dataclasses

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

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    return loss(seen, seen.answers['teacher'], settings)

  return oracle.student(model, optimizer, loss_fn, parents)


def loss(
  seen: method.Forward, heard: jax.Array, settings: Settings
) -> tuple[jax.Array, method.Metrics]:
  """The loss of `make`, of what is heard, float[B, K], logits or log-scores."""
  tau, labels = settings.temperature, seen.batch['label']
  found = losses.distillation(
    seen.logits, heard, labels, temperature=tau, alpha=settings.alpha
  )
  kl = losses.kl_divergence(heard, seen.logits, temperature=tau)
  return found, {'kl': kl}
