"""Methods: the released training trajectories, what is frozen, two devices."""

import functools
import json

import fixtures_rule
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable import (
  attacks,
  defenses,
  interop,
  losses,
  method as method_lib,
  models,
  optimizers,
)


def _trajectories():
  return (
    'cnn_adam_cross_entropy',
    'resnetc20_sgd_cross_entropy',
    'resnetc20_sgd_self_undermining',
    'cnn_adam_kd_from_resnetc20',
  )


def _variables(shared, model, first):
  """The variables of a network filled by the rule of the fixtures."""
  path = shared / 'fixtures' / f'{model}_10_32.json'
  fixture = json.loads(path.read_text())
  state_dict = fixtures_rule.state_dict(
    fixture['names'], fixture['shapes'], first
  )
  return interop.from_torch(model, state_dict)


def _method(case, model, optimizer):
  other = models.get_model('resnetc20', 10)
  if case['kind'] == 'cross_entropy':
    return defenses.none.make(model, optimizer), None
  if case['kind'] == 'kd':
    kd = attacks.kd.make(
      model,
      optimizer,
      teacher=other,
      temperature=case['temperature'],
      alpha=case['alpha'],
    )
    return kd, 'teacher'
  nasty = defenses.nasty.make(
    model,
    optimizer,
    adversary=other,
    temperature=case['temperature'],
    omega=case['omega'],
  )
  return nasty, 'adversary'


@pytest.mark.usefixtures('full_compilation')
@pytest.mark.parametrize('name', _trajectories())
def test_training_follows_the_released_trajectory(shared, name):
  path = shared / 'fixtures' / 'losses_and_training.json'
  cases = json.loads(path.read_text())['trajectories']
  case = next(case for case in cases if case['name'] == name)
  network, optimizer_name = name.split('_')[:2]
  optimizer = optimizers.get_optimizer(
    optimizer_name,
    {'sgd': 0.01, 'adam': 1e-3}[optimizer_name],
    momentum=0.9,
    weight_decay={'sgd': 5e-4, 'adam': 0.0}[optimizer_name],
  )
  model = models.get_model(network, 10)
  method, frozen_role = _method(case, model, optimizer)
  variables = _variables(shared, network, 0)
  init = functools.partial(method.init, jax.random.key(0))
  state = jax.eval_shape(init, {'image': jnp.ones((1, 32, 32, 3))}).replace(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=jax.jit(optimizer.init)(variables['params']),
  )
  frozen = {}
  if frozen_role:
    frozen[frozen_role] = _variables(shared, 'resnetc20', 1000)
  images = fixtures_rule.images(16 * case['steps'], 32)
  step = jax.jit(method.step)
  found = []
  for k in range(case['steps']):
    batch = {
      'image': images[16 * k : 16 * (k + 1)],
      'label': (7 * np.arange(16) + k) % 10,
    }
    state, metrics = step(state, frozen, batch, jax.random.key(k))
    found.append(metrics['loss'])
  np.testing.assert_allclose(found, case['losses'], rtol=5e-4)
  logits = jax.jit(method_lib.frozen_fn(model))(
    state.variables, fixtures_rule.images(4, 32)
  )
  expected = np.array(case['final_eval_logits'])
  error = np.abs(logits - expected).max() / np.abs(expected).max()
  # Biases before BatchNorm have no gradient but rounding, which Adam blows up
  # to steps of its learning rate: training hides them, running means do not.
  assert error < {'sgd': 1e-4, 'adam': 1e-2}[optimizer_name]


@functools.cache
def _tiny(name):
  """A method of each registry on a network that compiles in no time."""
  model = models.get_model('cnn8', 10)
  optimizer = optax.sgd(0.05, momentum=0.9)
  registry = {**defenses.DEFENSES, **attacks.ATTACKS}
  parents = dict.fromkeys(registry[name].PARENTS, model)
  return registry[name].make(model, optimizer, **parents, **SETTINGS[name])


def _batch(size=16):
  rng = np.random.default_rng(0)
  return {
    'image': rng.normal(size=(size, 8, 8, 1)).astype(np.float32),
    'label': np.arange(size) % 10,
  }


@functools.cache
def _start(method, seed=0):
  return jax.jit(method.init)(jax.random.key(seed), _batch())


