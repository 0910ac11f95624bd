"""Every registered method, model and data set does what all of them must.

One step: finite; the loss falls on a fixed batch; two devices equal one, and
answers that are handed in those that are asked for; the state comes back from a
checkpoint; what is served are scores. A new entry is tested without a new test,
with its own defaults but for those below. Of models that are one program once
shrunk, one is run; two devices are run for every method and three models, and
of every model each BatchNorm is seen to pool over them. And what a user's own
module must have.
"""

import functools
import inspect
import sys

import config_files
import jax
import networks
import numpy as np
import optax
import pytest

from undistillable import (
  attacks,
  data,
  defenses,
  errors,
  losses,
  method as method_lib,
  models,
  oracle,
  registry,
  serving,
)
from undistillable.data import batches
from undistillable.graph import plan
from undistillable.training import checkpoints, parallel

# By what they make, for a control of both is one method.
METHODS = {
  (kind, name): module
  for kind, name, module in {
    module.make or name: (kind, name, module)
    for kind, known in (
      ('attack', attacks.ATTACKS),
      ('defense', defenses.DEFENSES),
    )
    for name, module in known.items()
  }.values()
}
INVERSION = {
  'num_images': 8,
  'low': (-2.0, -2.0, -2.0),
  'high': (2.0, 2.0, 2.0),
  'total_variation': 1e-3,
  'l2': 1e-3,
  'batch_norm': 1.0,
  'jitter': 0,  # Or one step's loss would be another's.
}
# Where the defaults are too large for eight images.
EXCEPTIONS = {
  'adaptive_inversion': INVERSION,
  'bayes': {'draws': 2},
  'cmim': {'delay_steps': 0, 'ramp_steps': 0},
  'd_dae': {'draws': 2, 'epochs': 20},
  'dafl': {
    'latent_dim': 10,
    'generator_width': 8,
    'generator_learning_rate': 1e-4,  # Or the images change too much.
  },
  'deep_inversion': INVERSION,
  'dfme': {'latent_dim': 10, 'generator_width': 8, 'student_steps': 2},
  'fast': {
    'low': (-2.0, -2.0, -2.0),
    'high': (2.0, 2.0, 2.0),
    'latent_dim': 10,
    'generator_width': 8,
    'generator_steps': 2,
    'warmup': 1,
    'student_steps': 2,
    'augment': 'none',  # Or one step's loss would be another's.
    'pool': 20,
  },
  'maze': {
    'latent_dim': 10,
    'generator_width': 8,
    'student_steps': 2,
    'directions': 2,
    'replay_steps': 2,
    'memory': 12,
  },
  'sdb': {'eta': 0.01, 'mean': (0.5,) * 3, 'std': (0.25,) * 3},
}
# The same code with fewer blocks, where a full one takes minutes to compile.
DENSENET = {'block_sizes': (1, 1), 'growth': 8}
SHRUNK = {
  'airbench93': {'widths': (8, 8, 8)},
  'airbench94': {'widths': (8, 8, 8)},
  'cnn': {'width': 4},
  'cnn16': {'width': 4},
  'cnn8': {'width': 4},
  'densenet121': DENSENET,
  'densenet161': DENSENET,
  'densenet169': DENSENET,
  'densenet201': DENSENET,
  'mobilenetv2': {'num_blocks': (1, 2, 1)},
  'resnet18': {'stage_sizes': (1, 1)},
  'resnet34': {'stage_sizes': (1, 1)},
  'resnet50': {'stage_sizes': (1, 1)},
  'resnetc110': {'depth': 8},
  'resnetc14': {'depth': 8},
  'resnetc20': {'depth': 8},
  'resnetc32': {'depth': 8},
  'resnetc44': {'depth': 8},
  'resnetc56': {'depth': 8},
  'resnext29': {'num_blocks': 1},
  'shufflenetv2': {'num_units': (1,)},
}
# Of an update, between one device and several. Its quotients of differences
# divide rounding by 1e-3: 0.5 to 6 %, whatever the number of devices.
TOLERANCE = {'dfme': 0.1, 'maze': 0.1}
RNG = jax.random.key(1)
# Whose batches are split over two devices as well.
SPLIT = ('airbench94', 'cnn8', 'resnetc8')
BATCH_SIZE = 8
MADE_HERE = 'digits', 'patches'  # Data sets without a file of their own.
SMALL = networks.Small()
# Those that look into a student want more of it to look into.
DEEPER = {'skeptical': networks.Small(strides=(1, 2, 2))}

