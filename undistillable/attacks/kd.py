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
    temperature: tau_S > 0.
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

  Metric `kl` is KL(teacher || student) at tau_S, in nats.

  Source: Hinton et al. (2015), arXiv:1503.02531; Ma et al. (2021),
  arXiv:2105.07381, eq. 1.
  """

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    teacher_logits = seen.answers['teacher']
    loss = losses.distillation(
      seen.logits,
      teacher_logits,
      seen.batch['label'],
      temperature=settings.temperature,
      alpha=settings.alpha,
    )
    kl = losses.kl_divergence(
      teacher_logits, seen.logits, temperature=settings.temperature
    )
    return loss, {'kl': kl}

  teacher = oracle.as_oracle(parents['teacher'])
  return method.supervised(
    model, optimizer, loss_fn, answer_fns={'teacher': teacher.scores}
  )
