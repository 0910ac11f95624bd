"""Convolution, lowered to what the backend runs well.

XLA leaves much of a CPU's speed unused in the gradients of convolutions, and in
grouped and depthwise ones as a whole, so there they are written in terms of
what it does run well. The two ways agree to rounding, gradients included; the
one for CPUs knows reverse-mode differentiation only (`jax.grad`, not
`jax.jvp`), and so, since JAX differentiates what it compiles for every
platform, does `conv` itself.

All convolutions that end up in a CPU's program have the one order of
dimensions that XLA runs fast inside loops, too: for any other it has, there, a
slow loop of its own.

Times below are those of 128 images on two cores with JAX 0.12.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
from jax import export

from undistillable import cpu
from undistillable.models import winograd

# Bytes of the images, or of their gradients, that are read at a time for the
# gradient of a kernel: a core's cache holds both.
_CHUNK_BYTES = 2**19
_WINOGRAD_BYTES = 5 * 2**20  # Of transformed images, at a time.
# Products that a transformed value must save; those of the outputs are
# transformed once more than those of a kernel's gradient.
_WINOGRAD_SAVING = 50 if cpu.HAS_FAST_LOOPS else 300
_WINOGRAD_SAVING_OF_GRADIENT = 30
# Whose products are summed before they are written: images or bands of one.
_DEPTHWISE_PARTS = 4
_FEW_WEIGHTS = 4  # Of a channel.

_BranchFn = Callable[[jax.Array, jax.Array], jax.Array]
_Tree = TypeVar('_Tree')  # Of arrays.
# Rows of zeros before and after, and columns; less than 0 to cut off.
_Edges = tuple[tuple[int, int], tuple[int, int]]


def conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int = 1,
  padding: int = 0,
  groups: int = 1,
) -> jax.Array:
  """A 2-D convolution (cross-correlation) with zero padding, in `groups`.

  Args:
    x: float[B, H, W, C].
    kernel: float[k, l, C / groups, F].
    strides: pixels a step, the same in both directions.
    padding: pixels of zeros on each of the four sides.
    groups: the channels of x and the features are cut into as many parts;
      each part of the features sees its own part of the channels only.

  Returns:
    float[B, H', W', F] with H' = (H + 2 padding - k) // strides + 1.

  Raises:
    ValueError: x and kernel have not the same type.

  Example:
    >>> y = conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4)), groups=4)
    >>> y.shape
    (1, 6, 6, 4)
  """

  if x.dtype != kernel.dtype:
    raise ValueError(f'x is {x.dtype} and the kernel {kernel.dtype}')
  direct, on_cpu = _branches(strides, padding, groups, cpu.has_onednn())
  # Decided when it is compiled, for the platform that it is compiled for.
  return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=direct)


@functools.lru_cache(maxsize=256)
def _branches(
  strides: int, padding: int, groups: int, onednn: bool
) -> tuple[_BranchFn, _BranchFn]:
  """XLA's own convolution, and what a CPU does instead.

  The same functions for equal arguments, which JAX then traces once.
  """

  def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(x, kernel, _all(padding), strides, groups=groups)

  def on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = lowered(x, kernel)
    # In lower precision XLA of JAX 0.12 makes one library call of two
    # convolutions and the mean that follows, and that answers NaN.
    return y if y.dtype == jnp.float32 else jax.lax.optimization_barrier(y)

  def lowered(x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows, columns = (n + 2 * padding for n in x.shape[1:3])
    if x.shape[0] == 0 or rows < kernel.shape[0] or columns < kernel.shape[1]:
      return direct(x, kernel)  # There is nothing to compute.
    if groups == x.shape[-1] == kernel.shape[-1] > 1:
      depthwise = _depthwise if onednn else _depthwise_in_shifts
      return depthwise(x, kernel, strides, padding)
    if groups > 1:
      return _grouped_on_cpu(x, kernel, strides, padding, groups)
    return _dense_on_cpu(x, kernel, strides, padding)

  return direct, on_cpu


def _convolve(
  x: jax.Array,
  kernel: jax.Array,
  edges: _Edges,
  strides: int = 1,
  dilation: int = 1,
  groups: int = 1,
) -> jax.Array:
  """XLA's own convolution, padded; the kernel dilated by `dilation`."""
  if min(map(min, edges)) < 0:
    # Eigen's, with JAX before 0.11, reads other memory where it shall cut off.
    # Behind a barrier, or XLA may make one operation of both again.
    x, edges = jax.lax.optimization_barrier(_pad(x, edges)), _all(0)
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(strides, strides),
    padding=edges,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _dense_on_cpu(
  x: jax.Array, kernel: jax.Array, strides: int, padding: int
) -> jax.Array:
  """Matrix products where the kernel is one pixel, and `_dense` elsewhere."""
  if kernel.shape[:2] != (1, 1) or padding:
    return _dense(x, kernel, strides, padding)
  return _pointwise(x[:, ::strides, ::strides], kernel[0, 0])