# Of those with files all images are read.
DATASETS = [
  pytest.param(name, marks=() if name in MADE_HERE else pytest.mark.whole)
  for name in data.DATASETS
]


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
    _check_devices(method, start, one(start, {}, _batch(), RNG))
  _check_learning(one, start, {}, _batch())
  _check_checkpoint(start, tmp_path)


@pytest.mark.parametrize('name', DISTINCT)
def test_every_batch_norm_of_a_model_pools_over_the_devices(name):
  model = shrunk(name).clone(axis_name=parallel.AXIS)
  image = _batch()['image']
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  forward = functools.partial(model.apply, train=True, mutable=['batch_stats'])
  traced = jax.make_jaxpr(forward, axis_env=[(parallel.AXIS, 2)])
  # Once the mean, once the variance.
  statistics = [
    path
    for path, _ in jax.tree.leaves_with_path(variables.get('batch_stats', {}))
    if path[-1].key in ('mean', 'var')
  ]
  assert str(traced(variables, image)).count('psum') == len(statistics)
  assert bool(statistics) == (name != 'mlp')


@pytest.mark.parametrize(('kind', 'name'), METHODS)
def test_method(kind, name, tmp_path):
  module = METHODS[kind, name]
  if module.make is None:  # Nothing is trained: there is something else.
    assert hasattr(module, 'serve' if kind == 'defense' else 'pick')
    return
  student = DEEPER.get(name, SMALL)
  method = module.make(
    student, optax.sgd(0.01), _settings(kind, name), _parents(kind, name)
  )
  # Without it, labels of no class of a network would go unnoticed.
  assert method.logits_fn or kind == 'attack'
  frozen = dict.fromkeys(module.PARENTS, _variables(9))
  batch = _batch()
  answers = {
    role: jax.jit(ask)(frozen[role], batch['image'])
    for role, ask in method.answer_fns.items()
  }
  start = _start(method, frozen)
  one = jax.jit(method.step)(start, frozen, batch, RNG)
  unasked = {k: v for k, v in frozen.items() if k not in answers}
  step, shares = _check_devices(
    method,
    start,
    one,
    unasked,
    {**batch, 'answers': answers},
    TOLERANCE.get(name, 0.02),
  )
  two = _check_learning(step, start, unasked, shares)
  _check_checkpoint(two, tmp_path)


def _check_serving(name, module):
  """Scores: finite, of some class, without a gradient, and none trained on.

  Each is of its own image alone.
  """
  parents = dict.fromkeys(module.PARENTS, SMALL)
  settings = _settings('defense', name)
  served = serving.answer_fn(SMALL, module.serve, settings, parents)
  images = _batch()['image']
  known = {role: _variables(seed) for seed, role in enumerate(parents)}
  own = _variables(9)
  if getattr(module, 'make', None):  # What it trains may be read as well.
    method = module.make(
      SMALL, optax.sgd(0.01), settings, _parents('defense', name)
    )
    own = _start(method, known).variables
  variables = {**own, serving.PARENTS: known}

  def total(images, variables):
    scores = served(variables, images)
    return scores.sum(), scores

  ask = jax.jit(jax.grad(total, has_aux=True))
  grad, scores = ask(images, variables)
  assert not grad.any()
  assert scores.shape == (BATCH_SIZE, 10)
  assert scores.dtype == np.float32
  assert np.isfinite(scores).all()
  for temperature in (1.0, 20.0, 1000.0):
    probabilities = jax.nn.softmax(scores / temperature)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-4)
  assert (scores.max(-1) > 0.5 * losses.WITHHELD).all()
  _, others = ask(np.concatenate([images[:2], 3 * images[2:]]), variables)
  np.testing.assert_allclose(
    jax.nn.softmax(scores[:2]), jax.nn.softmax(others[:2]), atol=1e-5
  )


