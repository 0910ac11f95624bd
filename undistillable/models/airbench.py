"""Airbench: the network that learns CIFAR-10 fastest.

Jordan (2024), arXiv:2404.00498: the one of 94 %, and a narrower one. Not of the
article of Ma et al.; two cores can train it on the whole data set.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


class Airbench(nn.Module):
  """A whitening convolution, and three groups of two convolutions each.

  Initialise it with some hundred images, not with one: its first layer whitens
  what it sees then.
  """

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32
  widths: tuple[int, ...] = (64, 256, 256)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    layers.check_images(images)
    conv = functools.partial(
      layers.Conv,
      kernel_size=3,
      padding=1,
      dtype=self.dtype,
      kernel_init=layers.dirac,
    )
    norm = functools.partial(
      layers.BatchNorm,
      train,
      self.axis_name,
      self.dtype,
      momentum=0.4,
      epsilon=1e-12,
      use_scale=False,
    )
    x = layers.Whitening(dtype=self.dtype, name='whiten')(images)
    x = nn.gelu(x, approximate=False)
    for i, width in enumerate(self.widths):
      for j in (1, 2):
        x = conv(width, name=f'layers.{i}.conv{j}')(x)
        if j == 1 and min(x.shape[1:3]) > 1:  # Of 8 pixels, two poolings.
          x = layers.max_pool(x)
        x = norm(name=f'layers.{i}.norm{j}')(x)
        x = nn.gelu(x, approximate=False)
    x = jnp.max(x, axis=(1, 2)).astype(jnp.float32)
    self.sow('intermediates', 'features', x)
    return layers.Dense(self.num_classes, use_bias=False, name='head')(x) / 9
