"""Models against the numbers of the released networks, and their contract."""

import functools
import json
import pathlib

import fixtures_rule
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest

from undistillable import interop, models
from undistillable.models import __main__ as sizes

# Parametrisation happens before fixtures exist, so the folder is looked up
# here; without it there are no cases, and pytest says that it skipped them.
FIXTURES = sorted(
  (pathlib.Path(__file__).parents[2] / 'shared' / 'fixtures').glob(
    '*_[0-9]*_[0-9]*.json'
  )
)


def _count(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem, scope='module')
def case(request):
  """A fixture, the model it is of, and the variables its rule gives."""
  fixture = json.loads(request.param.read_text())
  network = fixture['network']
  state_dict = fixtures_rule.state_dict(fixture['names'], fixture['shapes'])
  variables = interop.from_torch(network, state_dict)
  model = models.get_model(network, fixture['num_classes'])
  images = fixtures_rule.images(4, fixture['image_size'])
  return fixture, model, variables, images


def _assert_logits(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, atol=1e-4 * scale, rtol=0)


def test_parity_of_evaluation(case):
  fixture, model, variables, images = case
  assert _count(variables['params']) == fixture['num_parameters']
  logits = jax.jit(model.apply)(variables, images)
  assert logits.dtype == jnp.float32
  _assert_logits(logits, fixture['eval_logits'])


def _round_otherwise(tree, rng):
  """`tree`, about a third of it moved to the float32 next to it."""

  def move(x):
    moved = x * (1 + 2.0**-24 * rng.uniform(-1, 1, x.shape))
    return moved.astype(np.float32)

  return jax.tree.map(lambda x: move(np.asarray(x, np.float64)), tree)


def _slow_to_compile(path):
  deep = path.stem.startswith(('resnext29', 'mobilenetv2', 'shufflenetv2'))
  return pytest.param(path, marks=pytest.mark.slow if deep else ())


# Without XLA's optimisations sums round more than users will see.
@pytest.mark.usefixtures('full_compilation')
@pytest.mark.parametrize(
  'case',
  [_slow_to_compile(path) for path in FIXTURES],
  indirect=True,
  ids=lambda path: path.stem,
  scope='module',
)
def test_parity_of_one_training_step(case):
  fixture, model, variables, images = case
  labels = jnp.arange(4) % fixture['num_classes']

  @jax.jit
  def step(params, rest):
    def loss_fn(params):
      logits, updates = model.apply(
        {'params': params, **rest}, images, train=True, mutable=['batch_stats']
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), (logits, updates)

    return jax.value_and_grad(loss_fn, has_aux=True)(params)

  def results(params):
    """(loss, logits, gradient norms, norms of the new statistics)."""
    (loss, (logits, updates)), grads = step(params, rest)
    # As a state dict, the gradients have the names that the fixture uses.
    tensors = interop.to_torch(fixture['network'], {'params': grads, **updates})
    norms = {name: np.linalg.norm(tensor) for name, tensor in tensors.items()}
    gradients = np.array([norms[name] for name in fixture['grad_norms']])
    return loss, logits, gradients, norms

  rest = {k: v for k, v in variables.items() if k != 'params'}
  loss, logits, gradients, norms = results(variables['params'])
  _assert_logits(logits, fixture['train_logits'])
  np.testing.assert_allclose(loss, fixture['train_loss'], rtol=1e-4)
  for name, norm in fixture['running_stat_norms_after_one_step'].items():
    np.testing.assert_allclose(norms[name], norm, rtol=1e-4, err_msg=name)
  expected = np.array(list(fixture['grad_norms'].values()))
  # A bias before BatchNorm has no gradient but rounding.
  atol = 1e-5 * expected.max()
  np.testing.assert_allclose(gradients, expected, rtol=1e-2, atol=atol)
  # Rounding moves units to the other side of their ReLU, and one of
  # mobilenetv2's last stage changes all norms before it. From that network's
  # norms in float64 these of PyTorch, in float32, differ by up to 2.5e-3 and
  # ours by 3.9e-3; other weights and images within 2**-24 of its own move them
  # by up to 7.0e-3 in float64 itself. Better sums would hardly help: over six
  # batches (geometric mean) ours differ by 2.9e-3, and with BatchNorm and the
  # convolutions in float64, only their results rounded, by 2.0e-3. So what is
  # asked for is a rounding of the weights that brings all norms within 1e-3: of
  # such draws 22 % do for mobilenetv2, 66 % for shufflenetv2 and 75 % for
  # resnext29; the other three need none. A gradient wrong by 0.3 % still fails.
  rng = np.random.default_rng(0)
  for _ in range(64):
    if np.allclose(gradients, expected, rtol=1e-3, atol=atol):
      return
    gradients = results(_round_otherwise(variables['params'], rng))[2]
  pytest.fail('no rounding of the weights brings all norms within 1e-3')


