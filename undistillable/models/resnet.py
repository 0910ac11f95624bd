"""ResNet-18, -34 and -50 for small images.

He et al. (2015), arXiv:1512.03385, with a 3x3 stem of stride 1, no max-pool,
and the stride of a bottleneck in its 3x3 convolution.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from undistillable.models import layers


def basic(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """Two 3x3 convolutions around a shortcut."""
  y = kit.conv(features, 3, strides, 1, name=f'{name}.conv1')(x)
  y = nn.relu(kit.norm(name=f'{name}.bn1')(y))
  y = kit.conv(features, 3, 1, 1, name=f'{name}.conv2')(y)
  y = kit.norm(name=f'{name}.bn2')(y)
  return nn.relu(y + _shortcut(kit, x, features, strides, name))


def bottleneck(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """A 3x3 convolution between two of 1x1; the last has 4x the features."""
  y = kit.conv(features, 1, name=f'{name}.conv1')(x)
  y = nn.relu(kit.norm(name=f'{name}.bn1')(y))
  y = kit.conv(features, 3, strides, 1, name=f'{name}.conv2')(y)
  y = nn.relu(kit.norm(name=f'{name}.bn2')(y))
  y = kit.conv(4 * features, 1, name=f'{name}.conv3')(y)
  y = kit.norm(name=f'{name}.bn3')(y)
  return nn.relu(y + _shortcut(kit, x, 4 * features, strides, name))


def _shortcut(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """x itself, or projected to the block's output shape."""
  if strides == 1 and x.shape[-1] == features:
    return x
  x = kit.conv(features, 1, strides, name=f'{name}.shortcut.0')(x)
  return kit.norm(name=f'{name}.shortcut.1')(x)


class ResNet(layers.Network):
  """Four stages of `block`, with 64, 128, 256 and 512 features."""

  block: Callable[..., jax.Array] = basic
  stage_sizes: tuple[int, ...] = (2, 2, 2, 2)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train)
    x = kit.conv(64, 3, 1, 1, name='conv1')(images)
    x = nn.relu(kit.norm(name='bn1')(x))
    for stage, num_blocks in enumerate(self.stage_sizes):
      for i in range(num_blocks):
        strides = 2 if stage > 0 and i == 0 else 1
        name = f'layer{stage + 1}.{i}'
        x = self.block(kit, x, 64 * 2**stage, strides, name)
      x = self.end_stage(x)
    x = self.sown(layers.global_mean(x))
    return layers.Dense(self.num_classes, name='linear')(x)
