"""Convolutions of 3x3 weights at stride 1 with a quarter of the products.

Lavin and Gray (2015), arXiv:1509.09308: images are cut into tiles that yield
4x4 outputs each, F(4x4, 3x3) there, and tiles and kernels are transformed so
that a convolution becomes 36 matrix products, one for each pixel of a
transformed tile. The transformations are linear, and so the gradient of a
kernel is found in the same way, with as few products: F(3x3, 4x4).

In terms of polynomials: a transformation evaluates them at five points and at
infinity, products are taken there, and what is left is to interpolate. With the
points (0, +-1/c, +-c) of Alam et al. (2022), arXiv:2201.10369, and c = sqrt(2),
rounding errors are a quarter of those with 0, +-1 and +-2, and come to 3e-6 of
the largest output in float32 (256 channels), where adding up all products
leaves 5e-7.

Images come padded, so that h rows and w columns of tiles fill them; T = B h w.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

TILE = 4  # Outputs of a tile, in either direction.
KERNEL = 3  # Weights, likewise.
OVERLAP = KERNEL - 1  # Pixels that a tile shares with the next.
_SIDE = TILE + OVERLAP
PIXELS = _SIDE**2
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What transforms tiles, kernels and the gradients of outputs, in 1-D.

  B^T, G and A in the notation of the article, of one row for each point.
  """
  images = np.zeros((_SIDE, _SIDE))
  kernels = np.zeros((_SIDE, KERNEL))
  outputs = np.zeros((_SIDE, TILE))
  for i, point in enumerate(_POINTS):
    others = _POINTS[:i] + _POINTS[i + 1 :]
    images[i, :-1] = np.poly(others)[::-1]
    kernels[i] = point ** np.arange(KERNEL) / np.prod(point - np.array(others))
    outputs[i] = point ** np.arange(TILE)
  images[-1] = np.poly(_POINTS)[::-1]
  kernels[-1, -1] = outputs[-1, -1] = 1.0  # At infinity.
  return images, kernels, outputs


_IMAGES, _KERNELS, _OUTPUTS = _matrices()
_KERNELS_2D = np.kron(_KERNELS, _KERNELS)


def transform_kernel(kernel: jax.Array) -> jax.Array:
  """float[3, 3, C, F] -> float[36, C, F]."""
  matrix = jnp.asarray(_KERNELS_2D, kernel.dtype)
  flat = kernel.reshape(KERNEL**2, -1)
  return (matrix @ flat).reshape(PIXELS, *kernel.shape[2:])


def convolve(x: jax.Array, transformed: jax.Array) -> jax.Array:
  """A convolution with a kernel that `transform_kernel` has transformed.

  float[B, 4 h + 2, 4 w + 2, C] and float[36, C, F] -> float[B, 4 h, 4 w, F].
  """
  batch, rows, columns, _ = x.shape
  size = rows // TILE, columns // TILE
  y = _transform(_IMAGES, x) @ transformed
  y = y.reshape(_SIDE, _SIDE, batch, *size, -1)
  # The new axes are where the pixels of whole images have them.
  y = _combine(_OUTPUTS.T, [y[:, j] for j in range(_SIDE)], 4)
  y = jax.lax.optimization_barrier(y)
  y = _combine(_OUTPUTS.T, list(y), 2)  # [B, h, 4, w, 4, F]
  return y.reshape(batch, size[0] * TILE, size[1] * TILE, -1)


def products(x: jax.Array, grad: jax.Array) -> jax.Array:
  """What `kernel_gradient` takes; of a batch it is the sum over the images.

  Of x and the gradients of its outputs, float[B, 4 h + 2, 4 w + 2, C] and
  float[B, 4 h, 4 w, F] -> float[36, C, F].
  """
  # To write the tiles transposed instead would save JAX 0.12 up to a third of
  # the time, but take JAX 0.10 many times as long.
  tiles = jax.lax.optimization_barrier(_transform(_IMAGES, x))
  return jnp.einsum('ptc,ptf->pcf', tiles, _transform(_OUTPUTS, grad))


def kernel_gradient(total: jax.Array) -> jax.Array:
  """Of all `products` their sum, float[36, C, F] -> float[3, 3, C, F]."""
  matrix = jnp.asarray(_KERNELS_2D.T, total.dtype)
  flat = matrix @ total.reshape(PIXELS, -1)
  return flat.reshape(KERNEL, KERNEL, *total.shape[1:])


def _transform(matrix: np.ndarray, x: jax.Array) -> jax.Array:
  """All tiles, as wide as the matrix, in 2-D: float[36, T, C]."""
  width = matrix.shape[1]
  x = _combine(matrix, _tiles(x, width, 1), 0)
  # XLA would merge both into one loop, and repeat the first for each use.
  x = jax.lax.optimization_barrier(x)
  x = _combine(matrix, _tiles(x, width, 3), 1)
  return x.reshape(PIXELS, -1, x.shape[-1])


def _tiles(x: jax.Array, width: int, axis: int) -> list[jax.Array]:
  """The first pixels of all tiles, the second ones, and so on."""
  last = x.shape[axis] - width  # Where the last tile begins.
  return [
    jax.lax.slice_in_dim(x, i, i + last + 1, TILE, axis) for i in range(width)
  ]


def _combine(
  matrix: np.ndarray, parts: Sequence[jax.Array], axis: int
) -> jax.Array:
  """Sums of the parts, weighted by each row of the matrix, on a new axis.

  As one loop over all of them. Written out row by row it is a loop for each,
  and those read the parts again and again.
  """
  shape = [1] * (parts[0].ndim + 1)
  shape[axis] = len(matrix)
  total: jax.Array | float = 0.0
  for weights, part in zip(matrix.T, parts, strict=True):
    weights = jnp.asarray(weights.reshape(shape), part.dtype)
    total += weights * jnp.expand_dims(part, axis)
  return jnp.asarray(total)