def test_every_parity_fixture_is_used():
  if FIXTURES:
    networks = {path.stem.split('_')[0] for path in FIXTURES}
    assert {'cnn', 'resnet18', 'resnetc20'} <= networks <= set(models.MODELS)


def _abstract(model, shape):
  """Shapes of the variables and outputs of `model`, without computing."""
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  init = functools.partial(model.init_with_output, mutable=True)
  logits, variables = jax.eval_shape(init, jax.random.key(0), images)
  (features,) = variables.pop('intermediates')['features']
  return variables, logits, features


@pytest.mark.parametrize('name', networks.NAMES)
def test_every_model_takes_small_gray_images(name):
  variables, logits, features = _abstract(
    models.get_model(name, 10), (3, 8, 8, 1)
  )
  assert set(variables) <= {'params', 'batch_stats'}
  assert logits.shape == (3, 10)
  assert logits.dtype == jnp.float32
  assert features.ndim == 2
  assert features.shape[0] == 3
  assert features.dtype == jnp.float32


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('airbench94', (2, 28, 28, 1)),
    ('cnn', (2, 28, 28, 1)),
    ('cnn', (2, 64, 64, 3)),
    ('densenet121', (2, 64, 64, 3)),
    ('mlp', (2, 28, 28, 1)),
    ('mobilenetv2', (2, 28, 28, 1)),
    ('resnet50', (2, 64, 64, 3)),
    ('resnetc20', (2, 28, 28, 1)),
    ('resnext29', (2, 64, 64, 3)),
    ('shufflenetv2', (2, 28, 28, 1)),
    ('shufflenetv2', (2, 64, 64, 3)),
  ],
)
def test_every_family_takes_images_of_other_sizes(name, shape):
  _, logits, _ = _abstract(models.get_model(name, 7), shape)
  assert logits.shape == (2, 7)


@pytest.mark.parametrize(
  ('name', 'num_parameters'),
  [  # Counted with PyTorch, for ten classes and 32x32x3 images; less, of
    # airbench, the whitening kernel and the scales, which are not trained.
    ('airbench93', 569_656 - 24 * 12 - 2 * (64 + 128 + 128)),
    ('airbench94', 1_972_792 - 24 * 12 - 2 * (64 + 256 + 256)),
    ('densenet121', 6_956_298),
    ('mlp', 1_841_162),
    ('resnet34', 21_282_122),
    ('resnet50', 23_520_842),
    ('resnetc32', 466_714),
  ],
)
def test_number_of_parameters_where_there_may_be_no_fixture(
  name, num_parameters
):
  variables, _, _ = _abstract(models.get_model(name, 10), (1, 32, 32, 3))
  assert _count(variables['params']) == num_parameters


def test_from_depth_44_on_resnetc_has_bottlenecks():
  _, _, features = _abstract(models.get_model('resnetc44', 10), (1, 8, 8, 3))
  assert features.shape == (1, 256)
  _, _, features = _abstract(models.get_model('resnetc32', 10), (1, 8, 8, 3))
  assert features.shape == (1, 64)


def test_unknown_model_is_named_with_the_known_ones():
  with pytest.raises(
    ValueError, match=r"unknown model 'resnet17'; known: airbench93"
  ):
    models.get_model('resnet17', 10)
  with pytest.raises(ValueError, match=r"did you mean 'mobilenetv2'\?"):
    models.get_model('mobilenet_v2', 10)


def test_registry_is_alphabetical():
  assert list(models.MODELS) == sorted(models.MODELS)


def test_one_class_is_refused():
  with pytest.raises(ValueError, match='num_classes must be at least 2; got 1'):
    models.get_model('cnn', 1)


@pytest.mark.parametrize('shape', [(1, 7, 8, 3), (8, 8, 3)])
def test_images_too_small_or_without_batch_are_refused(shape):
  with pytest.raises(ValueError, match='at least 8; got shape'):
    models.get_model('cnn', 10).init(jax.random.key(0), jnp.zeros(shape))


