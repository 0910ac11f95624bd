"""From arrays on the device to batches, inside the compiled step."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np

from undistillable import errors
from undistillable.data import augment as augment_lib, checks

# (arrays, indices int[b], random key) -> a batch for the network.
PrepareFn = Callable[
  [Mapping[str, jax.Array], jax.Array | np.ndarray, jax.Array],
  dict[str, jax.Array],
]


def prepare_fn(
  mean: Sequence[float],
  std: Sequence[float],
  *,
  augment: str = 'none',
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> PrepareFn:
  """What makes a batch of uint8 images fit for a network.

  Equal arguments give the same function, so that what was compiled with it is
  found again.

  Args:
    mean: of each channel, in 0..1.
    std: of each channel, in 0..1.
    augment: a name of `augment.AUGMENTATIONS`.
    dtype: of the images that the network gets.

  Returns:
    `(arrays, indices int[b], rng) -> {'image': dtype[b, H, W, C],
    'label': int32[b]}`; where there are arrays['outlier'], images like
    arrays['image'], also 'outlier', dtype[b, H, W, C].

  Raises:
    ValueError: an unknown augmentation, or impossible means and deviations.
      The function raises one, before anything is compiled, for images that are
      not uint8[N, H, W, C].
  """
  means, stds = (tuple(map(float, np.ravel(x))) for x in (mean, std))
  fits = len(means) == len(stds) and all(0 <= x <= 1 for x in means)
  if not fits or not all(0 < x < float('inf') for x in stds):
    raise errors.InputError(
      f'mean={means}, std={stds}; expected one of each a channel, of images '
      'from 0 to 1: means in 0..1, deviations above 0'
    )
  return _prepare_fn(means, stds, augment, jnp.dtype(dtype))


@functools.lru_cache(maxsize=32)
def _prepare_fn(
  mean: tuple[float, ...],
  std: tuple[float, ...],
  augment: str,
  dtype: jax.typing.DTypeLike,
) -> PrepareFn:
  """See `prepare_fn`."""
  augment_fn = augment_lib.get_augmentation(augment)

  def prepare(
    arrays: Mapping[str, jax.Array],
    indices: jax.Array | np.ndarray,
    rng: jax.Array,
  ) -> dict[str, jax.Array]:
    def images(name: str, rng: jax.Array) -> jax.Array:
      checks.images(arrays[name], len(mean))
      found = augment_fn(rng, arrays[name][indices])
      return augment_lib.normalize(found, mean, std, dtype)

    batch = {'image': images('image', rng), 'label': arrays['label'][indices]}
    if 'outlier' in arrays:
      batch['outlier'] = images('outlier', jax.random.fold_in(rng, 1))
    return batch

  return prepare


@functools.lru_cache(maxsize=32)
def blank_fn(
  image_shape: tuple[int, int, int], dtype: jax.typing.DTypeLike = jnp.float32
) -> PrepareFn:
  """What stands in for data where an attack has none: shapes, and numbers.

  Args:
    image_shape: (H, W, C) of what the networks take.
    dtype: of the images that the networks get.

  Returns:
    `(arrays, indices int[b], rng) -> {'image': zeros dtype[b, H, W, C],
    'label': zeros int32[b], 'index': indices}`; the arrays are not read.
  """

  def prepare(
    arrays: Mapping[str, jax.Array],
    indices: jax.Array | np.ndarray,
    rng: jax.Array,
  ) -> dict[str, jax.Array]:
    del arrays, rng
    number = len(indices)
    return {
      'image': jnp.zeros((number, *image_shape), dtype),
      'label': jnp.zeros(number, jnp.int32),
      'index': jnp.asarray(indices, jnp.int32),
    }

  return prepare
