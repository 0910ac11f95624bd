"""Layers: PyTorch's arithmetic, on one device and on two, and on a CPU."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import optax
import pytest

from undistillable import cpu, defenses, models
from undistillable.models import convolution, layers, resnet


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _train(norm, x):
  variables = norm.init(jax.random.key(0), x)
  return norm.apply(variables, x, mutable=['batch_stats'])


def test_batch_norm_by_hand():
  x = np.float32([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]])
  y, updates = _train(layers.BatchNorm(train=True), x)
  y = np.asarray(y)
  # Means 3 and 20; biased variances 8/3 and 200; unbiased 4 and 300.
  np.testing.assert_allclose(
    y[:, 0], np.array([-2.0, 0.0, 2.0]) / np.sqrt(8 / 3 + 1e-5), rtol=1e-6
  )
  np.testing.assert_allclose(
    y[:, 1], np.array([-10.0, -10.0, 20.0]) / np.sqrt(200 + 1e-5), rtol=1e-6
  )
  stats = updates['batch_stats']
  np.testing.assert_allclose(stats['mean'], [0.3, 2.0], rtol=1e-6)
  np.testing.assert_allclose(stats['var'], [0.9 + 0.4, 0.9 + 30], rtol=1e-6)


def test_batch_norm_evaluates_with_the_running_statistics():
  norm = layers.BatchNorm(train=False)
  stats = {'mean': np.float32([1.0]), 'var': np.float32([4.0])}

  @jax.jit
  def evaluate(x):
    variables = norm.init(jax.random.key(0), x)
    return norm.apply({**variables, 'batch_stats': stats}, x)

  y = evaluate(np.float32([[3.0]]))
  np.testing.assert_allclose(y, [[1.0]], rtol=1e-5)


def test_batch_norm_without_a_scale_is_one_of_scale_1():
  x, momentum = 2 + 3 * _normal(16, 3), 0.4
  plain = layers.BatchNorm(train=True, momentum=momentum)
  bare = layers.BatchNorm(train=True, momentum=momentum, use_scale=False)
  variables = jax.eval_shape(bare.init, jax.random.key(0), x)
  assert set(variables['params']) == {'bias'}
  for given, expected in zip(_train(bare, x), _train(plain, x), strict=True):
    jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_dirac_copies_the_channels_and_fills_up_with_what_pytorch_has():
  x = _normal(2, 5, 5, 3)

  @jax.jit
  def found(key, x):
    many, few = (layers.dirac(key, (3, 3, 3, size)) for size in (8, 2))
    others = layers.torch_default(key, many.shape)
    more, fewer = (convolution.conv(x, k, padding=1) for k in (many, few))
    return many, others, more, fewer

  kernel, others, more, fewer = map(np.asarray, found(jax.random.key(0), x))
  np.testing.assert_array_equal(more[..., :3], x)
  np.testing.assert_array_equal(kernel[..., 3:], others[..., 3:])
  np.testing.assert_array_equal(fewer, x[..., :2])


def test_whitening_makes_patches_uncorrelated_with_variance_1():
  # Neighbours and channels are alike, as those of photos.
  x = np.cumsum(np.cumsum(_normal(50, 9, 9, 3), axis=1), axis=3)
  layer = layers.Whitening()

  @jax.jit
  def whiten(x):
    variables = layer.init(jax.random.key(0), x)
    return variables, layer.apply(variables, x)

  variables, y = whiten(x)
  assert set(variables['params']) == {'bias'}
  y = np.array(y)
  y -= np.asarray(variables['params']['bias'])
  assert y.shape == (50, 8, 8, 24)
  np.testing.assert_allclose(y[..., 12:], -y[..., :12], atol=1e-4)
  covariance = np.cov(y[..., :12].reshape(-1, 12).T)
  np.testing.assert_allclose(covariance, np.eye(12), atol=5e-3)


def test_a_whitening_kernel_learns_nothing():
  x = _normal(4, 8, 8, 3)
  model = models.get_model('airbench93', 10, widths=(4, 4, 4))
  method = defenses.none.make(model, optax.sgd(0.1))
  batch = {'image': x, 'label': np.arange(4)}
  start = jax.jit(method.init)(jax.random.key(0), batch, {})
  state, _ = jax.jit(method.step)(start, {}, batch, jax.random.key(1))
  before, after = start.batch_stats['whiten'], state.batch_stats['whiten']
  np.testing.assert_array_equal(before['kernel'], after['kernel'])
  biases = [np.asarray(x.params['whiten']['bias']) for x in (start, state)]
  assert (biases[0] != biases[1]).any()
  assert 'kernel' not in state.params['whiten']


def test_batch_norm_does_not_cancel_where_the_mean_is_large():
  x = 1e4 + _normal(64, 4, 4, 3)
  y, _ = _train(layers.BatchNorm(train=True), x)
  np.testing.assert_allclose(np.std(y, axis=(0, 1, 2)), 1, rtol=1e-3)


@pytest.mark.parametrize('order', [1, 2])
def test_batch_norm_is_differentiated_as_its_formula(order):
  x, weights = 2 + _normal(3, 2, 2, 4), _normal(3, 2, 2, 4, seed=1)
  norm = layers.BatchNorm(train=True)
  scale, bias = _normal(4, seed=2), _normal(4, seed=3)

  def ours(x, scale, bias):
    params = {'scale': scale, 'bias': bias}
    stats = {'mean': jnp.zeros(4), 'var': jnp.ones(4)}
    variables = {'params': params, 'batch_stats': stats}
    return norm.apply(variables, x, mutable=['batch_stats'])[0]

  def formula(x, scale, bias):
    mean = x.mean((0, 1, 2), keepdims=True)
    var = jnp.square(x - mean).mean((0, 1, 2), keepdims=True)
    normal = (x - mean) / jnp.sqrt(var + 1e-5)
    row = (1, 1, 1, -1)
    return normal * scale.reshape(row) + bias.reshape(row)

  def gradients(fn):
    def loss(*args):
      return jnp.sum(jnp.sin(fn(*args)) * weights)

    def squared(*args):
      grads = jax.grad(loss, (0, 1, 2))(*args)
      return sum(jnp.square(grad).sum() for grad in grads)

    return jax.jit(jax.grad((loss, squared)[order - 1], (0, 1, 2)))

  for actual, expected in zip(
    gradients(ours)(x, scale, bias),
    gradients(formula)(x, scale, bias),
    strict=True,
  ):
    scale_of = np.abs(expected).max()
    np.testing.assert_allclose(
      actual, expected, rtol=1e-4, atol=1e-5 * scale_of
    )


def test_batch_norm_of_one_value_is_refused_with_a_reason():
  norm = layers.BatchNorm(train=True, name='bn1')
  x = np.ones((1, 1, 1, 2), np.float32)
  # To look at shapes is fine.
  variables = jax.jit(norm.init)(jax.random.key(0), x)
  with pytest.raises(ValueError, match='more than one value per channel'):
    norm.apply(variables, x, mutable=['batch_stats'])


def test_batch_norm_without_mutable_statistics_teaches():
  norm = layers.BatchNorm(train=True)
  x = np.ones((2, 2), np.float32)
  variables = jax.jit(norm.init)(jax.random.key(0), x)
  with pytest.raises(ValueError, match=r"mutable=\['batch_stats'\]"):
    jax.eval_shape(norm.apply, variables, x)


def test_one_value_on_each_of_two_devices_is_a_batch_of_two():
  norm = layers.BatchNorm(train=True, axis_name='batch')

  def step(x):
    variables = norm.init(jax.random.key(0), x)
    return norm.apply(variables, x, mutable=['batch_stats'])

  x = np.float32([[[1.0]], [[5.0]]])
  y, updates = jax.pmap(step, axis_name='batch')(x)
  np.testing.assert_allclose(np.ravel(y), [-1, 1], rtol=1e-5)
  np.testing.assert_allclose(  # The unbiased variance is 8.
    updates['batch_stats']['var'], [[1.7], [1.7]], rtol=1e-6
  )


def _value_and_grads(fn, x, kernel, in_tiles=False):
  """fn's value, and the gradients of a weighted sum of it.

  In tiles, the program must do without a convolution of XLA's.
  """

  @jax.jit
  def both(x, kernel):
    y, vjp = jax.vjp(fn, x, kernel)
    return y, *vjp(jnp.asarray(_normal(*y.shape, seed=9)))

  lowered = both.lower(x, kernel)
  assert not (in_tiles and 'stablehlo.convolution' in lowered.as_text())
  return lowered.compile()(x, kernel)


def _xla_conv(x, kernel, strides, padding, groups):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (strides, strides),
    ((padding, padding), (padding, padding)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _check_equals_xla_s(x, kernel, strides, padding, groups, atol=1e-5):
  """Values and gradients, to rounding."""

  def ours(x, kernel):
    return convolution.conv(
      x, kernel, strides=strides, padding=padding, groups=groups
    )

  def xla(x, kernel):
    return _xla_conv(x, kernel, strides, padding, groups)

  for actual, expected in zip(
    _value_and_grads(ours, x, kernel),
    _value_and_grads(xla, x, kernel),
    strict=True,
  ):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=atol)


# (kernel, size of the images, strides, padding)
GEOMETRIES = [
  ((1, 1), (8, 8), 1, 0),
  ((1, 1), (7, 8), 1, 1),  # MobileNetV2's stem.
  ((1, 1), (8, 9), 2, 0),
  ((1, 1), (7, 8), 3, 1),  # Most pixels meet no weight.
  ((2, 3), (7, 10), 1, 0),
  ((2, 2), (9, 8), 3, 0),
  ((3, 3), (8, 8), 1, 1),
  ((3, 3), (7, 10), 1, 0),
  ((3, 3), (8, 8), 2, 1),
  ((3, 3), (9, 10), 2, 0),
  ((3, 3), (7, 11), 3, 1),
  ((3, 3), (8, 8), 1, 4),  # More padding than kernel.
  ((5, 5), (11, 8), 2, 2),
  ((4, 4), (9, 8), 3, 2),
]
# In whose gradients pixels are cut off: there Eigen, with JAX 0.7 to 0.10,
# reads other memory.
CUT = [((3, 3), (12, 10), 3, 1), ((4, 4), (16, 16), 4, 1)]


@pytest.mark.parametrize(
  ('channels', 'features', 'groups', 'onednn', 'geometry'),
  [
    *itertools.product([3], [8], [1], [False], CUT),
    *itertools.product([3], [5], [1], [False], GEOMETRIES),
    *itertools.product([7], [4], [1], [False], GEOMETRIES[::3]),
    *itertools.product([6], [6], [6], [False, True], GEOMETRIES),
    # Of several channels a group: one path, whatever their number.
    *itertools.product([6], [12], [6], [False], GEOMETRIES[1::4]),
    *itertools.product([8], [12], [2], [False], GEOMETRIES[::2]),
  ],
)
def test_convolution_equals_xla_s(
  channels, features, groups, onednn, geometry, monkeypatch
):
  # What is written for oneDNN has to be right without it, too.
  monkeypatch.setattr(cpu, 'has_onednn', lambda: onednn)
  shape, size, strides, padding = geometry
  # Chunks of two or three images, and one image or two that are left.
  monkeypatch.setattr(convolution, '_DEPTHWISE_PARTS', 2)
  # Either of bands, where it can be cut, or of images alone.
  monkeypatch.setattr(cpu, 'HAS_FAST_LOOPS', onednn)
  monkeypatch.setattr(convolution, '_CHUNK_BYTES', 10 * channels * size[0] ** 2)
  x = _normal(5, *size, channels)
  kernel = _normal(*shape, channels // groups, features, seed=1)

  _check_equals_xla_s(x, kernel, strides, padding, groups)


@pytest.mark.parametrize('seed', range(12))
def test_any_convolution_equals_xla_s(seed):
  rng = np.random.default_rng(seed)
  strides, padding = int(rng.integers(1, 5)), int(rng.integers(0, 5))
  groups = int(rng.choice([1, 1, 2, 6]))
  channels, features = groups * rng.integers(1, 9, size=2)
  shape = rng.integers(1, 6, size=2)
  # There is one pixel of outputs at least.
  size = np.maximum(1, shape - 2 * padding) + rng.integers(0, 12, size=2)
  x = _normal(rng.integers(1, 19), *size, channels)
  kernel = _normal(*shape, channels // groups, features, seed=1)

  _check_equals_xla_s(x, kernel, strides, padding, groups, atol=1e-4)


def test_a_kernel_of_numpy_has_gradients_outside_programs_too():
  x, kernel = _normal(2, 5, 5, 3), _normal(3, 3, 3, 4)

  def loss(x, kernel):
    return jnp.sin(convolution.conv(x, kernel, padding=1)).sum()

  found = jax.grad(loss, (0, 1))(x, kernel)
  compiled = jax.jit(jax.grad(loss, (0, 1)))(x, kernel)
  for actual, expected in zip(found, compiled, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
  jaxlib.version.__version_info__ < (0, 12),
  reason='jaxlib 0.10 computes some of it again',
)
@pytest.mark.parametrize(
  ('side', 'channels', 'features', 'groups'),
  [(1, 8, 32, 1), (1, 32, 8, 1), (3, 16, 16, 1), (3, 16, 16, 16)],
)
def test_gradients_of_a_convolution_compute_nothing_twice(
  side, channels, features, groups, full_compilation
):
  def loss(x, kernel):
    y = convolution.conv(x, kernel, padding=side // 2, groups=groups)
    return jnp.sin(y).sum()

  x, kernel = _normal(16, 8, 8, channels), _normal(side, side, 1, 1)
  kernel = jnp.tile(kernel, (1, 1, channels // groups, features))
  program = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile()
  # The gradient of the outputs, which both gradients read.
  assert program.as_text().count(' cosine(') == 1


# (kernel, size of the images, strides, padding)
WINOGRAD_GEOMETRIES = [
  ((3, 3), (8, 8), 1, 1),
  ((3, 3), (6, 10), 1, 0),  # Whole tiles.
  ((3, 3), (7, 9), 1, 1),
  ((3, 3), (9, 15), 1, 0),
  ((3, 3), (2, 3), 1, 1),  # Less than a tile.
  ((3, 3), (8, 7), 1, 3),
  ((5, 6), (12, 13), 2, 2),  # Of which a phase of the gradient is 3x3.
]


@pytest.mark.parametrize(
  ('shape', 'size', 'strides', 'padding'), WINOGRAD_GEOMETRIES
)
def test_convolution_in_tiles_equals_xla_s(
  shape, size, strides, padding, monkeypatch
):
  # However few channels, and in chunks of two images and one that is left.
  monkeypatch.setattr(convolution, '_suits_winograd', _can_be_in_tiles)
  monkeypatch.setattr(convolution, '_winograd_images', lambda *_: 2)
  x, kernel = _normal(5, *size, 7), _normal(*shape, 7, 9, seed=1)

  def ours(x, kernel):
    return convolution.conv(x, kernel, strides=strides, padding=padding)

  def xla(x, kernel):
    return _xla_conv(x, kernel, strides, padding, 1)

  for actual, expected in zip(
    _value_and_grads(ours, x, kernel, in_tiles=shape == (3, 3)),
    _value_and_grads(xla, x, kernel),
    strict=True,
  ):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * scale)


def _can_be_in_tiles(batch, size, kernel, strides, least):
  del batch, size, least
  return (*kernel.shape[:2], strides) == (3, 3, 1)


def _cpu_gradients(fn, x, kernel):
  """The program that finds them on a CPU, as text."""
  grads = jax.jit(jax.grad(lambda *args: fn(*args).sum(), (0, 1)))
  exported = jax.export.export(grads, platforms=['cpu'])(x, kernel)
  return exported.mlir_module()


@pytest.mark.parametrize(
  ('channels', 'size', 'batch', 'strides', 'dtype', 'in_tiles'),
  [
    (64, 8, 128, 1, jnp.float32, True),
    (64, 8, 128, 2, jnp.float32, False),
    (64, 8, 128, 1, jnp.bfloat16, False),
    (16, 8, 128, 1, jnp.float32, False),
    (64, 2, 128, 1, jnp.float32, False),  # Tiles would be empty mostly.
    (64, 8, 1, 1, jnp.float32, False),  # The kernel would take the time.
  ],
)
def test_only_convolutions_of_much_work_are_in_tiles(
  channels, size, batch, strides, dtype, in_tiles, monkeypatch
):
  monkeypatch.setattr(convolution, '_WINOGRAD_SAVING', 50)
  x = jax.ShapeDtypeStruct((batch, size, size, channels), dtype)
  kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), dtype)

  def fn(x, kernel):
    return convolution.conv(x, kernel, strides=strides, padding=1)

  text = _cpu_gradients(fn, x, kernel)
  assert ('stablehlo.convolution' not in text) == in_tiles
  for platform in ('cuda', 'tpu'):
    exported = jax.export.export(jax.jit(fn), platforms=[platform])(x, kernel)
    assert 'stablehlo.convolution' in exported.mlir_module()


@pytest.mark.parametrize(('channels', 'convolutions'), [(32, 1), (64, 0)])
def test_the_gradient_of_a_kernel_is_in_tiles_before_outputs_are(
  channels, convolutions, monkeypatch
):
  monkeypatch.setattr(convolution, '_WINOGRAD_SAVING', 50)
  x = jax.ShapeDtypeStruct((128, 8, 8, channels), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32)

  def fn(x, kernel):
    return convolution.conv(x, kernel, padding=1)

  text = _cpu_gradients(fn, x, kernel)
  assert text.count('stablehlo.convolution') == convolutions


def test_many_channels_are_convolved_in_tiles_to_rounding(monkeypatch):
  monkeypatch.setattr(convolution, '_WINOGRAD_SAVING', 50)
  x, kernel = _normal(64, 8, 7, 96), _normal(3, 3, 96, 128, seed=1)
  x = np.maximum(x, 0)

  def ours(x, kernel):
    return convolution.conv(x, kernel, padding=1)

  def xla(x, kernel):
    return _xla_conv(x, kernel, 1, 1, 1)

  for actual, expected in zip(
    _value_and_grads(ours, x, kernel, in_tiles=True),
    _value_and_grads(xla, x, kernel),
    strict=True,
  ):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6 * scale)


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('shape', [(0, 6, 6, 4), (2, 2, 6, 4)])
def test_where_there_are_no_outputs_gradients_are_zero(shape, groups):
  x = np.ones(shape, np.float32)
  kernel = np.ones((3, 3, 4 // groups, 4), np.float32)

  def loss(x, kernel):
    return convolution.conv(x, kernel, groups=groups).sum()

  grads = jax.jit(jax.grad(loss, (0, 1)))(x, kernel)
  for grad, of in zip(grads, (x, kernel), strict=True):
    np.testing.assert_array_equal(grad, np.zeros(of.shape))


def test_networks_in_bfloat16_answer_as_those_in_float32():
  """Two convolutions and a mean in one program: JAX 0.12 made NaN of that."""
  x = _normal(4, 16, 16, 3)
  answers = []
  for dtype in (jnp.float32, jnp.bfloat16):
    model = resnet.ResNet(10, stage_sizes=(2,), dtype=dtype)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    answers.append(np.asarray(jax.jit(model.apply)(variables, x)))
  scale = np.abs(answers[0]).max()
  np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=0.02 * scale)


def test_convolution_of_two_types_is_refused():
  with pytest.raises(ValueError, match='x is bfloat16 and the kernel float32'):
    convolution.conv(
      np.ones((1, 8, 8, 2), jnp.bfloat16), np.ones((3, 3, 2, 2), np.float32)
    )


@pytest.mark.parametrize('groups', [1, 3])
def test_gradients_of_convolutions_work_in_loops_and_over_batches(groups):
  x, kernel = _normal(4, 5, 6, 6, 3), _normal(3, 3, 3 // groups, 3, seed=1)

  def loss(conv, x, kernel):
    return jnp.square(conv(x, kernel)).sum()

  def ours(x, kernel):
    return convolution.conv(x, kernel, padding=1, groups=groups)

  def xla(x, kernel):
    return _xla_conv(x, kernel, 1, 1, groups)

  def looped(conv, x, kernel):
    def body(total, one):
      return total + jax.grad(loss, 2)(conv, one, kernel), None

    return jax.lax.scan(body, jnp.zeros_like(kernel), x)[0]

  def penalty(conv, x, kernel):  # A gradient of a gradient.
    return jnp.square(jax.grad(loss, 1)(conv, x, kernel)).sum()

  @functools.partial(jax.jit, static_argnums=0)
  def gradients(conv, x, kernel):
    return (
      looped(conv, x, kernel),
      jax.vmap(lambda one: jax.grad(loss, 2)(conv, one, kernel))(x),
      jax.grad(penalty, 2)(conv, x[0], kernel),
    )

  for actual, expected in zip(
    gradients(ours, x, kernel), gradients(xla, x, kernel), strict=True
  ):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize(
  ('groups', 'onednn'), [(2, False), (2, True), (4, False)]
)
def test_a_cpu_is_spared_the_grouped_convolution_and_others_are_not(
  groups, onednn, monkeypatch
):
  monkeypatch.setattr(cpu, 'has_onednn', lambda: onednn)

  def fn(x, kernel):
    return convolution.conv(x, kernel, padding=1, groups=groups)

  args = (
    jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32),
    jax.ShapeDtypeStruct((3, 3, 4 // groups, 4), jnp.float32),
  )
  grouped = f'feature_group_count = {groups}'
  for platform in ('cpu', 'cuda', 'tpu'):
    exported = jax.export.export(jax.jit(fn), platforms=[platform])(*args)
    assert (grouped in exported.mlir_module()) == (platform != 'cpu')


def test_an_exported_convolution_takes_any_number_of_images(monkeypatch):
  # Any convolution that could be is in tiles, where the images are counted.
  monkeypatch.setattr(convolution, '_WINOGRAD_SAVING', -1e9)
  kinds = [
    (_normal(3, 3, 4, 5, seed=1), {'padding': 1}),
    (_normal(1, 1, 4, 2, seed=2), {'strides': 2}),
    (_normal(3, 3, 1, 4, seed=3), {'strides': 2, 'groups': 4}),
    (_normal(3, 3, 2, 4, seed=4), {'groups': 2}),
  ]

  @jax.jit
  def fn(x):
    return [convolution.conv(x, kernel, **given) for kernel, given in kinds]

  (batch,) = jax.export.symbolic_shape('batch')
  exported = jax.export.export(fn, platforms=['cpu', 'cuda', 'tpu'])(
    jax.ShapeDtypeStruct((batch, 9, 7, 4), jnp.float32)
  )
  x = _normal(3, 9, 7, 4)
  whole = [np.asarray(y) for y in fn(x)]
  for number in (1, 3):
    for actual, expected in zip(exported.call(x[:number]), whole, strict=True):
      np.testing.assert_allclose(actual, expected[:number], atol=1e-4)


def test_depthwise_bfloat16_is_summed_in_float32():
  x = np.full((1, 8, 8, 2), 1.0, jnp.bfloat16)
  kernel = np.full((3, 3, 1, 2), 2.0**-8, jnp.bfloat16)
  kernel[0, 0] = 1.0
  y = jax.jit(functools.partial(convolution.conv, groups=2))(x, kernel)
  assert y.dtype == jnp.bfloat16
  # In bfloat16 the sum would stay at 1: each further term is half a step.
  np.testing.assert_array_equal(np.asarray(y, np.float32), 1.03125)


@pytest.mark.parametrize('size', [(8, 8), (9, 7)])
def test_max_pool_and_its_gradient_equal_xla_s(size):
  # Few distinct values, so that there are many ties.
  x = np.round(_normal(2, *size, 3))
  weights = _normal(2, size[0] // 2, size[1] // 2, 3, seed=1)

  def reference(x):
    return nn.max_pool(x, (2, 2), (2, 2))

  @functools.partial(jax.jit, static_argnums=0)
  def both(pool, x):
    return jax.value_and_grad(lambda x: (pool(x) * weights).sum())(x)

  for actual, expected in zip(
    both(layers.max_pool, x), both(reference, x), strict=True
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_max_pool_passes_nan_on():
  x = np.zeros((1, 2, 2, 4), np.float32)
  x[0, [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 2, 3]] = np.nan
  assert np.isnan(jax.jit(layers.max_pool)(x)).all()


def test_flatten_has_pytorch_s_order():
  x = np.arange(24).reshape(1, 2, 3, 4)  # H=2, W=3, C=4
  (flat,) = np.asarray(layers.flatten(x))
  np.testing.assert_array_equal(flat[:6], [0, 4, 8, 12, 16, 20])
