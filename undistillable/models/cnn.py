"""The five-layer CNN: the article's weakest student.

Ma et al. (2021), arXiv:2105.07381; `net` in the released code.
"""

import flax.linen as nn
import jax

from undistillable.models import layers


class CNN(layers.Network):
  """Three conv-BN-pool-ReLU stages and two dense layers.

  The released network has width 32 and takes 32x32 images only; here the
  first dense layer takes whatever the image size leaves.
  """

  width: int = 32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train, use_bias=True)
    x = images
    for i in (1, 2, 3):
      x = kit.conv(self.width * 2 ** (i - 1), 3, 1, 1, name=f'conv{i}')(x)
      # Before pooling and ReLU: what was recorded listens there.
      x = self.end_stage(kit.norm(name=f'bn{i}')(x))
      x = nn.relu(layers.max_pool(x))
    x = layers.flatten(x)
    x = layers.Dense(4 * self.width, self.dtype, name='fc1')(x)
    x = self.sown(nn.relu(kit.norm(name='fcbn1')(x)))
    return layers.Dense(self.num_classes, name='fc2')(x)