@jax.custom_vjp
def _pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """float[B, H, W, C] @ float[C, F]."""
  return x @ kernel


def _pointwise_forward(
  x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _pointwise(x, kernel), (x, kernel)


def _pointwise_backward(
  saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Of both factors XLA transposes the first, which here is the thinner one.

  Left to itself it computes one of them anew, transposed, for the kernel's
  gradient alone, which takes a quarter of a step of MobileNetV2.
  """
  x, kernel = saved
  x, grad = jax.lax.optimization_barrier((x, grad))
  pixels = (0, 1, 2)
  if x.shape[-1] <= grad.shape[-1]:
    of_kernel = jnp.tensordot(x, grad, (pixels, pixels))
  else:
    transposed = jnp.tensordot(grad, x, (pixels, pixels))
    # Or XLA would exchange both again.
    of_kernel = jax.lax.optimization_barrier(transposed).T
  return grad @ kernel.T, of_kernel


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _grouped_on_cpu(
  x: jax.Array, kernel: jax.Array, strides: int, padding: int, groups: int
) -> jax.Array:
  """One ordinary convolution for each group.

  Batched matrix products of shifted images were 1.3 to 3 times slower.
  """
  parts, kernels = (jnp.split(a, groups, axis=-1) for a in (x, kernel))
  pairs = zip(parts, kernels, strict=True)
  found = [_dense_on_cpu(*pair, strides, padding) for pair in pairs]
  return jnp.concatenate(found, axis=-1)


def _convolve_fast(
  x: jax.Array, kernel: jax.Array, edges: _Edges, strides: int = 1
) -> jax.Array:
  """XLA's convolution, or Winograd's where that is faster.

  256 channels of 8x8 pixels take 12 ms, and 26 ms in XLA's own.
  """
  height, width = (
    n + sum(both) - winograd.OVERLAP
    for n, both in zip(x.shape[1:3], edges, strict=True)
  )
  size = height, width
  if not _suits_winograd(x.shape[0], size, kernel, strides, _WINOGRAD_SAVING):
    return _convolve(x, kernel, edges, strides)
  transformed = winograd.transform_kernel(kernel)

  def chunk_outputs(x: jax.Array) -> jax.Array:
    tiles = _to_tiles(x, edges, winograd.OVERLAP)
    return winograd.convolve(tiles, transformed)[:, :height, :width]

  chunk = _winograd_images(size, kernel)
  return _map_over_chunks(chunk_outputs, chunk, x)


def _suits_winograd(
  batch: int,
  size: tuple[int, ...],
  kernel: jax.Array,
  strides: int,
  least: float,
) -> bool:
  """Whether Winograd's convolution, with outputs of that size, is faster.

  It has fewer products, but reads and writes transformed tiles and kernels. In
  types of fewer bits they would have large errors.
  """
  if export.is_symbolic_dim(batch):  # Of which no chunks can be cut.
    return False
  side = winograd.KERNEL
  fits = (*kernel.shape[:2], strides) == (side, side, 1)
  if not fits or kernel.dtype != jnp.float32:
    return False
  channels, features = kernel.shape[2:]
  tiles = batch * _tiles(size)
  products = channels * features * winograd.PIXELS * tiles
  saved = channels * features * side**2 * batch * math.prod(size) - products
  values = tiles * (channels + features) + channels * features
  return saved >= least * winograd.PIXELS * values


def _winograd_images(size: tuple[int, ...], kernel: jax.Array) -> int:
  """How many to transform at a time: a cache holds them, and as many outputs.

  But no fewer tiles than channels, or it is the kernel that takes the time.
  """
  tiles, channels = _tiles(size), max(kernel.shape[2:])
  one = winograd.PIXELS * tiles * channels * kernel.dtype.itemsize
  return max(1, _WINOGRAD_BYTES // one, -(-channels // tiles))


def _tiles(size: tuple[int, ...]) -> int:
  """Of outputs of that size."""
  return math.prod(-(-n // winograd.TILE) for n in size)


def _to_tiles(x: jax.Array, edges: _Edges, overlap: int) -> jax.Array:
  """Pads images, and then further, to whole tiles that overlap so much."""
  rows, columns = (
    (before, after + (overlap - n - before - after) % winograd.TILE)
    for n, (before, after) in zip(x.shape[1:3], edges, strict=True)
  )
  return _pad(x, (rows, columns))


def _dense_kernel_gradient(
  x: jax.Array, grad: jax.Array, kernel: jax.Array, strides: int, padding: int
) -> jax.Array:
  """The images correlated with the gradients of their outputs, in chunks.

  As a convolution in which channels are images and images are channels. 64
  channels of 32x32 pixels take 41 ms, and 107 ms in XLA's own single piece.
  """
  size = grad.shape[1:3]
  if _suits_winograd(
    len(x), size, kernel, strides, _WINOGRAD_SAVING_OF_GRADIENT
  ):
    return _winograd_kernel_gradient(x, grad, kernel, padding)
  rows, columns = (
    (padding, (n_out - 1) * strides + k - n_in - padding)
    for n_out, k, n_in in zip(size, kernel.shape[:2], x.shape[1:3], strict=True)
  )

  def chunk_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
    x, grad = x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3)
    found = _convolve(x, grad, (rows, columns), dilation=strides)
    return found.transpose(1, 2, 0, 3).astype(_wide(x.dtype))

  largest = max(x[0].size, grad[0].size) * x.dtype.itemsize
  chunk = max(1, round(_CHUNK_BYTES / largest))
  total = _sum_over_chunks(chunk_gradient, chunk, x, grad)
  return total.astype(kernel.dtype)


def _winograd_kernel_gradient(
  x: jax.Array, grad: jax.Array, kernel: jax.Array, padding: int
) -> jax.Array:
  """The products of tiles, summed over chunks of images.

  256 channels of 8x8 pixels take 14 ms, and 38 ms as a convolution.
  """

  def chunk_products(x: jax.Array, grad: jax.Array) -> jax.Array:
    tiles = _to_tiles(x, _all(padding), winograd.OVERLAP)
    return winograd.products(tiles, _to_tiles(grad, _all(0), 0))

  chunk = _winograd_images(grad.shape[1:3], kernel)
  total = _sum_over_chunks(chunk_products, chunk, x, grad)
  return winograd.kernel_gradient(total)


def _convolve_depthwise(
  x: jax.Array, kernel: jax.Array, edges: _Edges, strides: int = 1
) -> jax.Array:
  """A depthwise convolution by oneDNN; of few weights, by XLA.

  It makes one loop of them and what follows, as of the phases of a gradient.
  """
  if math.prod(kernel.shape[:2]) <= _FEW_WEIGHTS:
    return _sum_of_shifts(x, kernel, edges, strides)
  return _convolve(x, kernel, edges, strides, groups=x.shape[-1])


def _sum_of_shifts(
  x: jax.Array, kernel: jax.Array, edges: _Edges, strides: int = 1
) -> jax.Array:
  """A depthwise convolution: shifted images, each times its channel's weight.

  One loop over the output. With JAX 0.10 and its own gradient it took 3.9 ms
  where XLA's convolution took 55, for 32 images of 9x9x192.
  """
  # As XLA does within a convolution, sum bfloat16 products in float32.
  padded = _pad(x, edges).astype(_wide(x.dtype))
  shifts = _shifts(padded, kernel.shape[:2], strides)
  weights = kernel.reshape(-1, kernel.shape[-1])
  total = sum(
    shifted * weight.reshape(1, 1, 1, -1)
    for shifted, weight in zip(shifts, weights, strict=True)
  )
  return jnp.asarray(total, x.dtype)


def _depthwise_kernel_gradient(
  x: jax.Array, grad: jax.Array, kernel: jax.Array, strides: int, padding: int
) -> jax.Array:
  """Of each shift its products with the gradient, summed over parts first.

  144 channels of 17x17 pixels take 6 ms; differentiated by JAX, the products
  are written to memory and summed from there in 49 ms. Parts are bands of one
  image, which a cache holds, or images where its height has no such bands.
  """
  bands = math.gcd(grad.shape[1], _DEPTHWISE_PARTS) if cpu.HAS_FAST_LOOPS else 1

  def parts(a: jax.Array) -> jax.Array:
    return a.reshape(-1, a.shape[1] // bands, *a.shape[2:])

  def chunk_products(x: jax.Array, grad: jax.Array) -> tuple[jax.Array, ...]:
    wide = _wide(x.dtype)
    padded, grad = _pad(x, _all(padding)).astype(wide), parts(grad.astype(wide))
    shifts = map(parts, _shifts(padded, kernel.shape[:2], strides))
    # Written out, so that XLA makes one loop of it.
    return tuple(
      functools.reduce(
        jnp.add, (shifted[i] * grad[i] for i in range(len(grad)))
      )
      for shifted in shifts
    )

  images = _DEPTHWISE_PARTS // bands
  products = _sum_over_chunks(chunk_products, images, x, grad)
  total = jnp.stack([product.sum((0, 1)) for product in products])
  return total.reshape(kernel.shape).astype(kernel.dtype)


def _image_gradient(
  convolve: Callable[..., jax.Array],
  grad: jax.Array,
  kernel: jax.Array,
  strides: int,
  padding: int,
  size: tuple[int, ...],
) -> jax.Array:
  """The gradient of a convolution in images of that size, from its outputs'.

  Pixel h of an image meets weight i of the kernel in the output's pixel
  (h + padding - i) / strides, where that is a whole number. So the pixels with
  the same rest of h / strides meet the same weights: each such phase is an
  ordinary convolution of the outputs' gradients with every `strides`-th
  weight, mirrored, and the phases are interleaved. The kernel is one that
  `convolve` takes for the outputs' features in and the images' channels out.
  """
  whole = [-(-n // strides) for n in size]  # Pixels of a phase.

  def first_weight_and_padding(
    axis: int, phase: int
  ) -> tuple[int, tuple[int, int]]:
    """Of a phase: the first weight that it meets, and what pads `grad`."""
    first = (phase + padding) % strides
    met = range(first, kernel.shape[axis], strides)
    # The outputs that a phase's first pixel finds through its outer weights.
    low, high = ((phase + padding - i) // strides for i in (met[-1], first))
    return first, (-low, whole[axis] + high - grad.shape[1 + axis])

  def one_phase(row: int, column: int) -> jax.Array:
    first_row, rows = first_weight_and_padding(0, row)
    first_column, columns = first_weight_and_padding(1, column)
    weights = kernel[first_row::strides, first_column::strides]
    # Or XLA would have the convolution mirror them, which oneDNN cannot.
    mirrored = jax.lax.optimization_barrier(weights[::-1, ::-1])
    return convolve(grad, mirrored, (rows, columns))

  if strides > min(kernel.shape[:2]):  # Some pixels meet no weight at all.
    wider = [(0, max(0, strides - k)) for k in kernel.shape[:2]]
    kernel = jnp.pad(kernel, (*wider, (0, 0), (0, 0)))
  found = [
    jnp.stack([one_phase(i, j) for j in range(strides)], 3)
    for i in range(strides)
  ]
  interleaved = jnp.stack(found, 2).reshape(
    len(grad), whole[0] * strides, whole[1] * strides, -1
  )
  return interleaved[:, : size[0], : size[1]]


def _with_gradients(
  convolve: Callable[..., jax.Array],
  kernel_gradient: Callable[..., jax.Array],
  transpose: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array, int, int], jax.Array]:
  """`(x, kernel, strides, padding) -> y`, differentiable.

  Of `(x, kernel, edges, strides = 1) -> y`; `(x, grad, kernel, strides,
  padding) -> gradient of the kernel`; and what swaps channels and features.
  """

  @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
  def conv(
    x: jax.Array, kernel: jax.Array, strides: int, padding: int
  ) -> jax.Array:
    return convolve(x, kernel, _all(padding), strides)

  def forward(
    x: jax.Array, kernel: jax.Array, strides: int, padding: int
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, strides, padding), (x, kernel)

  def backward(
    strides: int,
    padding: int,
    saved: tuple[jax.Array, jax.Array],
    grad: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # Both are read twice, and what leads to them would be computed for each: in
    # a ResNet the sums over all blocks above, 7 % of a step of ResNetC-20.
    x, grad = jax.lax.optimization_barrier((x, grad))
    mirrored, size = transpose(kernel), x.shape[1:3]
    return (
      _image_gradient(convolve, grad, mirrored, strides, padding, size),
      kernel_gradient(x, grad, kernel, strides, padding),
    )

  conv.defvjp(forward, backward)
  return conv


_dense = _with_gradients(
  _convolve_fast,
  _dense_kernel_gradient,
  lambda kernel: jnp.swapaxes(kernel, 2, 3),
)
_depthwise = _with_gradients(
  _convolve_depthwise, _depthwise_kernel_gradient, lambda kernel: kernel
)
_depthwise_in_shifts = _with_gradients(
  _sum_of_shifts, _depthwise_kernel_gradient, lambda kernel: kernel
)


def _map_over_chunks(
  function: Callable[[jax.Array], jax.Array], chunk: int, x: jax.Array
) -> jax.Array:
  """`function` of a batch, of which about `chunk` are read at a time."""
  whole, rest = _chunks(chunk, x)
  if len(whole[0]) == 1 and not len(rest[0]):
    return function(x)
  y = jax.lax.map(function, *whole)
  y = y.reshape(-1, *y.shape[2:])
  return jnp.concatenate([y, function(*rest)]) if len(rest[0]) else y


def _sum_over_chunks(
  function: Callable[[jax.Array, jax.Array], _Tree],
  chunk: int,
  x: jax.Array,
  grad: jax.Array,
) -> _Tree:
  """The sum of `function` over a batch, of which `chunk` are read at a time."""
  whole, rest = _chunks(chunk, x, grad)
  if len(whole[0]) == 1 and not len(rest[0]):
    return function(x, grad)

  def add(total: _Tree, pair: list[jax.Array]) -> tuple[_Tree, None]:
    return jax.tree.map(jnp.add, total, function(*pair)), None

  shapes = jax.eval_shape(function, *(a[0] for a in whole))
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, whole)
  return add(total, rest)[0] if len(rest[0]) else total


def _chunks(
  chunk: int, *batches: jax.Array
) -> tuple[list[jax.Array], list[jax.Array]]:
  """As many equal chunks as needed of at most that many, and what is left."""
  number = len(batches[0])
  count = -(-number // chunk)
  chunk = -(-number // count)
  end = number // chunk * chunk
  whole = [a[:end].reshape(-1, chunk, *a.shape[1:]) for a in batches]
  return whole, [a[end:] for a in batches]


def _shifts(
  padded: jax.Array, shape: tuple[int, ...], strides: int
) -> Iterator[jax.Array]:
  """What each weight of a kernel of that shape sees, weight by weight."""
  height, width = (
    (n - k) // strides * strides + 1
    for n, k in zip(padded.shape[1:3], shape, strict=True)
  )
  for i, j in np.ndindex(*shape):
    yield padded[:, i : i + height : strides, j : j + width : strides]


def _all(padding: int) -> _Edges:
  return (padding, padding), (padding, padding)


def _pad(x: jax.Array, edges: _Edges) -> jax.Array:
  """Zeros around images, or, where a padding is negative, less of them."""
  rows, columns = edges
  config = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
  return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _wide(dtype: jax.typing.DTypeLike) -> jnp.dtype:
  """In what sums of this type are added up: float32 at least."""
  return jnp.promote_types(dtype, jnp.float32)
