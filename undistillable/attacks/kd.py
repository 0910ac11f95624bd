"""Knowledge distillation with data: the student copies the teacher."""

import flax.linen as nn
import jax
import optax

from undistillable import losses, method

PARENTS = ('teacher',)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  teacher: method.ApplyFn | nn.Module,
  temperature: float,
  alpha: float,
) -> method.Method:
  """Distils a frozen teacher into a student, on labelled images.

  Args:
    model: the student to train.
    optimizer: an optax transformation.
    teacher: the teacher's module, or `(variables, images) -> logits` as a
      client sees them; its variables are frozen['teacher'].
    temperature: tau_S > 0.
    alpha: weight of the teacher against the labels, in 0..1.

  Returns:
    The method. Metric `kl` is KL(teacher || student) at tau_S, in nats.

  Raises:
    ValueError: temperature <= 0 or alpha outside 0..1.

  Source: Hinton et al. (2015), arXiv:1503.02531; Ma et al. (2021),
  arXiv:2105.07381, eq. 1.
  """
  losses.check_positive('temperature', temperature)
  losses.check_alpha(alpha)
  teacher_fn = method.as_frozen_fn(teacher)

  def loss_fn(
    logits: jax.Array, frozen: method.Frozen, batch: method.Batch
  ) -> tuple[jax.Array, method.Metrics]:
    teacher_logits = teacher_fn(frozen['teacher'], batch['image'])
    loss = losses.distillation(
      logits,
      teacher_logits,
      batch['label'],
      temperature=temperature,
      alpha=alpha,
    )
    kl = losses.kl_divergence(teacher_logits, logits, temperature=temperature)
    return loss, {'kl': kl}

  return method.supervised(model, optimizer, loss_fn)
