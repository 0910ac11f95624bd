"""ShuffleNetV2 (1x) as the released code has it.

Ma et al. (2018), arXiv:1807.11164, with the oddities of the variant for small
images that the article's students use: no ReLU after the stem's BatchNorm, no
max-pool, a bias in every convolution, and a down-sampling branch that keeps
the width of its input until its last convolution.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable.models import layers


def _residual(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """1x1, depthwise 3x3 without ReLU, 1x1."""
  width = x.shape[-1]
  y = nn.relu(
    kit.norm(name=f'{name}.1')(kit.conv(width, 1, name=f'{name}.0')(x))
  )
  y = kit.conv(width, 3, strides, 1, groups=width, name=f'{name}.3')(y)
  y = kit.norm(name=f'{name}.4')(y)
  y = kit.conv(features, 1, name=f'{name}.5')(y)
  return nn.relu(kit.norm(name=f'{name}.6')(y))


def _shortcut(
  kit: layers.Kit, x: jax.Array, features: int, name: str
) -> jax.Array:
  """Depthwise 3x3 of stride 2 without ReLU, 1x1."""
  width = x.shape[-1]
  y = kit.conv(width, 3, 2, 1, groups=width, name=f'{name}.0')(x)
  y = kit.norm(name=f'{name}.1')(y)
  y = kit.conv(features, 1, name=f'{name}.2')(y)
  return nn.relu(kit.norm(name=f'{name}.3')(y))


def _shuffle(x: jax.Array) -> jax.Array:
  """Interleaves the two halves of the channels."""
  halves = x.reshape(*x.shape[:-1], 2, -1)
  return jnp.swapaxes(halves, -1, -2).reshape(x.shape)


def _down_unit(
  kit: layers.Kit, x: jax.Array, features: int, name: str
) -> jax.Array:
  """Both branches take all channels, at half the resolution."""
  half = features // 2
  residual = _residual(kit, x, half, 2, f'{name}.residual')
  shortcut = _shortcut(kit, x, half, f'{name}.shortcut')
  return _shuffle(jnp.concatenate([shortcut, residual], axis=-1))


def _unit(kit: layers.Kit, x: jax.Array, name: str) -> jax.Array:
  """The second half of the channels passes through the residual branch."""
  shortcut, x = jnp.split(x, 2, axis=-1)
  half = x.shape[-1]
  residual = _residual(kit, x, half, 1, f'{name}.residual')
  return _shuffle(jnp.concatenate([shortcut, residual], axis=-1))


class ShuffleNetV2(layers.Network):
  """Three stages of a down-sampling unit and `num_units` further ones."""

  num_units: tuple[int, ...] = (3, 7, 3)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    kit = self.kit(images, train, use_bias=True)
    x = kit.norm(name='pre.1')(kit.conv(24, 3, 1, 1, name='pre.0')(images))
    for stage, num_units in enumerate(self.num_units, 2):
      features = 116 * 2 ** (stage - 2)
      x = _down_unit(kit, x, features, f'stage{stage}.0')
      for i in range(num_units):
        x = _unit(kit, x, f'stage{stage}.{i + 1}')
    x = nn.relu(kit.norm(name='conv5.1')(kit.conv(1024, 1, name='conv5.0')(x)))
    x = self.sown(layers.global_mean(x))
    return layers.Dense(self.num_classes, name='fc')(x)