def test_impossible_depth_is_refused():
  model = models.get_model('resnetc20', 10, depth=21)
  with pytest.raises(ValueError, match='6n [+] 2'):
    model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_initialisers_are_those_of_the_released_networks():
  key, images = jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  model = models.get_model('cnn', 10)
  # One layer of the result alone: the others are then not compiled.
  torch_like = jax.jit(lambda key: model.init(key, images)['params']['conv2'])(
    key
  )
  bound = 1 / np.sqrt(9 * 32)  # 1 / sqrt(fan_in)
  for leaf, count in (('kernel', 9 * 32 * 64), ('bias', 64)):
    values = np.asarray(torch_like[leaf]).ravel()
    assert values.size == count
    assert 0.9 * bound < np.abs(values).max() <= bound
    # Uniform: the standard deviation is bound / sqrt(3).
    np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.2)
  model = models.get_model('resnetc8', 10)
  he_like = jax.jit(
    lambda key: model.init(key, images)['params']['layer2.0.conv1']
  )(key)
  kernel = np.asarray(he_like['kernel'])  # 16 to 32
  np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 32)), rtol=0.05)
  assert np.abs(kernel).max() > 2.5 * kernel.std()  # Normal, not truncated.


def test_resnext_initialises_as_released():
  model = models.get_model('resnext29', 10)

  @jax.jit  # Which leaves out the other 34 million.
  def init(key):
    params = model.init(key, jnp.zeros((1, 8, 8, 3)))['params']
    grouped = params['stage_1.stage_1_bottleneck_0.conv_conv']['kernel']
    return grouped, params['classifier']

  grouped, classifier = init(jax.random.key(0))
  np.testing.assert_allclose(grouped.std(), np.sqrt(2 / (9 * 512)), rtol=0.02)
  np.testing.assert_array_equal(classifier['bias'], 0)
  np.testing.assert_allclose(
    classifier['kernel'].std(), np.sqrt(2 / 1024), rtol=0.05
  )


@pytest.mark.parametrize('name', ['cnn8', 'mlp', 'resnetc8'])
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(name):
  images = fixtures_rule.images(4, 8)
  exact = models.get_model(name, 10)
  model = models.get_model(name, 10, dtype=jnp.bfloat16)
  variables = jax.jit(model.init)(jax.random.key(0), images)

  def train(variables):
    return model.apply(variables, images, train=True, mutable=['batch_stats'])

  logits, updates = jax.jit(train)(variables)
  for array in jax.tree.leaves((logits, updates, variables)):
    assert array.dtype == jnp.float32
  # And yet the computation is rounded to 8 bits.
  rough = jax.jit(model.apply)(variables, images)
  close = jax.jit(exact.apply)(variables, images)
  assert 0 < np.abs(rough - close).max() < 0.05 * (1 + np.abs(close).max())


def test_mlp_ends_in_a_relu_as_released():
  images = fixtures_rule.images(4, 8)
  model = models.get_model('mlp', 10)
  logits, _ = jax.jit(model.init_with_output)(jax.random.key(0), images)
  assert logits.min() == 0
  assert logits.max() > 0


def test_evaluation_neither_sows_nor_updates():
  images = fixtures_rule.images(2, 8)
  model = models.get_model('resnetc8', 10)
  variables = jax.jit(model.init)(jax.random.key(0), images)
  assert set(variables) == {'params', 'batch_stats'}
  apply = jax.jit(functools.partial(model.apply, mutable=['batch_stats']))
  logits, updates = apply(variables, images)
  assert logits.shape == (2, 10)
  jax.tree.map(
    np.testing.assert_array_equal,
    updates['batch_stats'],
    variables['batch_stats'],
  )


def test_the_size_of_a_network_counts_its_layers():
  hidden = 512
  assert sizes.size('mlp', 7, image_size=4) == sizes.Size(
    parameters=48 * hidden + hidden + hidden**2 + hidden + 7 * hidden + 7,
    multiply_adds=48 * hidden + hidden**2 + 7 * hidden,
    outputs=2 * hidden + 7,
    depthwise_outputs=0,
  )
  # The pixels of a side and the channels of MobileNetV2's 17 filters.
  sides_channels = [(34, 32), (17, 96), (17, 144), (9, 144), *[(9, 192)] * 2]
  sides_channels += [(5, 192), *[(5, 384)] * 4, *[(5, 576)] * 3]
  sides_channels += [*[(5, 960)] * 3]
  assert sizes.size('mobilenetv2', 10, 32).depthwise_outputs == sum(
    side**2 * channels for side, channels in sides_channels
  )
  # In groups, but of more than one channel.
  assert sizes.size('resnext29').depthwise_outputs == 0
