"""The five-layer CNN: the article's weakest student.

Ma et al. (2021), arXiv:2105.07381; `net` in the released code.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


class CNN(nn.Module):
  """Three conv-BN-pool-ReLU stages and two dense layers.

  The released network has width 32 and takes 32x32 images only; here the
  first dense layer takes whatever the image size leaves.
  """

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32
  width: int = 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    layers.check_images(images)
    norm = functools.partial(
      layers.BatchNorm, train, self.axis_name, self.dtype
    )
    x = images
    for i in (1, 2, 3):
      features = self.width * 2 ** (i - 1)
      conv = layers.Conv(
        features, 3, 1, 1, use_bias=True, dtype=self.dtype, name=f'conv{i}'
      )
      x = norm(name=f'bn{i}')(conv(x))
      x = nn.relu(layers.max_pool(x))
    x = layers.flatten(x)
    x = layers.Dense(4 * self.width, self.dtype, name='fc1')(x)
    x = nn.relu(norm(name='fcbn1')(x)).astype(jnp.float32)
    self.sow('intermediates', 'features', x)
    return layers.Dense(self.num_classes, name='fc2')(x)
