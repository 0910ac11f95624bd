"""MobileNetV2 as the released code has it.

Sandler et al. (2018), arXiv:1801.04381, with the oddities of the variant for
small images that the article's students use: the stem is a 1x1 convolution
with a padding of one pixel, every convolution has a bias, the first block
expands by 1 and keeps that convolution, and the classifier is a convolution.
"""

import flax.linen as nn
import jax

from undistillable.models import layers

# (expansion, features, strides of the first block), stages 1 to 7.
_STAGES = (
  (1, 16, 1),
  (6, 24, 2),
  (6, 32, 2),
  (6, 64, 2),
  (6, 96, 1),
  (6, 160, 1),
  (6, 320, 1),
)
# Those with a head in the released code of Kundu et al. (2021), of 24, 64 and
# 160 features, and the last one.
_TAPPED = (2, 4, 6, 7)


def _bottleneck(
  kit: layers.Kit,
  x: jax.Array,
  features: int,
  expand: int,
  strides: int,
  name: str,
) -> jax.Array:
  """Expand, filter each channel alone, project; added to x where it fits."""
  width, channels = expand * x.shape[-1], x.shape[-1]
  name = f'{name}.residual'
  y = kit.conv(width, 1, name=f'{name}.0')(x)
  y = nn.relu6(kit.norm(name=f'{name}.1')(y))
  y = kit.conv(width, 3, strides, 1, groups=width, name=f'{name}.3')(y)
  y = nn.relu6(kit.norm(name=f'{name}.4')(y))
  y = kit.norm(name=f'{name}.7')(kit.conv(features, 1, name=f'{name}.6')(y))
  return x + y if strides == 1 and channels == features else y


class MobileNetV2(layers.Network):
  """Seven stages of inverted bottlenecks; 8x fewer pixels a side in all."""

  num_blocks: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train, use_bias=True)
    x = kit.conv(32, 1, padding=1, name='pre.0')(images)
    x = nn.relu6(kit.norm(name='pre.1')(x))
    for stage, num_blocks in enumerate(self.num_blocks, 1):
      expand, features, strides = _STAGES[stage - 1]
      for i in range(num_blocks):
        # A stage of one block is no sequence in PyTorch, so it has no index.
        name = f'stage{stage}.{i}' if num_blocks > 1 else f'stage{stage}'
        x = _bottleneck(kit, x, features, expand, strides, name)
        strides = 1
      if stage in _TAPPED:
        x = self.end_stage(x)
    x = nn.relu6(kit.norm(name='conv1.1')(kit.conv(1280, 1, name='conv1.0')(x)))
    x = self.sown(layers.global_mean(x))
    head = layers.Conv(self.num_classes, 1, use_bias=True, name='conv2')
    return head(x[:, None, None, :])[:, 0, 0, :]
