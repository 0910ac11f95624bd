"""Convolution, lowered to what the backend runs well."""

import jax


def conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int = 1,
  padding: int = 0,
  groups: int = 1,
) -> jax.Array:
  """float[B, H, W, C], float[k, k, C/groups, F] -> float[B, H', W', F]."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(strides, strides),
    padding=((padding, padding), (padding, padding)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )
