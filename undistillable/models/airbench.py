"""Airbench: the network that learns CIFAR-10 fastest.

Jordan (2024), arXiv:2404.00498: the one of 94 %, and a narrower one. Not of the
article of Ma et al.; two cores can train it on the whole data set.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


class Airbench(layers.Network):
  """A whitening convolution, and three groups of two convolutions each.

  Initialise it with some hundred images, not with one: its first layer whitens
  what it sees then.
  """

  widths: tuple[int, ...] = (64, 256, 256)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    conv, norm = self.kit(images, train, kernel_init=layers.dirac)
    norm = functools.partial(norm, momentum=0.4, epsilon=1e-12, use_scale=False)
    x = layers.Whitening(dtype=self.dtype, name='whiten')(images)
    x = nn.gelu(x, approximate=False)
    for i, width in enumerate(self.widths):
      for j in (1, 2):
        x = conv(width, 3, 1, 1, name=f'layers.{i}.conv{j}')(x)
        if j == 1 and min(x.shape[1:3]) > 1:  # Of 8 pixels, two poolings.
          x = layers.max_pool(x)
        x = norm(name=f'layers.{i}.norm{j}')(x)
        x = nn.gelu(x, approximate=False)
      x = self.end_stage(x)
    x = self.sown(jnp.max(x, axis=(1, 2)))
    return layers.Dense(self.num_classes, use_bias=False, name='head')(x) / 9
