"""DenseNet-BC-121, -161, -169 and -201 for small images.

Huang et al. (2017), arXiv:1608.06993, with a bare 3x3 stem of stride 1 and, as
in the released code, no ReLU in the transitions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


def _bottleneck(
  kit: layers.Kit, x: jax.Array, growth: int, name: str
) -> jax.Array:
  """Appends `growth` features to x."""
  name = f'{name}.bottle_neck'
  y = nn.relu(kit.norm(name=f'{name}.0')(x))
  y = kit.conv(4 * growth, 1, name=f'{name}.2')(y)
  y = nn.relu(kit.norm(name=f'{name}.3')(y))
  y = kit.conv(growth, 3, 1, 1, name=f'{name}.5')(y)
  return jnp.concatenate([x, y], axis=-1)


def _transition(kit: layers.Kit, x: jax.Array, name: str) -> jax.Array:
  """Halves the features and the pixels a side."""
  name = f'{name}.down_sample'
  y = kit.norm(name=f'{name}.0')(x)
  y = kit.conv(x.shape[-1] // 2, 1, name=f'{name}.1')(y)
  return nn.avg_pool(y, (2, 2), (2, 2))


class DenseNet(layers.Network):
  """Four dense blocks with three transitions between them."""

  block_sizes: tuple[int, ...] = (6, 12, 24, 16)
  growth: int = 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train)
    x = kit.conv(2 * self.growth, 3, 1, 1, name='conv1')(images)
    last = len(self.block_sizes) - 1
    for block, num_layers in enumerate(self.block_sizes):
      # The last block is named otherwise in the released code.
      kind = 'dense_block_layer_' if block < last else 'dense_block'
      for i in range(num_layers):
        name = f'features.{kind}{block}.bottle_neck_layer_{i}'
        x = _bottleneck(kit, x, self.growth, name)
      x = self.end_stage(x)
      if block < last:
        x = _transition(kit, x, f'features.transition_layer_{block}')
    x = nn.relu(kit.norm(name='features.bn')(x))
    x = self.sown(layers.global_mean(x))
    return layers.Dense(self.num_classes, name='linear')(x)
