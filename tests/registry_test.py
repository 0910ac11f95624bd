"""Every registered method, model and data set does what all of them must.

One step: finite; the loss falls on a fixed batch; two devices equal one; the
state comes back from a checkpoint. A new entry is tested without a new test,
but for its settings below. Of models that are one program once shrunk, one is
run; two devices are run for every method and three models, and of every model
each BatchNorm is seen to pool over them.
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
DENSENET = {'block_sizes': (1, 1, 1, 1), 'growth': 8}
SHRUNK = {
  'cnn': {'width': 4},
  'cnn16': {'width': 4},
  'cnn8': {'width': 4},
  'densenet121': DENSENET,
  'densenet161': DENSENET,
  'densenet169': DENSENET,
  'densenet201': DENSENET,
  'mobilenetv2': {'num_blocks': (1, 2, 1, 1, 1, 1, 1)},
  'resnet18': {'stage_sizes': (1, 1, 1, 1)},
  'resnet34': {'stage_sizes': (1, 1, 1, 1)},
  'resnet50': {'stage_sizes': (1, 1, 1, 1)},
  'resnetc110': {'depth': 8},
  'resnetc14': {'depth': 8},
  'resnetc20': {'depth': 8},
  'resnetc32': {'depth': 8},
  'resnetc56': {'depth': 8},
  'resnext29': {'num_blocks': 1},
  'shufflenetv2': {'num_units': (1, 1, 1)},
}
RNG = jax.random.key(1)
# Whose batches are split over two devices as well.
SPLIT = ('densenet201', 'resnet34', 'shufflenetv2')
BATCH_SIZE = 8


def shrunk(name):
  return models.get_model(name, 10, **SHRUNK.get(name, {}))


# By module, for two names of one module are one program.
DISTINCT = sorted({shrunk(name): name for name in models.MODELS}.values())
assert set(SPLIT) <= set(DISTINCT)


@pytest.mark.parametrize('name', DISTINCT)
def test_model(name, tmp_path):
  method = defenses.none.make(shrunk(name), optax.sgd(0.01))
  start = _start(method)
  one = jax.jit(method.step)
  if name in SPLIT:
    _check_two_devices(method, start, one(start, {}, _batch(), RNG))
  _check_learning(one, start, {}, _batch())
  _check_checkpoint(method, start, tmp_path)


@pytest.mark.parametrize('name', DISTINCT)
def test_every_batch_norm_of_a_model_pools_over_the_devices(name):
  model = shrunk(name).clone(axis_name=parallel.AXIS)
  image = _batch()['image']
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  forward = functools.partial(model.apply, train=True, mutable=['batch_stats'])
  traced = jax.make_jaxpr(forward, axis_env=[(parallel.AXIS, 2)])
  # Once the mean, once the variance.
  statistics = jax.tree.leaves(variables.get('batch_stats', {}))
  assert str(traced(variables, image)).count('psum') == len(statistics)
  assert bool(statistics) == (name != 'mlp')


@pytest.mark.parametrize('name', METHODS)
def test_method(name, tmp_path):
  model = models.get_model('cnn8', 10)
  parents = dict.fromkeys(METHODS[name].PARENTS, model)
  settings = SETTINGS.get(name, {})
  method = METHODS[name].make(model, optax.sgd(0.01), **parents, **settings)
  init = jax.jit(functools.partial(model.init, train=False))
  frozen = dict.fromkeys(parents, init(jax.random.key(9), _batch()['image']))
  start = _start(method)
  one = jax.jit(method.step)(start, frozen, _batch(), RNG)
  step, halves = _check_two_devices(method, start, one, frozen)
  two = _check_learning(step, start, frozen, halves)
  _check_checkpoint(method, two, tmp_path)


@pytest.mark.parametrize('name', data.DATASETS)
def test_dataset(name, tmp_path, request):
  data_dir = _data_dir(name, tmp_path, request)
  loaded = data.load(name, data_dir=data_dir)
  model = models.get_model('mlp', loaded.num_classes)
  method = defenses.none.make(model, optax.sgd(0.01))
  init, step = jax.jit(method.init), jax.jit(method.step)
  for split in (loaded.train, loaded.test):
    assert set(split['label']) == set(range(loaded.num_classes))
    prepare = batches.prepare_fn(loaded.mean, loaded.std)
    first = {name: array[:BATCH_SIZE] for name, array in split.items()}
    batch = prepare(first, np.arange(BATCH_SIZE), jax.random.key(0))
    _, metrics = step(init(jax.random.key(0), batch), {}, batch, RNG)
    assert np.isfinite(metrics['loss'])


def _data_dir(name, tmp_path, request):
  """Where the real data are, prepared if need be."""
  if name == 'digits':
    return tmp_path
  shared = request.getfixturevalue('shared')
  if name == 'tiny_imagenet':
    archive = shared / 'data' / 'tiny-imagenet-200-subset.zip'
    data.prepare(name, data_dir=tmp_path, archive=archive, unverified=True)
    return tmp_path
  return shared / 'data' / 'tfds'


def _batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.normal(size=(BATCH_SIZE, 8, 8, 3)).astype(np.float32),
    'label': np.arange(BATCH_SIZE) % 10,
    'index': np.arange(BATCH_SIZE),
  }


def _start(method):
  return jax.jit(method.init)(jax.random.key(0), _batch())


def _check_two_devices(method, start, one_result, frozen=None):
  """One step on two equals one on one; returns the step and its batch."""
  step = jax.pmap(
    functools.partial(method.step, axis_name=parallel.AXIS),
    axis_name=parallel.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
  )
  halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), _batch())
  one, metrics = one_result
  two, two_metrics = step(start, frozen or {}, halves, RNG)
  for key, value in metrics.items():
    np.testing.assert_allclose(value, two_metrics[key], rtol=1e-3)
  for kind, before in start.variables.items():
    _assert_same_update(before, one.variables[kind], two.variables[kind])
  return step, halves


def _check_learning(step, state, frozen, batch):
  """On one batch the loss falls; returns the last state."""
  losses = []
  for _ in range(6):
    state, metrics = step(state, frozen, batch, RNG)
    losses.append(metrics['loss'])
  assert np.isfinite(losses).all()
  assert losses[-1] < losses[0]
  return state


def _check_checkpoint(method, state, tmp_path):
  with checkpoints.Checkpoints(tmp_path / 'checkpoints') as written:
    written.save(1, state)
  template = jax.eval_shape(method.init, jax.random.key(0), _batch())
  again = checkpoints.load(tmp_path / 'checkpoints', template)
  jax.tree.map(np.testing.assert_array_equal, again, state)


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