def _frozen(method):
  """Every role, filled with a network of another seed."""
  other = _start(method, seed=7)
  return {'adversary': other.variables, 'teacher': other.variables}


@pytest.mark.parametrize('name', ['nasty', 'kd'])
def test_no_gradient_reaches_a_frozen_network(name):
  method = _tiny(name)
  state = _start(method)

  def loss(frozen):
    return method.step(state, frozen, _batch(), jax.random.key(1))[1]['loss']

  grads = jax.jit(jax.grad(loss))(_frozen(method))
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize('name', ['nasty', 'kd'])
def test_the_frozen_network_matters(name):
  method = _tiny(name)
  state = _start(method)
  own = {'adversary': state.variables, 'teacher': state.variables}
  step = jax.jit(method.step)
  losses = [
    step(state, frozen, _batch(), jax.random.key(1))[1]['loss']
    for frozen in (own, _frozen(method))
  ]
  assert losses[0] != losses[1]


def test_what_an_owner_serves_is_what_a_client_sees():
  model = models.get_model('cnn8', 10)
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(0), _batch()['image'])
  honest = jax.jit(method_lib.frozen_fn(model))
  double = method_lib.frozen_fn(model, serve=lambda logits: 2.0 * logits)
  served = jax.jit(double)
  images = _batch()['image']
  np.testing.assert_allclose(
    served(variables, images), 2.0 * honest(variables, images), rtol=1e-6
  )


def test_a_network_with_a_batch_norm_of_its_own_stays_one_on_two_devices():
  """A user's module knows no axis_name; its statistics are averaged."""

  class Own(nn.Module):
    @nn.compact
    def __call__(self, images, train):
      x = nn.Dense(8)(images.reshape(len(images), -1))
      x = nn.BatchNorm(use_running_average=not train)(x)
      return nn.Dense(10)(x)

  method = defenses.none.make(Own(), optax.sgd(0.1))
  state = _start(method)
  step = jax.pmap(
    functools.partial(method.step, axis_name='batch'),
    axis_name='batch',
    in_axes=(None, None, 0, None),
    out_axes=0,
  )
  halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), _batch())
  both, _ = step(state, {}, halves, jax.random.key(0))
  for leaf in jax.tree.leaves(both):
    np.testing.assert_array_equal(leaf[0], leaf[1])


def _ce(logits, frozen, batch):
  del frozen
  return losses.cross_entropy(logits, batch['label']), {}


class _Flat(nn.Module):
  @nn.compact
  def __call__(self, images, train):
    del train
    return nn.Dense(10)(images.reshape(len(images), -1))


@pytest.mark.parametrize(
  'loss_fn',
  [
    lambda *args: (_ce(*args)[0].mean(), {}),
    lambda *args: (_ce(*args)[0], {'margin': args[0]}),
  ],
)
def test_other_than_one_number_an_example_is_refused(loss_fn):
  method = method_lib.supervised(_Flat(), optax.sgd(0.1), loss_fn)
  state = method.init(jax.random.key(0), _batch())
  with pytest.raises(AssertionError, match='shape'):
    jax.jit(method.step)(state, {}, _batch(), jax.random.key(0))


SETTINGS = {
  'kd': {'temperature': 4.0, 'alpha': 0.9},
  'nasty': {'temperature': 4.0, 'omega': 0.04},
  'none': {},
  'scratch': {},
}


@pytest.mark.parametrize('name', ['cnn8', 'mlp', 'resnetc8'])
def test_features_are_what_the_last_layer_reads(name):
  model = models.get_model(name, 3)
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(1), images)
  features = jax.jit(method_lib.features_fn(model))(variables, images)
  last = [
    v for v in jax.tree.leaves(variables['params']) if v.shape[-1:] == (3,)
  ]
  kernel = next(leaf for leaf in last if leaf.ndim == 2)
  bias = next(leaf for leaf in last if leaf.ndim == 1)
  apply = jax.jit(functools.partial(model.apply, train=False))
  logits = apply(variables, images)
  expected = features @ kernel + bias[None]
  if name == 'mlp':  # With its ReLU on the logits.
    expected = nn.relu(expected)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
  assert method_lib.features_fn(model.clone()) is method_lib.features_fn(model)
