"""ResNetC: the article's small pre-activation ResNets.

He et al. (2016), arXiv:1603.05027; `preresnet` in the released code.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


def _basic(
  conv: layers.ConvFn,
  norm: layers.NormFn,
  x: jax.Array,
  features: int,
  strides: int,
  name: str,
) -> jax.Array:
  """Two pre-activated 3x3 convolutions, added to the raw input."""
  y = nn.relu(norm(name=f'{name}.bn1')(x))
  y = conv(features, 3, strides, 1, name=f'{name}.conv1')(y)
  y = nn.relu(norm(name=f'{name}.bn2')(y))
  y = conv(features, 3, 1, 1, name=f'{name}.conv2')(y)
  return y + _shortcut(conv, x, features, strides, name)


def _bottleneck(
  conv: layers.ConvFn,
  norm: layers.NormFn,
  x: jax.Array,
  features: int,
  strides: int,
  name: str,
) -> jax.Array:
  """A pre-activated 3x3 convolution between two of 1x1."""
  y = nn.relu(norm(name=f'{name}.bn1')(x))
  y = conv(features, 1, name=f'{name}.conv1')(y)
  y = nn.relu(norm(name=f'{name}.bn2')(y))
  y = conv(features, 3, strides, 1, name=f'{name}.conv2')(y)
  y = nn.relu(norm(name=f'{name}.bn3')(y))
  y = conv(4 * features, 1, name=f'{name}.conv3')(y)
  return y + _shortcut(conv, x, 4 * features, strides, name)


def _shortcut(
  conv: layers.ConvFn, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """x itself, or a bare 1x1 convolution of it: no BatchNorm here."""
  if strides == 1 and x.shape[-1] == features:
    return x
  return conv(features, 1, strides, name=f'{name}.downsample.0')(x)


class ResNetC(nn.Module):
  """Three stages of (depth - 2) / 6 blocks, with 16, 32 and 64 features."""

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32
  depth: int = 20

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    layers.check_images(images)
    if self.depth < 8 or self.depth % 6 != 2:
      raise ValueError(f'depth must be 6n + 2 with n > 0; got {self.depth}')
    # As released: from 44 on, `depth` counts as if the blocks were basic.
    block = _bottleneck if self.depth >= 44 else _basic
    conv = functools.partial(
      layers.Conv, dtype=self.dtype, kernel_init=layers.kaiming_fan_out
    )
    norm = functools.partial(
      layers.BatchNorm, train, self.axis_name, self.dtype
    )
    x = conv(16, 3, 1, 1, name='conv1')(images)
    for stage in range(3):
      for i in range((self.depth - 2) // 6):
        strides = 2 if stage > 0 and i == 0 else 1
        name = f'layer{stage + 1}.{i}'
        x = block(conv, norm, x, 16 * 2**stage, strides, name)
    x = layers.global_mean(nn.relu(norm(name='bn')(x)))
    self.sow('intermediates', 'features', x)
    return layers.Dense(self.num_classes, name='fc')(x)
