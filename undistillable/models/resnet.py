"""ResNet-18, -34 and -50 for small images.

He et al. (2015), arXiv:1512.03385, with a 3x3 stem of stride 1, no max-pool,
and the stride of a bottleneck in its 3x3 convolution.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


def basic(
  conv: layers.ConvFn,
  norm: layers.NormFn,
  x: jax.Array,
  *,
  features: int,
  strides: int,
  name: str,
) -> jax.Array:
  """Two 3x3 convolutions around a shortcut."""
  y = conv(features, 3, strides, 1, name=f'{name}.conv1')(x)
  y = nn.relu(norm(name=f'{name}.bn1')(y))
  y = conv(features, 3, 1, 1, name=f'{name}.conv2')(y)
  y = norm(name=f'{name}.bn2')(y)
  return nn.relu(y + _shortcut(conv, norm, x, features, strides, name))


def bottleneck(
  conv: layers.ConvFn,
  norm: layers.NormFn,
  x: jax.Array,
  *,
  features: int,
  strides: int,
  name: str,
) -> jax.Array:
  """A 3x3 convolution between two of 1x1; the last has 4x the features."""
  y = conv(features, 1, name=f'{name}.conv1')(x)
  y = nn.relu(norm(name=f'{name}.bn1')(y))
  y = conv(features, 3, strides, 1, name=f'{name}.conv2')(y)
  y = nn.relu(norm(name=f'{name}.bn2')(y))
  y = conv(4 * features, 1, name=f'{name}.conv3')(y)
  y = norm(name=f'{name}.bn3')(y)
  return nn.relu(y + _shortcut(conv, norm, x, 4 * features, strides, name))


def _shortcut(
  conv: layers.ConvFn,
  norm: layers.NormFn,
  x: jax.Array,
  features: int,
  strides: int,
  name: str,
) -> jax.Array:
  """x itself, or projected to the block's output shape."""
  if strides == 1 and x.shape[-1] == features:
    return x
  x = conv(features, 1, strides, name=f'{name}.shortcut.0')(x)
  return norm(name=f'{name}.shortcut.1')(x)


class ResNet(nn.Module):
  """Four stages of `block`, with 64, 128, 256 and 512 features."""

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32
  block: Callable[..., jax.Array] = basic
  stage_sizes: tuple[int, ...] = (2, 2, 2, 2)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    layers.check_images(images)
    conv = functools.partial(layers.Conv, dtype=self.dtype)
    norm = functools.partial(
      layers.BatchNorm, train, self.axis_name, self.dtype
    )
    x = conv(64, 3, 1, 1, name='conv1')(images)
    x = nn.relu(norm(name='bn1')(x))
    for stage, num_blocks in enumerate(self.stage_sizes):
      for i in range(num_blocks):
        x = self.block(
          conv,
          norm,
          x,
          features=64 * 2**stage,
          strides=2 if stage > 0 and i == 0 else 1,
          name=f'layer{stage + 1}.{i}',
        )
    x = layers.global_mean(x)
    self.sow('intermediates', 'features', x)
    return layers.Dense(self.num_classes, name='linear')(x)
