"""Label smoothing: a control, of an owner and of a thief who trains alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from undistillable import losses, method

PARENTS = ()


@dataclasses.dataclass(frozen=True)
class Settings:
  """See `losses.label_smoothing`.

  Attributes:
    epsilon: the share of the label that goes to all classes, in 0..1.
  """

  epsilon: float = 0.1

  def __post_init__(self) -> None:
    losses.check_share('epsilon', self.epsilon)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, Any] | None = None,
) -> method.Method:
  """Trains a network with smoothed labels.

  Source: as a teacher, Müller et al. (2019), arXiv:1906.02629; the loss,
  Szegedy et al. (2016), arXiv:1512.00567, section 7.
  """
  del parents

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    label = seen.batch['label']
    loss = losses.label_smoothing(seen.logits, label, epsilon=settings.epsilon)
    return loss, {}

  return method.supervised(model, optimizer, loss_fn)
