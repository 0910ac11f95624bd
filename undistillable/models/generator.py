"""The generator of data-free distillation: noise in, images out.

Chen et al. (2019), arXiv:1904.01186; `Generator` in the released code. It is
no classifier and therefore not in the registry of this package.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


class Generator(nn.Module):
  """A dense layer to a quarter of the size, then twice: enlarge, convolve.

  The last layer standardises every channel over the batch, so that the images
  lie where the networks expect theirs: in units of the data's deviation.

  Attributes:
    image_shape: (H, W, C); H and W are multiples of 4.
    width: features of the first convolution, twice those of the second; the
      released one has 128.
    epsilon: of the two BatchNorms between the convolutions.
    axis_name: the pmapped axis over which BatchNorm pools its batch.
    dtype: of the computation and of the images.
  """

  image_shape: tuple[int, int, int]
  width: int = 128
  epsilon: float = 1e-5
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, noise: jax.Array, train: bool = False) -> jax.Array:
    """noise: float[B, Z] -> images: dtype[B, H, W, C]."""
    height, width, channels = self.image_shape
    if height % 4 or width % 4:
      raise ValueError(
        'the generator makes images whose sides are multiples of 4; '
        f'got {height}x{width}'
      )
    conv = functools.partial(
      layers.Conv, kernel_size=3, padding=1, use_bias=True, dtype=self.dtype
    )
    norm = functools.partial(
      layers.BatchNorm, train, self.axis_name, self.dtype
    )
    small = (height // 4, width // 4, self.width)
    x = layers.Dense(math.prod(small), self.dtype, name='fc')(noise)
    x = norm(name='bn0')(x.reshape(-1, *small))
    x = conv(self.width, name='conv1')(_enlarge(x))
    x = nn.leaky_relu(norm(name='bn1', epsilon=self.epsilon)(x), 0.2)
    x = conv(self.width // 2, name='conv2')(_enlarge(x))
    x = nn.leaky_relu(norm(name='bn2', epsilon=self.epsilon)(x), 0.2)
    x = jnp.tanh(conv(channels, name='conv3')(x).astype(jnp.float32))
    # Flax's own: the one in layers.py always has a scale and a bias.
    standardize = nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      use_bias=False,
      use_scale=False,
      axis_name=self.axis_name,
      use_fast_variance=False,
      name='bn3',
    )
    return standardize(x).astype(self.dtype)


def _enlarge(x: jax.Array) -> jax.Array:
  """Every pixel becomes 2x2: [B, H, W, C] -> [B, 2H, 2W, C]."""
  return x.repeat(2, axis=1).repeat(2, axis=2)
