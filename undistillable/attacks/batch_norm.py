"""How far images are from the BatchNorm statistics of a network.

The images may lie on several devices or in several batches, so there are two
parts: means over the examples, which can be pooled, and norms of what was
pooled. No norm is squared.

Source: Yin et al. (2020), arXiv:1912.08795, section 3.2, and its released code.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable import state as state_lib


class Gaps(NamedTuple):
  """What the inputs of one BatchNorm layer lack of its running statistics."""

  mean: jax.Array  # float32[C], `E[x] - mu`.
  # float32[C], `E[(x - mu)^2] - sigma^2`; taken about the running mean and not
  # about 0, where a variance would be lost in rounding.
  square: jax.Array


# Of each layer the gaps of mean and variance, float32[C] each.
Moments = tuple[tuple[jax.Array, jax.Array], ...]


def read(
  model: nn.Module, variables: state_lib.PyTree, image: jax.Array
) -> tuple[jax.Array, list[Gaps]]:
  """Applies a network and reads what enters each of its BatchNorm layers.

  A layer is any module with a `mean` and a `var` in the collection
  'batch_stats', whose features are the last axis of its input: ours, Flax's,
  and a user's own. Its calls are intercepted, so no network has to provide for
  it; only under `nn.remat` or `nn.scan` would the readings not get out.
  Gradients reach the images, float[B, H, W, C], and not the variables.

  Returns:
    logits float[B, K], and one `Gaps` a call of a layer, in the order of the
    calls; average those of the devices.

  Raises:
    ValueError: the input of a layer does not end in its features.
  """
  gaps: list[Gaps] = []

  def interceptor(
    next_fn: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
  ) -> Any:
    module = context.module
    if context.method_name == '__call__' and all(
      module.has_variable('batch_stats', name) for name in ('mean', 'var')
    ):
      mean: Any = module.get_variable('batch_stats', 'mean')
      var: Any = module.get_variable('batch_stats', 'var')
      gaps.append(_gaps('/'.join(module.path), args[0], mean, var))
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(interceptor):
    frozen = jax.lax.stop_gradient(variables)
    logits: Any = model.apply(frozen, image, train=False)
  return logits, gaps


def _gaps(
  name: str, inputs: jax.Array, mean: jax.Array, var: jax.Array
) -> Gaps:
  """float[..., C] against the running mean and variance, float[C]."""
  if inputs.shape[-1:] != mean.shape:
    raise ValueError(
      f'{name}: an input of shape {inputs.shape} does not end in the features '
      f'of its statistics, {mean.shape}; expected BatchNorm over the last axis'
    )
  axes = tuple(range(inputs.ndim - 1))
  shape = (1,) * len(axes) + mean.shape
  centred = inputs.astype(jnp.float32) - mean.reshape(shape)
  square = jnp.mean(jnp.square(centred), axis=axes)
  return Gaps(jnp.mean(centred, axis=axes), square - var)


def moments(gaps: Sequence[Gaps]) -> Moments:
  """`mu_l(x) - mu_l` and `sigma^2_l(x) - sigma^2_l` of each layer l.

  The variance of x is the biased one, as released.
  """
  # E[(x - mu)^2] is the variance and the square of the mean's gap.
  return tuple((gap.mean, gap.square - jnp.square(gap.mean)) for gap in gaps)


def distance(moments: Moments) -> jax.Array:
  """`sum_l ||mu_l(x) - mu_l|| + ||sigma^2_l(x) - sigma^2_l||`, float32[]."""
  total = jnp.zeros((), jnp.float32)
  for gap in jax.tree.leaves(moments):
    total += root(jnp.sum(jnp.square(gap)))
  return total


def root(energy: jax.Array) -> jax.Array:
  """`sqrt(energy)`, whose gradient at 0 is 0 and not infinite."""
  positive = energy > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1.0)), 0.0)
