"""No defense: the teacher is trained with cross entropy."""

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
  """There is nothing to set."""


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings = Settings(),
  parents: Mapping[str, Any] | None = None,
) -> method.Method:
  """Trains a normal teacher; also every network's own control."""
  del settings, parents

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    return losses.cross_entropy(seen.logits, seen.batch['label']), {}

  return method.supervised(model, optimizer, loss_fn)
