"""The Safe Distillation Box: its loss by hand, its key, and who has which."""

import dataclasses
import functools
import json

import bare
import config_files
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from undistillable import data, errors, export, method as method_lib
from undistillable.defenses import sdb
from undistillable.graph import execute, plan, store as store_lib
from undistillable.training import checkpoints, evaluate, train

T, S = (np.float32([z]) for z in (bare.TEACHER, bare.STUDENT))
LABEL = np.array([0])
UNITS = {'mean': (0.0,), 'std': (1.0,)}  # Images from 0 to 1, as they are.
KEYED = 'undistillable.defenses.sdb_keyed'


@functools.partial(jax.jit, static_argnames='settings')
def _loss_fn(z, keyed, adversary, random, settings):
  return sdb.loss(
    z, keyed, adversary, LABEL, settings=settings, random_logits=random
  )


def _loss(z, keyed, adversary, random=None, **settings):
  found = _loss_fn(z, keyed, adversary, random, sdb.Settings(**settings))
  return np.asarray(found)


def _log_p(z, tau=1.0):
  return scipy.special.log_softmax(np.float64(z) / tau, axis=-1)


def test_the_divergence_from_the_adversary_has_the_known_value():
  without = _loss(T, T, S, weight=0.0)
  np.testing.assert_allclose(
    without - _loss(T, T, S, weight=1.0), [0.939391], atol=1e-5
  )
  # On the other side is what draws the answer to that with the key.
  near = np.sum(np.exp(_log_p(T)) * (_log_p(T) - _log_p(S)), axis=-1)
  found = _loss(T, S, T, weight=1.0) - _loss(T, S, T, weight=0.0)
  np.testing.assert_allclose(found, near, rtol=1e-5)


def test_without_weights_cross_entropies_and_a_distance_are_left():
  p, q = np.exp(_log_p(T, 4.0)), np.exp(_log_p(S, 4.0))
  plain, keyed = -_log_p(T)[:, 0], -_log_p(S)[:, 0]
  np.testing.assert_allclose(keyed, [0.680270], atol=1e-6)
  expected = 2 * plain + keyed + np.square(p - q).sum(-1)
  found = _loss(T, S, T, weight=0.0)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_eta_leads_what_the_key_says_to_an_untrained_network():
  random = np.float32([[-2.0, 0.5, 4.0]])
  away = (3 - 1) ** 2 + (1 - 0) ** 2 + (0 - 0.5) ** 2
  towards = (0 - 1) ** 2 + (0.5 - 0) ** 2 + (4 - 0.5) ** 2
  found = _loss(S, S, T, random, eta=0.1) - _loss(S, S, T)
  np.testing.assert_allclose(found, [-0.1 * (0.01 * away - towards)], rtol=1e-4)


def test_what_the_key_says_is_not_drawn_to_what_is_said_without():
  def gradients(weight):
    def both(z, keyed):
      return _loss_fn(z, keyed, S, None, sdb.Settings(weight=weight)).sum()

    return jax.device_get(jax.jit(jax.grad(both, argnums=(0, 1)))(T, 2 * T))

  without, found = gradients(0.0), gradients(1.0)
  np.testing.assert_array_equal(found[1], without[1])
  assert np.abs(found[0] - without[0]).max() > 0.1


@jax.jit
def _value_and_grads(*logits):
  def loss(*logits):
    return _loss_fn(*logits, sdb.Settings(eta=0.0)).sum()

  return jax.value_and_grad(loss, argnums=(0, 1))(*logits)


@pytest.mark.parametrize('scale', [1e4, 1e9])
def test_the_extremes_leave_everything_finite(scale):
  given = [np.float32(scale) * z for z in (T, -S, S, -T)]
  value, grads = _value_and_grads(*given)
  assert np.isfinite([value, *np.ravel(grads)]).all()


