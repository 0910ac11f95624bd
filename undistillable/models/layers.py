"""Convolution, dense and batch-norm layers that follow PyTorch's conventions.

The networks of this package keep PyTorch's tensor names, initialisers and
BatchNorm arithmetic, so that a released checkpoint can be loaded and a trained
one can be handed back (see `undistillable.interop`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing

from undistillable.models import convolution

Initializer = Callable[..., jax.Array]

# kaiming_uniform_(a=sqrt(5)), which is uniform in +-1/sqrt(fan_in): what
# PyTorch gives a convolution or a linear layer that nobody initialises.
torch_default = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# N(0, 2/(k*k*C_out)): kaiming_normal_(mode='fan_out').
kaiming_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def dirac(
  key: jax.Array,
  shape: tuple[int, ...],
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Kernels whose first features are the channels that they are given.

  Features beyond the number of channels are as PyTorch initialises them. The
  shape is (k, l, C, F), k and l odd.

  Source: torch.nn.init.dirac_, of the first C features alone, as in Jordan
  (2024), arXiv:2404.00498, section 3.
  """
  rows, columns, channels, features = shape
  identity = jnp.eye(channels, features, dtype=dtype)
  centre = jnp.zeros(shape, dtype).at[rows // 2, columns // 2].set(identity)
  given = jnp.arange(features).reshape(1, 1, 1, -1) < channels
  return jnp.where(given, centre, torch_default(key, shape, dtype))


def _torch_bias(fan_in: int) -> Initializer:
  """Uniform in +-1/sqrt(fan_in), PyTorch's default for biases."""
  bound = 1 / math.sqrt(fan_in)
  return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


class Conv(nn.Module):
  """A 2-D convolution with a square kernel and symmetric zero padding.

  float[B, H, W, C] -> dtype[B, H', W', features]. The parameter `kernel` is
  float32[k, k, C / groups, features].
  """

  features: int
  kernel_size: int
  strides: int = 1
  padding: int = 0
  groups: int = 1
  use_bias: bool = False
  dtype: Any = jnp.float32
  kernel_init: Initializer = torch_default
  bias_init: Initializer | None = None  # None: PyTorch's default.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k, channels = self.kernel_size, x.shape[-1] // self.groups
    shape = (k, k, channels, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    x = convolution.conv(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      strides=self.strides,
      padding=self.padding,
      groups=self.groups,
    )
    return _biased(self, x, k * k * channels) if self.use_bias else x


class Whitening(nn.Module):
  """A convolution that whitens 2x2 patches; of it, a bias alone is trained.

  float[B, H, W, C] -> dtype[B, H - 1, W - 1, 8 C]. Half of the features are
  the principal components of the patches, each divided by its deviation; the
  others are their negatives. They come from the images of the initialisation,
  and are kept as `kernel`, float32[2, 2, C, 8 C], among the 'batch_stats'.

  Source: Jordan (2024), arXiv:2404.00498, section 3.2.
  """

  dtype: Any = jnp.float32
  epsilon: float = 5e-4  # Added to the variances.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = 8 * x.shape[-1]
    kernel = self.variable('batch_stats', 'kernel', self._components, x)
    init = _torch_bias(features // 2)
    bias = self.param('bias', init, (features,), jnp.float32)
    x = convolution.conv(x.astype(self.dtype), kernel.value.astype(self.dtype))
    return x + bias.astype(self.dtype).reshape(1, 1, 1, -1)

  def _components(self, x: jax.Array) -> jax.Array:
    """The kernel that whitens x: float32[2, 2, C, 8 C]."""
    channels = x.shape[-1]
    x = x.astype(jnp.float32)
    # Rows, columns and channels of a patch, in this order.
    patches = jnp.concatenate(
      [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], axis=-1
    ).reshape(-1, 4 * channels)
    centred = patches - patches.mean(axis=0, keepdims=True)
    covariance = centred.T @ centred / len(centred)
    variances, vectors = jnp.linalg.eigh(covariance)
    deviations = jnp.sqrt(variances + self.epsilon).reshape(1, -1)
    kernel = (vectors / deviations)[:, ::-1]  # The largest first.
    kernel = jnp.concatenate([kernel, -kernel], axis=1)
    return kernel.reshape(2, 2, channels, -1)


class Dense(nn.Module):
  """A linear layer: float[B, F] -> dtype[B, features]."""

  features: int
  dtype: Any = jnp.float32
  use_bias: bool = True
  kernel_init: Initializer = torch_default
  bias_init: Initializer | None = None  # None: PyTorch's default.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = x.shape[-1]
    shape = (fan_in, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    x = x.astype(self.dtype) @ kernel.astype(self.dtype)
    return _biased(self, x, fan_in) if self.use_bias else x


def _biased(layer: Conv | Dense, x: jax.Array, fan_in: int) -> jax.Array:
  """What a layer has computed, and its bias."""
  init = layer.bias_init or _torch_bias(fan_in)
  bias = layer.param('bias', init, (layer.features,), jnp.float32)
  return x + bias.astype(layer.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class BatchNorm(nn.Module):
  """Batch normalisation as PyTorch defines it, pooled over devices.

  In training, `(x - mean) / sqrt(var + eps) * scale + bias` with the biased
  variance of the whole batch, over every device of `axis_name`; the running
  statistics become `0.9 * running + 0.1 * new` (with `momentum` 0.1), where the
  new variance is the unbiased one, n / (n - 1) times as large. Flax's own
  BatchNorm keeps the biased one, and so evaluates differently from the released
  networks. Statistics are float32 whatever `dtype` is.
  """

  train: bool
  axis_name: str | None = None
  dtype: Any = jnp.float32
  momentum: float = 0.1
  epsilon: float = 1e-5
  use_scale: bool = True  # False: it is 1.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    scale: jax.Array | float = 1.0
    if self.use_scale:
      scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
    zeros, ones = jnp.zeros, jnp.ones
    running_mean = self.variable('batch_stats', 'mean', zeros, shape)
    running_var = self.variable('batch_stats', 'var', ones, shape)
    x = x.astype(jnp.float32)
    if self.train and not self.is_initializing():
      mean, var, count = self._batch_statistics(x)
      if not self.is_mutable_collection('batch_stats'):
        raise ValueError(
          f'{self.name}: with train=True BatchNorm updates its running '
          "statistics; call apply(..., mutable=['batch_stats'])"
        )
      unbiased = var * (count / (count - 1))
      running_mean.value += self.momentum * (mean - running_mean.value)
      running_var.value += self.momentum * (unbiased - running_var.value)
    else:
      mean, var = running_mean.value, running_var.value
    row = (1,) * (x.ndim - 1) + shape
    # (x - mean) factor + bias. To JAX `centre` is a constant, any would do, so
    # that the gradient takes two sums over the batch and not five.
    centre = jax.lax.stop_gradient(mean)
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    shift = bias - (mean - centre) * factor
    x = (x - centre.reshape(row)) * factor.reshape(row) + shift.reshape(row)
    return x.astype(self.dtype)

  def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Mean, biased variance float32[C] and the number of values pooled."""
    axis = self.axis_name

    def pool(values: jax.Array) -> jax.Array:
      mean = jnp.mean(values, axis=tuple(range(x.ndim - 1)))
      return mean if axis is None else jax.lax.pmean(mean, axis)

    devices = 1 if axis is None else jax.lax.axis_size(axis)
    count = devices * x.size // x.shape[-1]
    if count < 2:
      raise ValueError(
        f'{self.name}: BatchNorm needs more than one value per channel in '
        f'training, but got shape {x.shape}; use a larger batch or image'
      )
    mean = pool(x)
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large. What is
    # subtracted in the end is zero, and so is its gradient, as it must be.
    centre = jax.lax.stop_gradient(mean)
    centred = x - centre.reshape((1,) * (x.ndim - 1) + (-1,))
    var = pool(jnp.square(centred)) - jnp.square(mean - centre)
    return mean, var, count


class Kit(NamedTuple):
  """Layers of which a network has fixed what is the same throughout."""

  conv: Callable[..., Conv]
  norm: Callable[..., BatchNorm]


class Network(nn.Module):
  """What all networks of this package have.

  Attributes:
    num_classes: K.
    axis_name: the pmapped axis over which BatchNorm pools its batch; None: this
      device alone.
    dtype: of the computation; parameters, statistics and logits are float32.
  """

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32

  def kit(self, images: jax.Array, train: bool, **of_conv: Any) -> Kit:
    """Its layers, for images float[B, H, W, C] of at least 8x8 pixels."""
    if images.ndim != 4 or min(images.shape[1:3]) < 8:
      raise ValueError(
        'images must be float[B, H, W, C] with H and W at least 8; got shape '
        f'{images.shape}'
      )
    return Kit(
      functools.partial(Conv, dtype=self.dtype, **of_conv),
      functools.partial(BatchNorm, train, self.axis_name, self.dtype),
    )

  def sown(self, features: jax.Array) -> jax.Array:
    """What the last layer reads, float32, which `method.features_fn` finds."""
    features = features.astype(jnp.float32)
    self.sow('intermediates', 'features', features)
    return features

  def end_stage(self, x: jax.Array) -> jax.Array:
    """What a stage puts out, float[B, H, W, C], for whoever listens there.

    They are found in order of depth under ('intermediates', 'stages'), see
    `attacks.skeptical.feature_maps`.
    """
    self.sow('intermediates', 'stages', x)
    return x


def max_pool(x: jax.Array) -> jax.Array:
  """2x2 maximum, stride 2: float[B, H, W, C] -> float[B, H//2, W//2, C]."""
  return jax.lax.platform_dependent(
    x,
    cpu=_max_pool_on_cpu,
    default=functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)),
  )


def _max_pool_on_cpu(x: jax.Array) -> jax.Array:
  """Comparisons of strided slices.

  The gradient of XLA's pooling takes 9 to 15 times as long on a CPU: 51 ms
  instead of 5.5 for 128x32x32x32. Where values tie, the first gets the
  gradient, in both and in PyTorch.
  """

  def larger(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.where((second > first) | jnp.isnan(second), second, first)

  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  x = larger(x[:, :, 0:width:2], x[:, :, 1:width:2])
  return larger(x[:, 0:height:2], x[:, 1:height:2])


def global_mean(x: jax.Array) -> jax.Array:
  """float[B, H, W, C] -> float32[B, C]."""
  return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def flatten(x: jax.Array) -> jax.Array:
  """float[B, H, W, C] -> float[B, C*H*W], in PyTorch's order."""
  return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
