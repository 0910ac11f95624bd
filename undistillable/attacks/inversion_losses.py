"""What makes an image look natural, as pure functions: DeepInversion's priors.

Each prior is a norm that is not squared, over a whole batch. The batch may lie
on several devices, so every prior comes in two parts: sums or means over the
examples, which can be pooled, and the norm of what was pooled.

Source: Yin et al. (2020), arXiv:1912.08795, section 3.2, and its released
code.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from undistillable import state as state_lib


class Gaps(NamedTuple):
  """What the inputs of one BatchNorm layer lack of its running statistics.

  Attributes:
    mean: float32[C], `E[x] - mu`.
    square: float32[C], `E[(x - mu)^2] - sigma^2`; taken about the running mean
      and not about 0, where a variance would be lost in rounding.
  """

  mean: jax.Array
  square: jax.Array


def root(energy: jax.Array) -> jax.Array:
  """`sqrt(energy)`, whose gradient at 0 is 0 and not infinite.

  Example:
    >>> float(jax.grad(root)(0.0))
    0.0
  """
  positive = energy > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1.0)), 0.0)


def variation_energies(image: jax.Array) -> jax.Array:
  """Sums of the squared differences of neighbours, in four directions.

  Args:
    image: float[B, H, W, C].

  Returns:
    float32[4]: horizontal, vertical and both diagonals; add those of the
    devices.
  """
  x = image.astype(jnp.float32)
  differences = (
    x[:, :, :-1] - x[:, :, 1:],
    x[:, :-1] - x[:, 1:],
    x[:, 1:, :-1] - x[:, :-1, 1:],
    x[:, :-1, :-1] - x[:, 1:, 1:],
  )
  return jnp.stack([jnp.sum(jnp.square(d)) for d in differences])


def total_variation(energies: jax.Array) -> jax.Array:
  """The sum of the norms of the differences over a whole batch.

  Equation: `sum_d sqrt(energy_d)`

  Args:
    energies: float32[4], of `variation_energies`.

  Returns:
    float32[].

  Example:
    >>> image = jnp.array([[0.0, 3.0], [0.0, 3.0]]).reshape(1, 2, 2, 1)
    >>> round(float(total_variation(variation_energies(image))), 3)
    10.243
  """
  return jnp.sum(root(energies))


def read_batch_norm(
  model: nn.Module, variables: state_lib.PyTree, image: jax.Array
) -> tuple[jax.Array, list[Gaps]]:
  """Applies a network and reads what enters each of its BatchNorm layers.

  A layer is any module with a `mean` and a `var` in the collection
  'batch_stats', whose features are the last axis of its input: ours, Flax's,
  and a user's own. Its calls are intercepted, so no network has to provide for
  it; only under `nn.remat` or `nn.scan` would the readings not get out.

  Args:
    model: a linen module, `model.apply(variables, images, train=False)`.
    variables: 'params' and, with BatchNorm, 'batch_stats'. They get no
      gradient.
    image: float[B, H, W, C]; gradients do reach it.

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
    if context.method_name == '__call__' and _is_batch_norm(module):
      mean: Any = module.get_variable('batch_stats', 'mean')
      var: Any = module.get_variable('batch_stats', 'var')
      gaps.append(_gaps('/'.join(module.path), args[0], mean, var))
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(interceptor):
    frozen = jax.lax.stop_gradient(variables)
    logits: Any = model.apply(frozen, image, train=False)
  return logits, gaps


def batch_norm_distance(gaps: Sequence[Gaps]) -> jax.Array:
  """How far a batch is from a network's BatchNorm statistics.

  Equation: `sum_l ||mu_l(x) - mu_l|| + ||sigma^2_l(x) - sigma^2_l||`, with the
  biased variance of the batch, as released.

  Args:
    gaps: one a layer, of `read_batch_norm`; none for a network without.

  Returns:
    float32[].
  """
  total = jnp.zeros((), jnp.float32)
  for gap in gaps:
    # E[(x - mu)^2] is the variance and the square of the mean's gap.
    var_gap = gap.square - jnp.square(gap.mean)
    for x in (gap.mean, var_gap):
      total += root(jnp.sum(jnp.square(x)))
  return total


def _is_batch_norm(module: nn.Module) -> bool:
  """Whether a bound module has running statistics of its own."""
  return all(module.has_variable('batch_stats', x) for x in ('mean', 'var'))


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