@pytest.mark.parametrize(('kind', 'name'), METHODS)
def test_what_a_method_serves_are_scores(kind, name):
  module = METHODS[kind, name]
  if hasattr(module, 'serve'):
    assert kind == 'defense'
    _check_serving(name, module)


def test_a_defense_whose_scores_are_none_is_found_out():
  """Or nobody would know whether those above are checked at all."""

  class Module:
    PARENTS = ()

    @staticmethod
    def serve(query, settings):
      return query.logits + np.nan

  with pytest.raises(AssertionError):
    _check_serving('none', Module)


@pytest.mark.parametrize(('kind', 'name'), METHODS)
def test_what_a_method_declares_can_be_read(kind, name):
  module = METHODS[kind, name]
  settings = inspect.signature(module.Settings).parameters.values()
  assert all(setting.default is not setting.empty for setting in settings)
  assert registry.settings(module, registry.defaults(module)) == (
    module.Settings()
  )
  assert registry.find(name, {name: module}, kind) is module
  if kind == 'attack':
    assert getattr(module, 'ACCESS', 'scores') in (
      'labels',
      'scores',
      'weights',
    )
    assert getattr(module, 'DATA', 'own') in ('own', 'foreign', 'none')


@pytest.mark.parametrize('name', DATASETS)
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
    _, metrics = step(init(jax.random.key(0), batch, {}), {}, batch, RNG)
    assert np.isfinite(metrics['loss'])


def _data_dir(name, tmp_path, request):
  """Where the real data are, prepared if need be."""
  if name in MADE_HERE:
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
    'label': np.arange(BATCH_SIZE) % 4,  # Each class twice, far apart.
    'index': np.arange(BATCH_SIZE),
  }


def _start(method, frozen=None):
  return jax.jit(method.init)(jax.random.key(0), _batch(), frozen or {})


@functools.cache
def _variables(seed):
  """Of the network that is every parent."""
  init = jax.jit(functools.partial(SMALL.init, train=False))
  return init(jax.random.key(seed), _batch()['image'])


def _settings(kind, name):
  """Its defaults, but for what is listed."""
  return METHODS[kind, name].Settings(**EXCEPTIONS.get(name, {}))


def _parents(kind, name):
  """Modules; whom an attack robs gives away what the attack says it reads."""
  module = METHODS[kind, name]
  parents = dict.fromkeys(module.PARENTS, SMALL)
  if kind == 'attack' and 'teacher' in parents:
    access = getattr(module, 'ACCESS', 'scores')
    parents['teacher'] = oracle.Oracle(
      method_lib.frozen_fn(SMALL),
      SMALL if access == 'weights' else None,
      labels_only=access == 'labels',
    )
  return parents


def _check_devices(
  method, start, one_result, frozen=None, batch=None, tolerance=0.02
):
  """A step on all equals one on one; returns the step and its batch."""
  step = jax.pmap(
    functools.partial(method.step, axis_name=parallel.AXIS),
    axis_name=parallel.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
  )
  shares = jax.tree.map(
    lambda x: x.reshape(parallel.num_devices(), -1, *x.shape[1:]),
    batch or _batch(),
  )
  one, metrics = one_result
  two, two_metrics = step(start, frozen or {}, shares, RNG)
  for key, value in metrics.items():
    np.testing.assert_allclose(value, two_metrics[key], rtol=1e-3)
  for kind, before in start.variables.items():
    _assert_same_update(
      before, one.variables[kind], two.variables[kind], tolerance
    )
  return step, shares


def _check_learning(step, state, frozen, batch):
  """On one batch the loss falls; returns the last state."""
  losses = []
  for _ in range(6):
    state, metrics = step(state, frozen, batch, RNG)
    losses.append(metrics['loss'])
  assert np.isfinite(losses).all()
  assert losses[-1] < losses[0]
  return state


def _check_checkpoint(state, tmp_path):
  with checkpoints.Checkpoints(tmp_path) as written:
    written.save(1, state)
    _, again = written.restore(jax.eval_shape(lambda: state))
  jax.tree.map(np.testing.assert_array_equal, again, state)


