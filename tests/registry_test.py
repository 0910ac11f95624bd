"""Every registered method, model and data set does what all of them must.

One step: finite; the loss falls on a fixed batch; two devices equal one; the
state comes back from a checkpoint. A new entry is tested without a new test,
but for its settings below.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from undistillable import (
  attacks,
  checkpoints,
  data,
  defenses,
  models,
  parallel,
)
from undistillable.data import batches

METHODS = {**defenses.DEFENSES, **attacks.ATTACKS}
INVERSION = {
  'num_images': 8,
  'low': (-2.0, -2.0, -2.0),
  'high': (2.0, 2.0, 2.0),
  'total_variation': 1e-3,
  'l2': 1e-3,
  'batch_norm': 1.0,
  'jitter': 0,  # Or one step's loss would be another's.
  'flip': False,
}
SETTINGS = {
  'adaptive_inversion': {**INVERSION, 'competition': 1.0},
  'dafl': {
    **attacks.dafl.PRESETS['digits'],
    'latent_dim': 10,
    'generator_width': 8,
    'generator_learning_rate': 1e-4,  # Or the images change too much.
  },
  'deep_inversion': INVERSION,
  'kd': {'temperature': 4.0, 'alpha': 0.9},
  'nasty': {'temperature': 4.0, 'omega': 0.01},
}
# The same code with fewer blocks, where a full one takes minutes to compile.
SHRUNK = {
  'densenet121': {'block_sizes': (1, 1, 1, 1)},
  'densenet161': {'block_sizes': (1, 1, 1, 1)},
  'densenet169': {'block_sizes': (1, 1, 1, 1)},
  'densenet201': {'block_sizes': (1, 1, 1, 1)},
  'resnet18': {'stage_sizes': (1, 1, 1, 1)},
  'resnet34': {'stage_sizes': (1, 1, 1, 1)},
  'resnet50': {'stage_sizes': (1, 1, 1, 1)},
  'resnetc110': {'depth': 8},
  'resnetc14': {'depth': 8},
  'resnetc20': {'depth': 8},
  'resnetc32': {'depth': 8},
  'resnetc56': {'depth': 8},
}
BATCH_SIZE = 8


@pytest.fixture(autouse=True, scope='module')
def _quick_compilation():
  """Compiling is most of this file's time; the steps are few and small."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.mark.parametrize('name', models.MODELS)
def test_model(name, tmp_path):
  model = models.get_model(name, 10, **SHRUNK.get(name, {}))
  _check(defenses.none.make(model, optax.sgd(0.01)), tmp_path)


@pytest.mark.parametrize('name', METHODS)
def test_method(name, tmp_path):
  model = models.get_model('cnn8', 10)
  parents = dict.fromkeys(METHODS[name].PARENTS, model)
  settings = SETTINGS.get(name, {})
  method = METHODS[name].make(model, optax.sgd(0.01), **parents, **settings)
  variables = model.init(jax.random.key(9), _batch()['image'], train=False)
  _check(method, tmp_path, dict.fromkeys(parents, variables))


@pytest.mark.parametrize('name', data.DATASETS)
def test_dataset(name, tmp_path, request):
  data_dir = _data_dir(name, tmp_path, request)
  loaded = data.load(name, data_dir=data_dir)
  model = models.get_model('cnn8', loaded.num_classes)
  method = defenses.none.make(model, optax.sgd(0.01))
  for split in (loaded.train, loaded.test):
    assert set(split['label']) == set(range(loaded.num_classes))
    prepare = batches.prepare_fn(loaded.mean, loaded.std)
    batch = prepare(split, np.arange(BATCH_SIZE), jax.random.key(0))
    state = method.init(jax.random.key(0), batch)
    _, metrics = method.step(state, {}, batch, jax.random.key(1))
    assert np.isfinite(metrics['loss'])


def _data_dir(name, tmp_path, request):
  """Where the real data are, prepared if need be."""
  if name == 'digits':
    return tmp_path
  shared = request.getfixturevalue('shared')
  if name == 'tiny_imagenet':
    archive = shared / 'data' / 'tiny-imagenet-200-subset.zip'
    data.prepare(name, data_dir=tmp_path, archive=archive, allow_partial=True)
    return tmp_path
  return shared / 'data' / 'tfds'


def _batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.normal(size=(BATCH_SIZE, 8, 8, 3)).astype(np.float32),
    'label': np.arange(BATCH_SIZE) % 10,
    'index': np.arange(BATCH_SIZE),
  }


def _check(method, tmp_path, frozen=None):
  """What every method must do, whatever its network."""
  frozen, batch, rng = frozen or {}, _batch(), jax.random.key(1)
  start = jax.jit(method.init)(jax.random.key(0), batch)
  one, metrics = jax.jit(method.step)(start, frozen, batch, rng)
  step = jax.pmap(
    functools.partial(method.step, axis_name=parallel.AXIS),
    axis_name=parallel.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
  )
  halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
  two, two_metrics = step(start, frozen, halves, rng)
  for key, value in metrics.items():
    np.testing.assert_allclose(value, two_metrics[key], rtol=1e-3)
  for kind, before in start.variables.items():
    _assert_same_update(before, one.variables[kind], two.variables[kind])

  losses = [two_metrics['loss']]
  for _ in range(5):
    two, metrics = step(two, frozen, halves, rng)
    losses.append(metrics['loss'])
  assert np.isfinite(losses).all()
  assert losses[-1] < losses[0]

  with checkpoints.Checkpoints(tmp_path / 'checkpoints') as written:
    written.save(1, two)
  template = jax.eval_shape(method.init, jax.random.key(0), batch)
  again = checkpoints.load(tmp_path / 'checkpoints', template)
  jax.tree.map(np.testing.assert_array_equal, again, two)


def _assert_same_update(before, one, two):
  """What a step changed is the same, but for the order of additions.

  As a whole and not number by number: where a ReLU sits at its kink, rounding
  alone decides for a gradient or against it.
  """

  def update(after):
    changes = jax.tree.map(lambda x, y: np.ravel(x - y), after, before)
    # A model without BatchNorm has no statistics to change.
    return np.concatenate([np.zeros(0), *jax.tree.leaves(changes)])

  error = np.linalg.norm(update(one) - update(two))
  assert error <= 0.02 * np.linalg.norm(update(one))
