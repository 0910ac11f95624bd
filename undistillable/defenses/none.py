"""No defense: the teacher is trained with cross entropy."""

import flax.linen as nn
import jax
import optax

from undistillable import losses, method

PARENTS = ()


def make(
  model: nn.Module, optimizer: optax.GradientTransformation
) -> method.Method:
  """Trains a normal teacher; also every network's own control.

  Args:
    model: the network to train.
    optimizer: an optax transformation.

  Returns:
    The method; it reads nothing from `frozen`.
  """

  def loss_fn(
    logits: jax.Array, frozen: method.Frozen, batch: method.Batch
  ) -> tuple[jax.Array, method.Metrics]:
    del frozen
    return losses.cross_entropy(logits, batch['label']), {}

  return method.supervised(model, optimizer, loss_fn)
