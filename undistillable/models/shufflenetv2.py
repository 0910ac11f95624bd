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


def _separable(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, names: list[str]
) -> jax.Array:
  """Depthwise 3x3 without ReLU, 1x1."""
  width = x.shape[-1]
  x = kit.conv(width, 3, strides, 1, groups=width, name=names[0])(x)
  x = kit.norm(name=names[1])(x)
  x = kit.conv(features, 1, name=names[2])(x)
  return nn.relu(kit.norm(name=names[3])(x))


def _residual(
  kit: layers.Kit, x: jax.Array, features: int, strides: int, name: str
) -> jax.Array:
  """1x1, and `_separable`."""
  x = kit.conv(x.shape[-1], 1, name=f'{name}.residual.0')(x)
  x = nn.relu(kit.norm(name=f'{name}.residual.1')(x))
  names = [f'{name}.residual.{i}' for i in range(3, 7)]
  return _separable(kit, x, features, strides, names)


def _shuffle(x: jax.Array) -> jax.Array:
  """Interleaves the two halves of the channels."""
  halves = x.reshape(*x.shape[:-1], 2, -1)
  return jnp.swapaxes(halves, -1, -2).reshape(x.shape)


def _down_unit(
  kit: layers.Kit, x: jax.Array, features: int, name: str
) -> jax.Array:
  """Both branches take all channels, at half the resolution."""
  half = features // 2
  residual = _residual(kit, x, half, 2, name)
  names = [f'{name}.shortcut.{i}' for i in range(4)]
  shortcut = _separable(kit, x, half, 2, names)
  return _shuffle(jnp.concatenate([shortcut, residual], axis=-1))


def _unit(kit: layers.Kit, x: jax.Array, name: str) -> jax.Array:
  """The second half of the channels passes through the residual branch."""
  shortcut, x = jnp.split(x, 2, axis=-1)
  residual = _residual(kit, x, x.shape[-1], 1, name)
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
      x = self.end_stage(x)
    x = nn.relu(kit.norm(name='conv5.1')(kit.conv(1024, 1, name='conv5.0')(x)))
    x = self.sown(layers.global_mean(x))
    return layers.Dense(self.num_classes, name='fc')(x)
