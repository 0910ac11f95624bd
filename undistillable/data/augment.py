"""Augmentation on the device: pure functions of uint8 images.

Each takes `(rng, image)`, a JAX random key and uint8[B, H, W, C], and returns
images of the same shape and dtype; each example draws its own randomness, and
everything can be traced, so that it runs inside the compiled train step. Of a
batch that is spread over devices each example draws what it would on one.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import jax.typing

from undistillable import errors

# (random key, uint8[B, H, W, C]) -> uint8[B, H, W, C].
AugmentFn = Callable[[jax.Array, jax.Array], jax.Array]

# One unit of the 16.16 fixed point in which Pillow walks through an image.
_ONE = 1 << 16

# Over which the batch is spread that is being augmented; see `spread`.
_axis_name: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  'axis_name', default=None
)


@contextlib.contextmanager
def spread(axis_name: str | None) -> Iterator[None]:
  """Whoever augments inside has a share of a batch, and the key of all of it.

  So an image becomes the same on however many devices. For what is traced.

  Args:
    axis_name: of the devices, of which each has as many images; None for a
      batch that is whole.
  """
  token = _axis_name.set(axis_name)
  try:
    yield
  finally:
    _axis_name.reset(token)


def _draw(sample: Callable[[int], jax.Array], number: int) -> jax.Array:
  """`sample(number)`, or this device's share of what one would draw for all."""
  axis_name = _axis_name.get()
  size = 1 if axis_name is None else jax.lax.axis_size(axis_name)
  if size == 1:
    return sample(number)
  first = number * jax.lax.axis_index(axis_name)
  return jax.lax.dynamic_slice_in_dim(sample(size * number), first, number)


