"""The multilayer perceptron of the released code."""

import flax.linen as nn
import jax

from undistillable.models import layers


class MLP(layers.Network):
  """Two hidden layers of 512; released for 32x32 images, here for any size.

  As released, the logits pass through a ReLU and the declared dropout is not
  used. There is no BatchNorm, so `train` and `axis_name` change nothing.
  """

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    del train
    x = layers.flatten(images)
    x = nn.relu(layers.Dense(512, self.dtype, name='fc1')(x))
    x = self.sown(nn.relu(layers.Dense(512, self.dtype, name='fc2')(x)))
    return nn.relu(layers.Dense(self.num_classes, name='fc3')(x))
