"""ResNeXt-29 (8x64d).

Xie et al. (2017), arXiv:1611.05431, in the variant for small images.
"""

import flax.linen as nn
import jax

from undistillable.models import layers


def _bottleneck(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """A 3x3 convolution in 8 groups between two of 1x1, around a shortcut."""
  width = 8 * features // 4
  y = kit.conv(width, 1, name=f'{name}.conv_reduce')(x)
  y = nn.relu(kit.norm(name=f'{name}.bn_reduce')(y))
  y = kit.conv(width, 3, strides, 1, groups=8, name=f'{name}.conv_conv')(y)
  y = nn.relu(kit.norm(name=f'{name}.bn')(y))
  y = kit.conv(features, 1, name=f'{name}.conv_expand')(y)
  y = kit.norm(name=f'{name}.bn_expand')(y)
  if x.shape[-1] != features:
    name = f'{name}.shortcut.shortcut'
    x = kit.conv(features, 1, strides, name=f'{name}_conv')(x)
    x = kit.norm(name=f'{name}_bn')(x)
  return nn.relu(x + y)


class ResNeXt29(layers.Network):
  """Three stages of `num_blocks`, with 256, 512 and 1024 features."""

  num_blocks: int = 3  # Of a stage.

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train, kernel_init=layers.kaiming_fan_out)
    x = kit.conv(64, 3, 1, 1, name='conv_1_3x3')(images)
    x = nn.relu(kit.norm(name='bn_1')(x))
    for stage in (1, 2, 3):
      for i in range(self.num_blocks):
        strides = 2 if stage > 1 and i == 0 else 1
        name = f'stage_{stage}.stage_{stage}_bottleneck_{i}'
        x = _bottleneck(kit, x, 128 * 2**stage, strides, name)
      x = self.end_stage(x)
    x = self.sown(layers.global_mean(x))
    return layers.Dense(
      self.num_classes,
      kernel_init=nn.initializers.kaiming_normal(),
      bias_init=nn.initializers.zeros,
      name='classifier',
    )(x)
