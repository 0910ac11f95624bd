"""ResNetC: the article's small pre-activation ResNets.

He et al. (2016), arXiv:1603.05027; `preresnet` in the released code.
"""

import flax.linen as nn
import jax

from undistillable.models import layers


def _basic(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """Two pre-activated 3x3 convolutions, added to the raw input."""
  y = nn.relu(kit.norm(name=f'{name}.bn1')(x))
  y = kit.conv(features, 3, strides, 1, name=f'{name}.conv1')(y)
  y = nn.relu(kit.norm(name=f'{name}.bn2')(y))
  y = kit.conv(features, 3, 1, 1, name=f'{name}.conv2')(y)
  return y + _shortcut(kit, x, features, strides, name)


def _bottleneck(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """A pre-activated 3x3 convolution between two of 1x1."""
  y = nn.relu(kit.norm(name=f'{name}.bn1')(x))
  y = kit.conv(features, 1, name=f'{name}.conv1')(y)
  y = nn.relu(kit.norm(name=f'{name}.bn2')(y))
  y = kit.conv(features, 3, strides, 1, name=f'{name}.conv2')(y)
  y = nn.relu(kit.norm(name=f'{name}.bn3')(y))
  y = kit.conv(4 * features, 1, name=f'{name}.conv3')(y)
  return y + _shortcut(kit, x, 4 * features, strides, name)


def _shortcut(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """x itself, or a bare 1x1 convolution of it: no BatchNorm here."""
  if strides == 1 and x.shape[-1] == features:
    return x
  return kit.conv(features, 1, strides, name=f'{name}.downsample.0')(x)


class ResNetC(layers.Network):
  """Three stages of (depth - 2) / 6 blocks, with 16, 32 and 64 features."""

  depth: int = 20

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train, kernel_init=layers.kaiming_fan_out)
    if self.depth < 8 or self.depth % 6 != 2:
      raise ValueError(f'depth must be 6n + 2 with n > 0; got {self.depth}')
    # As released: from 44 on, `depth` counts as if the blocks were basic.
    block = _bottleneck if self.depth >= 44 else _basic
    x = kit.conv(16, 3, 1, 1, name='conv1')(images)
    for stage in range(3):
      for i in range((self.depth - 2) // 6):
        strides = 2 if stage > 0 and i == 0 else 1
        name = f'layer{stage + 1}.{i}'
        x = block(kit, x, 16 * 2**stage, strides, name)
      x = self.end_stage(x)
    x = self.sown(layers.global_mean(nn.relu(kit.norm(name='bn')(x))))
    return layers.Dense(self.num_classes, name='fc')(x)
