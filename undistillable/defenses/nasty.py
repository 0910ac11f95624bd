"""Self-undermining: a nasty teacher is accurate, its students are not."""

import flax.linen as nn
import jax
import optax

from undistillable import losses, method

PARENTS = ('adversary',)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  adversary: method.ApplyFn | nn.Module,
  omega: float,
  temperature: float,
) -> method.Method:
  """Trains a nasty teacher against a frozen, normally trained adversary.

  Args:
    model: the teacher to train.
    optimizer: an optax transformation.
    adversary: the adversary's module, or `(variables, images) -> logits`;
      its variables are frozen['adversary'].
    omega: weight of the divergence, >= 0.
    temperature: tau_A > 0.

  Returns:
    The method. Metric `kl` is KL(teacher || adversary) at tau_A, in nats.

  Raises:
    ValueError: omega < 0 or temperature <= 0.

  Source: Ma et al. (2021), arXiv:2105.07381, eq. 2.
  """
  losses.check_not_negative('omega', omega)
  losses.check_positive('temperature', temperature)
  adversary_fn = method.as_frozen_fn(adversary)

  def loss_fn(
    logits: jax.Array, frozen: method.Frozen, batch: method.Batch
  ) -> tuple[jax.Array, method.Metrics]:
    adversary_logits = adversary_fn(frozen['adversary'], batch['image'])
    loss = losses.self_undermining(
      logits,
      adversary_logits,
      batch['label'],
      temperature=temperature,
      omega=omega,
    )
    kl = losses.kl_divergence(logits, adversary_logits, temperature=temperature)
    return loss, {'kl': kl}

  return method.supervised(model, optimizer, loss_fn)