def _assert_same_update(before, one, two, tolerance):
  """What a step changed is the same, but for the order of additions.

  As a whole and not number by number: where a ReLU sits at its kink, rounding
  alone decides for a gradient or against it.
  """

  def update(after):
    changes = jax.tree.map(lambda x, y: np.ravel(x - y), after, before)
    # A model without BatchNorm has no statistics to change.
    return np.concatenate([np.zeros(0), *jax.tree.leaves(changes)])

  error = np.linalg.norm(update(one) - update(two))
  assert error <= tolerance * np.linalg.norm(update(one))


# What is found by name.

KNOWN = {'nasty': defenses.nasty, 'none': defenses.none}
OWN = """
import dataclasses

from undistillable import losses

PARENTS = ()


@dataclasses.dataclass(frozen=True)
class Settings:
  weight: float = 1.0

  def __post_init__(self):
    losses.check_positive('weight', self.weight)


def make(model, optimizer, settings, parents):
  return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A package of a user with a defense, and what is not one."""
  package = tmp_path / 'somebodys_package'
  package.mkdir()
  for name, text in (
    ('__init__', ''),
    ('my_defense', OWN),
    ('no_make', OWN.replace('def make', 'def build')),
    ('no_settings', OWN.replace('class Settings', 'class Options')),
    ('broken', 'import nobody_has_this'),
  ):
    (package / f'{name}.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  yield package.name
  for name in [n for n in sys.modules if n.startswith(package.name)]:
    del sys.modules[name]


def test_a_method_is_found_by_its_name_or_that_of_its_module(own):
  assert registry.find('nasty', KNOWN, 'defense') is defenses.nasty
  assert defenses.get('nasty') is defenses.nasty
  assert attacks.get('kd') is attacks.kd
  name = f'{own}.my_defense'
  module = registry.find(name, KNOWN, 'defense')
  assert module.__name__ == name
  assert registry.short(name) == 'my_defense'
  assert registry.short('nasty') == 'nasty'
  assert registry.defaults(module) == {'weight': 1.0}
  assert registry.settings(module, {'weight': 2.0}) == module.Settings(2.0)


def _error(call, *args):
  """What a user is told: one sentence."""
  with pytest.raises(errors.InputError) as error:
    call(*args)
  message = str(error.value)
  assert '\n' not in message
  assert '. ' not in message
  return message


def test_what_is_no_method_is_named(own):
  def find(name):
    return _error(registry.find, name, KNOWN, 'defense')

  assert find('nasy') == (
    "unknown defense 'nasy'; known: nasty, none, or a module of your own as "
    'package.module'
  )
  missing = 'cannot be imported (ModuleNotFoundError: No module named'
  for name, reason in (
    ('broken', f"{missing} 'nobody_has_this')"),
    ('absent', f"{missing} '{own}.absent')"),
    ('no_make', 'has no make; see "Extend it" in the README'),
    ('no_settings', 'has no Settings; see "Extend it" in the README'),
  ):
    assert find(f'{own}.{name}') == f"the defense '{own}.{name}' {reason}"


def test_a_method_that_is_none_is_named(own):
  config = config_files.load('digits')
  config.defenses = (f'{own}.my_defense',)
  assert _error(plan.make, config) == (
    f"config: make of '{own}.my_defense' returned NoneType; expected a "
    'method.Method, or the line `make = None` where nothing is trained'
  )


def test_settings_that_do_not_fit_are_named(own):
  found = _error(registry.settings, defenses.nasty, {'omga': 1.0})
  known = 'omega, temperature, balance'
  assert found == f"nasty has no setting 'omga'; known: {known}"
  found = _error(registry.settings, defenses.nasty, {'omega': -1.0})
  assert found == 'nasty: omega=-1.0; expected a number >= 0'
  module = registry.find(f'{own}.my_defense', KNOWN, 'defense')
  found = _error(registry.settings, module, {'weight': 0.0})
  assert found == 'my_defense: weight=0.0; expected a positive number'
  # As long as nothing is asked of it, nothing is wrong.
  assert registry.settings(module, {}) == module.Settings()