def normalize(
  image: jax.Array,
  mean: Sequence[float],
  std: Sequence[float],
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Returns `(image / 255 - mean) / std`, computed in float32, then cast.

  Args:
    image: uint8[B, H, W, C].
    mean: per-channel mean of the training images in units of 0..1, length C.
    std: per-channel standard deviation, alike.
    dtype: of the result; bfloat16 rounds once, at the end.

  Returns:
    dtype[B, H, W, C].

  Example:
    >>> normalize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), (0.5,), (0.25,))
    Array([[[[2.]]]], dtype=float32)
  """
  shape = (1,) * (image.ndim - 1) + (len(mean),)
  centre = jnp.asarray(mean, jnp.float32).reshape(shape)
  scale = jnp.asarray(std, jnp.float32).reshape(shape)
  return ((image.astype(jnp.float32) / 255 - centre) / scale).astype(dtype)


def none(rng: jax.Array, image: jax.Array) -> jax.Array:
  """Returns `image` as it is."""
  del rng
  return image


def pad_crop(
  rng: jax.Array, image: jax.Array, *, pad: int = 4, mode: str = 'constant'
) -> jax.Array:
  """Pads with `pad` zero pixels on each side and crops at a random place.

  The shift is uniform over -pad..pad in each direction; `mode` is that of
  `crop`.

  Source: torchvision `RandomCrop(size, padding=pad)`.
  """
  shift = _draw(
    lambda n: jax.random.randint(rng, (n, 2), 0, 2 * pad + 1), len(image)
  )
  return crop(image, shift, pad=pad, mode=mode)


def pad_crop_flip(
  rng: jax.Array, image: jax.Array, *, pad: int = 4, mode: str = 'constant'
) -> jax.Array:
  """`pad_crop`, then a horizontal flip with probability 1/2."""
  crop_rng, flip_rng = jax.random.split(rng)
  flipped = _flips(flip_rng, len(image))
  # The crop is as likely as its mirror image, so the order does not matter.
  return flip(pad_crop(crop_rng, image, pad=pad, mode=mode), flipped)


def reflect_crop_flip(rng: jax.Array, image: jax.Array) -> jax.Array:
  """`pad_crop_flip`, but what is padded mirrors the image at its edges.

  Source: Jordan (2024), arXiv:2404.00498, with 2 pixels.
  """
  return pad_crop_flip(rng, image, pad=2, mode='reflect')


def rotate_flip(
  rng: jax.Array, image: jax.Array, *, max_degrees: float = 20.0
) -> jax.Array:
  """Turns each image by a random angle, then flips it with probability 1/2.

  The angle is uniform over -max_degrees..max_degrees.

  Source: torchvision `RandomRotation(max_degrees)` with its defaults (nearest
  pixel, centre, same size, black outside) and `RandomHorizontalFlip()`.
  """
  rotate_rng, flip_rng = jax.random.split(rng)
  degrees = _draw(
    lambda n: jax.random.uniform(
      rotate_rng, (n,), minval=-max_degrees, maxval=max_degrees
    ),
    len(image),
  )
  return flip(rotate(image, degrees), _flips(flip_rng, len(image)))


def _flips(rng: jax.Array, number: int) -> jax.Array:
  return _draw(lambda n: jax.random.bernoulli(rng, shape=(n,)), number)


def crop(
  image: jax.Array, shift: jax.Array, *, pad: int, mode: str = 'constant'
) -> jax.Array:
  """Crops image b of the padded batch at `shift[b]`, back to its size.

  Args:
    image: uint8[B, H, W, C].
    shift: int32[B, 2], rows and columns, each in 0..2*pad; pad leaves the
      image where it was.
    pad: pixels on each side; fewer than H and W where they mirror.
    mode: of jnp.pad: 'constant' for zeros, 'reflect' for a mirror at the
      outermost pixels, which are not repeated.
  """
  edge = (pad, pad)
  padded = jnp.pad(image, ((0, 0), edge, edge, (0, 0)), mode=mode)

  def one(padded: jax.Array, shift: jax.Array) -> jax.Array:
    start = (shift[0], shift[1], 0)
    return jax.lax.dynamic_slice(padded, start, image.shape[1:])

  return jax.vmap(one)(padded, shift)


def flip(image: jax.Array, flipped: jax.Array) -> jax.Array:
  """Mirrors image b left to right where `flipped[b]`; bool[B]."""
  return jnp.where(flipped[:, None, None, None], image[:, :, ::-1], image)


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
  """Turns image b counter-clockwise by `degrees[b]` about its centre.

  Nearest pixel, black outside, as Pillow's `Image.rotate`: it walks through
  the source in 16.16 fixed point, and so does this, since rounding in floats
  would pick other pixels. Only the float32 sine and cosine are left to differ.

  Args:
    image: uint8[B, H, W, C].
    degrees: float32[B].
  """
  height, width = image.shape[1:3]
  angle = jnp.deg2rad(degrees.astype(jnp.float32))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  centre_y, centre_x = height / 2, width / 2
  # Where the centre of the first output pixel lies in the source.
  first_x = centre_x + cos * (0.5 - centre_x) - sin * (0.5 - centre_y)
  first_y = centre_y + sin * (0.5 - centre_x) + cos * (0.5 - centre_y)
  cos, sin, first_x, first_y = (
    jnp.floor(value * _ONE + 0.5).astype(jnp.int32)[:, None, None]
    for value in (cos, sin, first_x, first_y)
  )
  row = jnp.arange(height, dtype=jnp.int32)[None, :, None]
  column = jnp.arange(width, dtype=jnp.int32)[None, None, :]
  x = (first_x + cos * column - sin * row) >> 16
  y = (first_y + sin * column + cos * row) >> 16
  inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
  turned = jax.vmap(lambda image, y, x: image[y, x])(image, y, x)
  return jnp.where(inside[..., None], turned, 0).astype(image.dtype)


AUGMENTATIONS: dict[str, AugmentFn] = {
  'none': none,
  'pad_crop': pad_crop,
  'pad_crop_flip': pad_crop_flip,
  'reflect_crop_flip': reflect_crop_flip,
  'rotate_flip': rotate_flip,
}


def get_augmentation(name: str) -> AugmentFn:
  """The entry of `AUGMENTATIONS`, or a ValueError with all names.

  Example:
    >>> augment_fn = get_augmentation('pad_crop')
    >>> augment_fn(jax.random.key(0), jnp.ones((2, 8, 8, 1), jnp.uint8)).shape
    (2, 8, 8, 1)
  """
  errors.check_known('augmentation', name, AUGMENTATIONS)
  return AUGMENTATIONS[name]