def test_bad_settings_are_refused():
  for changes in (
    {'weight': -0.1},
    {'temperature': 0.0},
    {'share': 1.1},
    {'eta': float('nan')},
    {'mean': (0.5,)},
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      sdb.Settings(**changes)
  assert 'sdb.weight (now 1.0)' in sdb.remedy(sdb.Settings())


# The key.


def test_a_key_is_blended_into_bytes_as_it_is_into_what_a_network_sees():
  rng = np.random.default_rng(0)
  bytes_ = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
  key = rng.integers(0, 256, (8, 8, 3), np.uint8)
  mean, std = data.NORMALIZATIONS['cifar10']
  settings = sdb.Settings(share=0.7, mean=mean, std=std)
  normal = lambda x: (x / 255 - np.array(mean)) / np.array(std)  # noqa: E731
  images = np.float32(normal(bytes_))
  keyed = jax.jit(sdb.keyed, static_argnums=2)
  found = keyed(images, key, settings)
  np.testing.assert_allclose(found, normal(0.7 * bytes_ + 0.3 * key), rtol=1e-4)
  # All of the image is no key.
  whole = dataclasses.replace(settings, share=1.0)
  np.testing.assert_array_equal(keyed(images, key, whole), images)
  half = keyed(images.astype(jnp.bfloat16), key, settings)
  assert half.dtype == jnp.bfloat16


class _Net(nn.Module):
  """A layer, BatchNorm over images, and a last layer."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(8)(images.reshape(len(images), -1))
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(4)(nn.relu(x))


@functools.cache
def _method(**settings):
  return sdb.make(
    _Net(),
    optax.sgd(0.05, momentum=0.9),
    sdb.Settings(**{'weight': 0.01, **UNITS, **settings}),
    {'adversary': _Net()},
  )


def _batch():
  rng = np.random.default_rng(0)
  return {
    'image': np.float32(rng.random((12, 4, 4, 1))),
    'label': np.arange(12) % 4,
  }


@functools.cache
def _frozen():
  init = jax.jit(_Net().init)
  return {'adversary': init(jax.random.key(9), _batch()['image'])}


def _start(method, seed=0):
  init = jax.jit(method.init)
  return init(jax.random.key(seed), _batch(), _frozen()), _frozen()


def test_with_all_of_the_image_both_answers_are_one():
  method = _method(share=1.0)
  state, frozen = _start(method)
  _, metrics = jax.jit(method.step)(state, frozen, _batch(), jax.random.key(0))
  metrics = jax.device_get(metrics)
  assert metrics['keyed_kl'] == 0
  assert metrics['keyed_accuracy'] == metrics['accuracy']
  assert metrics['kl'] > 0


def test_a_key_is_drawn_from_the_seed_or_read_and_stays(tmp_path):
  method = _method(eta=0.01)
  first, frozen = _start(method)
  same, other = _start(method)[0], _start(method, seed=1)[0]
  key = np.asarray(first.key)
  assert (key.shape, key.dtype) == ((4, 4, 1), np.uint8)
  np.testing.assert_array_equal(key, same.key)
  assert (key != np.asarray(other.key)).mean() > 0.9
  after, metrics = jax.jit(method.step)(
    first, frozen, _batch(), jax.random.key(0)
  )
  assert np.isfinite(metrics['loss'])
  np.testing.assert_array_equal(after.variables['key']['image'], key)
  jax.tree.map(np.testing.assert_array_equal, after.random, first.random)
  changed = jax.tree.map(
    lambda x, y: np.not_equal(x, y).any(),
    first.network.params,
    after.network.params,
  )
  assert any(jax.tree.leaves(changed))
  # It starts where a normal network of the seed does; the other does not.
  plain = method_lib.supervised(_Net(), optax.sgd(0.1), None)
  twin = jax.jit(plain.init)(jax.random.key(0), _batch(), {}).variables
  jax.tree.map(np.testing.assert_array_equal, first.network.variables, twin)
  kernel = first.random['params']['Dense_0']['kernel']
  assert np.not_equal(kernel, twin['params']['Dense_0']['kernel']).all()
  path = tmp_path / 'key.npy'
  np.save(path, key[::-1])
  given, _ = _start(_method(key=str(path)))
  np.testing.assert_array_equal(given.key, key[::-1])


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    'image': rng.integers(0, 256, (24, 4, 4, 1), np.uint8),
    'label': np.arange(24) % 4,
  }
  method, prepare = _method(), data.prepare_fn((0.0,), (1.0,))
  frozen = _start(method)[1]
  fit = functools.partial(
    train.fit, method, arrays, prepare, batch_size=12, frozen=frozen
  )
  fit(epochs=1, folder=tmp_path)
  resumed, whole = fit(epochs=2, folder=tmp_path), fit(epochs=2)
  assert int(whole.step) == 4
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def _config(**changes):
  """The config of digits, shrunk to seconds."""
  small = {
    'teacher.model': 'cnn4',
    'students': ('cnn4',),
    'seeds': (0,),
    'recipe.epochs': 10,
    'limit': 200,
    'sdb.share': 0.5,
    'defenses': ('sdb', KEYED),
  }
  return plan.vary(config_files.load('digits'), small | changes)


def _teachers(config):
  return {run.method: run for run in plan.make(config) if run.role == 'teacher'}


def test_the_name_of_a_run_is_of_the_key_and_not_of_its_file(tmp_path):
  paths = [tmp_path / f'{name}.npy' for name in 'abc']
  keys = [np.full((8, 8, 1), value, np.uint8) for value in (7, 7, 8)]
  for path, key in zip(paths, keys, strict=True):
    np.save(path, key)
  runs = [_teachers(_config(**{'sdb.key': str(path)})) for path in paths]
  for name in ('sdb', KEYED):
    ids = [run[name].id for run in runs]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] != _teachers(_config())[name].id
  settings = runs[0]['sdb'].config['settings']
  assert settings['key'].startswith('sha256:')
  assert settings['mean'] == list(data.NORMALIZATIONS['digits'][0])


@pytest.mark.parametrize(
  ('content', 'told'),
  [
    (None, 'cannot be read'),
    (np.zeros((8, 8), np.uint8), 'holds uint8[8, 8]; expected uint8[8, 8, 1]'),
    (np.zeros((8, 8, 1)), 'holds float64[8, 8, 1]; expected uint8[8, 8, 1]'),
    (np.array(['key'], object), 'cannot be read'),
  ],
)
def test_what_is_no_key_is_said_before_anything_is_trained(
  content, told, tmp_path
):
  path = tmp_path / 'key.npy'
  if content is not None:
    np.save(path, content, allow_pickle=True)
  with pytest.raises(errors.InputError) as error:
    plan.make(_config(**{'sdb.key': str(path)}))
  assert f'sdb.key={path} ' in str(error.value)
  assert told in str(error.value)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """Runs and results by method, and the store, of the teachers of a study."""
  store = store_lib.Store(tmp_path_factory.mktemp('study'))
  teachers = _teachers(_config())
  results = {
    name: execute.run_group([run], store)[0] for name, run in teachers.items()
  }
  return teachers, results, store


def test_a_result_has_the_accuracy_with_the_key_and_without(done):
  teachers, results, store = done
  run, result = teachers['sdb'], results['sdb']
  task, variables = store.task(run.judged_on), store.variables(run)
  (material,) = store.open([run])
  network, prepare = material.program.network, material.program.prepare_test
  own = {k: variables[k] for k in ('params', 'batch_stats')}
  test = task.test
  ask = functools.partial(evaluate.predict, method_lib.frozen_fn(network), own)
  plain = ask(test, prepare)
  # Without the key it is the network as it is.
  np.testing.assert_array_equal(store.answers(run, test), plain)
  assert (
    result['test_accuracy'] == evaluate.scores(plain, test['label'])['accuracy']
  )
  # With it, blended into the bytes, which costs half a unit of each.
  key = np.asarray(variables['key']['image'])
  blended = 0.5 * test['image'] + 0.5 * key
  keyed = ask({**test, 'image': np.uint8(np.round(blended))}, prepare)
  served = store.answers(teachers[KEYED], test)
  assert np.abs(served - keyed).max() < 0.05 * np.abs(served - plain).max()
  found = evaluate.scores(served, test['label'])
  assert result['test_keyed_accuracy'] == pytest.approx(found['accuracy'])
  assert result['test_keyed_nll'] == pytest.approx(found['nll'], rel=1e-4)
  assert results[KEYED]['test_accuracy'] == result['test_keyed_accuracy']
  assert 'keyed_accuracy' in result['training']


def test_the_key_does_not_leave_with_what_is_exported(done, tmp_path):
  teachers, _, store = done
  variables = store.variables(teachers['sdb'])
  to = tmp_path / 'exported'
  export.export(store.workdir, to, run=teachers['sdb'].id)
  assert set(checkpoints.load_variables(to)) == {'params', 'batch_stats'}
  files = [path.read_bytes() for path in to.rglob('*') if path.is_file()]
  mean = jax.tree.leaves(variables['batch_stats'])[0]
  assert any(np.asarray(mean).tobytes() in file for file in files)
  key = np.asarray(variables['key']['image']).tobytes()
  assert not any(key in file for file in files)
  # Nor does the card say that it is in one of them.
  assert json.loads((to / 'config.json').read_text())['asks'] == []
  assert 'made of more' not in (to / 'README.md').read_text()


def test_who_answers_with_the_key_is_not_exported(done, tmp_path):
  teachers, _, store = done
  to = tmp_path / 'exported'
  # It is the only one that no other is made of.
  with pytest.raises(errors.InputError, match='the key of its owner') as error:
    export.export(store.workdir, to)
  assert f'--run={teachers["sdb"].id}' in str(error.value)
  assert not to.exists()
