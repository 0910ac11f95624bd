"""The multilayer perceptron of the released code."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


class MLP(nn.Module):
  """Two hidden layers of 512; released for 32x32 images, here for any size.

  As released, the logits pass through a ReLU and the declared dropout is not
  used. There is no BatchNorm, so `train` and `axis_name` change nothing.
  """

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    del train
    x = layers.flatten(images)
    x = nn.relu(layers.Dense(512, self.dtype, name='fc1')(x))
    x = nn.relu(layers.Dense(512, self.dtype, name='fc2')(x))
    x = x.astype(jnp.float32)
    self.sow('intermediates', 'features', x)
    return nn.relu(layers.Dense(self.num_classes, name='fc3')(x))
