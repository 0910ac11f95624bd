"""The least network that methods can do with, and the names of all networks."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from undistillable import models
from undistillable.models import layers

# Of each family the shallower ones show what there is to see.
_DEEPEST = ('densenet161', 'densenet169', 'densenet201', 'resnetc110')
NAMES = [
  pytest.param(name, marks=pytest.mark.slow if name in _DEEPEST else ())
  for name in models.MODELS
]


class Small(nn.Module):
  """Convolutions with BatchNorm, a dense layer: little to trace and compile."""

  num_classes: int = 10
  axis_name: str | None = None
  dtype: Any = jnp.float32
  width: int = 8
  strides: tuple[int, ...] = (2,)  # Of its convolutions.

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    norm = functools.partial(
      layers.BatchNorm, train, self.axis_name, self.dtype
    )
    x = images
    for i, stride in enumerate(self.strides):
      name = f'conv{i}'
      x = layers.Conv(self.width, 3, stride, 1, dtype=self.dtype, name=name)(x)
      x = nn.relu(norm(name=f'bn{i}')(x))
    x = layers.flatten(x).astype(jnp.float32)
    self.sow('intermediates', 'features', x)
    return layers.Dense(self.num_classes, name='fc')(x)
