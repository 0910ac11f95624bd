"""Methods: the released trajectories, what is frozen, what a loss sees."""

import functools
import json

import fixtures_rule
import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest

from undistillable import (
  attacks,
  defenses,
  errors,
  interop,
  losses,
  method as method_lib,
  models,
)
from undistillable.training import checkpoints, optimizers


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
  temperature = case['temperature']
  if case['kind'] == 'kd':
    settings = attacks.kd.Settings(temperature, case['alpha'])
    parents = {'teacher': other}
    return attacks.kd.make(model, optimizer, settings, parents), 'teacher'
  settings = defenses.nasty.Settings(case['omega'], temperature)
  parents = {'adversary': other}
  return defenses.nasty.make(model, optimizer, settings, parents), 'adversary'


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
  state = jax.eval_shape(init, {'image': jnp.ones((1, 32, 32, 3))}, {}).replace(
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
  model = networks.Small()
  optimizer = optax.sgd(0.05, momentum=0.9)
  module = {**defenses.DEFENSES, **attacks.ATTACKS}[name]
  parents = dict.fromkeys(module.PARENTS, model)
  return module.make(model, optimizer, module.Settings(), parents)


def _batch(size=16):
  rng = np.random.default_rng(0)
  return {
    'image': rng.normal(size=(size, 8, 8, 1)).astype(np.float32),
    'label': np.arange(size) % 10,
  }


@functools.cache
def _start(method, seed=0):
  """The state before the first step; frozen networks have no say in it."""
  return jax.jit(method.init)(jax.random.key(seed), _batch(), {})


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
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_what_is_trained_beside_a_network_needs_one():
  method = method_lib.beside(_tiny('nasty'), networks.Small(), 'gate')
  with pytest.raises(errors.InputError, match="'normal'; name it in PARENTS"):
    method.init(jax.random.key(0), _batch(), {})


@pytest.mark.parametrize('name', ['nasty', 'kd'])
def test_the_frozen_network_matters(name):
  method = _tiny(name)
  state = _start(method)
  own = {'adversary': state.variables, 'teacher': state.variables}
  step = jax.jit(method.step)
  losses = [
    float(step(state, frozen, _batch(), jax.random.key(1))[1]['loss'])
    for frozen in (own, _frozen(method))
  ]
  assert losses[0] != losses[1]


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
  for leaf in jax.tree.leaves(jax.device_get(both)):
    np.testing.assert_array_equal(leaf[0], leaf[1])


def _ce(seen):
  return losses.cross_entropy(seen.logits, seen.batch['label']), {}


class _Tiny(nn.Module):
  """A layer with a name, a BatchNorm, dropout, and a last layer."""

  @nn.compact
  def __call__(self, images, train):
    x = nn.Dense(4, name='first')(images.reshape(len(images), -1))
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(10)(x)


def _supervised(loss_fn=_ce, **options):
  return method_lib.supervised(_Tiny(), optax.sgd(0.1), loss_fn, **options)


def _step(method, state=None, frozen=None, batch=None):
  """The state and the metrics after one step on one device."""
  state = state or _start(method)
  return jax.jit(method.step)(
    state, frozen or {}, batch or _batch(), jax.random.key(1)
  )


def _split_step(method, state, batch=None):
  """As of `_step`, on two devices."""
  step = jax.pmap(
    functools.partial(method.step, axis_name='batch'),
    axis_name='batch',
    in_axes=(None, None, 0, None),
    out_axes=None,
  )
  halves = jax.tree.map(
    lambda x: x.reshape(2, -1, *x.shape[1:]), batch or _batch()
  )
  return step(state, {}, halves, jax.random.key(1))


def _equal(one, other):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


@pytest.mark.parametrize(
  ('loss_fn', 'told'),
  [
    (lambda seen: (_ce(seen)[0].mean(), {}), r'loss of shape \(\); expected'),
    (
      lambda seen: (_ce(seen)[0], {'margin': seen.logits}),
      r'margin of shape \(16, 10\); expected one number an example, \(16,\)',
    ),
  ],
)
def test_other_than_one_number_an_example_is_refused(loss_fn, told):
  method = _supervised(loss_fn)
  state = jax.eval_shape(method.init, jax.random.key(0), _batch(), {})
  with pytest.raises(ValueError, match=told):
    jax.eval_shape(method.step, state, {}, _batch(), jax.random.key(0))


# The answers of frozen networks.


def _heard(seen):
  """A loss that is what it hears, but for the gradient."""
  heard = seen.answers['other'][:, 0]
  return heard + 0 * seen.logits[:, 0], {'heard': heard}


def test_answers_that_are_handed_in_are_not_asked_for():
  def refuse(variables, images):
    raise AssertionError('asked')

  method = _supervised(_heard, answer_fns={'other': refuse})
  answers = np.arange(160, dtype=np.float32).reshape(16, 10)
  batch = {**_batch(), 'answers': {'other': answers}}
  _, metrics = _step(method, batch=batch)  # Nor is frozen['other'] read.
  assert metrics['heard'] == answers[:, 0].mean()
  with pytest.raises(AssertionError, match='asked'):
    _step(method, frozen={'other': {}})


@pytest.mark.parametrize('handed_in', [False, True])
def test_no_gradient_leads_through_an_answer(handed_in):
  """Whatever the network that gives it, which here stops none."""

  def ask(variables, images):
    return images.reshape(16, -1) @ variables

  method = _supervised(_heard, answer_fns={'other': ask})
  weight = np.ones((64, 10), np.float32)
  start = _start(method)

  def loss(weight):
    batch, frozen = _batch(), {'other': weight}
    if handed_in:
      batch['answers'] = {'other': ask(weight, batch['image'])}
      frozen = {}
    return method.step(start, frozen, batch, jax.random.key(1))[1]['loss']

  value, grad = jax.jit(jax.value_and_grad(loss))(weight)
  assert float(value) != 0
  assert not np.asarray(grad).any()


# What else a loss may see.


def _first_layer(values):
  """What it makes of the images."""
  (features,) = values['first']['__call__']
  return features


def test_a_loss_sees_the_values_of_an_inner_layer():
  def loss_fn(seen):
    loss, _ = _ce(seen)
    return loss, {'size': jnp.abs(seen.features).sum(-1)}

  method = _supervised(loss_fn, features_fn=_first_layer)
  start = _start(method)
  state, metrics = _step(method, start)
  layer = jax.device_get(start.params['first'])
  images = _batch()['image'].reshape(16, -1)
  features = images @ layer['kernel'] + layer['bias'][None]
  expected = np.abs(features).sum(-1).mean()
  np.testing.assert_allclose(metrics['size'], expected, rtol=1e-5)
  # To look on changes nothing.
  plain, _ = _step(_supervised(), start)
  assert _equal(state.batch_stats, plain.batch_stats)
  assert set(state.variables) == {'params', 'batch_stats'}


def test_without_asking_a_loss_sees_no_inner_values():
  def loss_fn(seen):
    assert seen.features == seen.extra == ()
    return _ce(seen)

  _step(_supervised(loss_fn))


def test_a_loss_knows_how_many_steps_were_taken():
  def loss_fn(seen):
    loss, _ = _ce(seen)
    return loss, {'step': jnp.full(loss.shape, seen.step)}

  method = _supervised(loss_fn)
  step, state, found = jax.jit(method.step), _start(method), []
  for _ in range(3):
    state, metrics = step(state, {}, _batch(), jax.random.key(0))
    found.append(int(metrics['step']))
  assert found == [0, 1, 2]


def test_a_total_is_of_all_devices_and_has_no_gradient():
  def loss_fn(seen):
    loss, _ = _ce(seen)
    total = seen.total(seen.logits.sum())
    labels = jnp.full(loss.shape, seen.total(seen.batch['label'].sum()))
    return loss + total, {'labels': labels}

  model = models.get_model('mlp', 10)
  method, plain = (
    method_lib.supervised(model, optax.sgd(0.1), fn) for fn in (loss_fn, _ce)
  )
  start = _start(method)
  one, metrics = _step(method, start)
  two, both = _split_step(method, start)
  for found in (metrics, both):
    np.testing.assert_array_equal(found['labels'], _batch()['label'].sum())
  np.testing.assert_allclose(both['loss'], metrics['loss'], rtol=1e-4)
  without, ce = _step(plain, start)
  assert abs(float(ce['loss']) - float(metrics['loss'])) > 0.1
  for state in (one, two):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
      state.params,
      without.params,
    )


@pytest.mark.parametrize('train', [False, True])
def test_a_network_may_learn_as_it_is_evaluated(train):
  method = _supervised(train=train)
  start = _start(method)
  state, metrics = _step(method, start)
  assert _equal(start.batch_stats, state.batch_stats) == (not train)
  assert not _equal(start.params, state.params)
  batch = _batch()

  @jax.jit
  def evaluate(variables):
    logits = method_lib.frozen_fn(_Tiny())(variables, batch['image'])
    return losses.cross_entropy(logits, batch['label']).mean()

  same = abs(float(metrics['loss']) - float(evaluate(start.variables))) < 1e-5
  assert same == (not train)  # Neither BatchNorm nor dropout knows better.


# Views: other images in the same pass.


class _Bare(nn.Module):
  """A BatchNorm between two layers, and nothing that is drawn."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(4, name='first')(images.reshape(len(images), -1))
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(10)(x)


def _mean_of_both(seen):
  """Cross entropy of the images and of the first view."""
  other = losses.cross_entropy(seen.views['other'], seen.batch['label'])
  return (_ce(seen)[0] + other) / 2, {'other': other}


def _shifted(batch):
  return 2 * batch['image'][::-1].astype(jnp.float32) + 1


@pytest.mark.parametrize('train', [False, True])
def test_a_view_is_seen_as_if_it_were_in_the_batch(train):
  """By the loss, and by BatchNorm: the step is that of both together."""
  options = {'train': train}
  method, plain = (
    method_lib.supervised(_Bare(), optax.sgd(0.1), loss_fn, **options, **views)
    for loss_fn, views in (
      (_mean_of_both, {'views': {'other': _shifted}}),
      (_ce, {}),
    )
  )
  batch = _batch()
  both = {
    'image': np.concatenate([batch['image'], 2 * batch['image'][::-1] + 1]),
    'label': np.concatenate([batch['label']] * 2),
  }
  start = _start(plain)
  state, metrics = _step(method, start, batch=batch)
  expected, of_both = _step(plain, start, batch=both)
  np.testing.assert_allclose(metrics['loss'], of_both['loss'], rtol=1e-5)
  assert abs(float(metrics['other']) - float(metrics['loss'])) > 0.1
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    state.variables,
    expected.variables,
  )
  assert _equal(start.batch_stats, state.batch_stats) == (not train)
  # Of the images themselves, as everywhere, is the accuracy.
  ask = jax.jit(method_lib.frozen_fn(_Bare()))
  alone = np.asarray(ask(start.variables, batch['image']))
  hits = 100 * (alone.argmax(-1) == batch['label']).mean()
  if not train:
    np.testing.assert_allclose(metrics['accuracy'], hits)


def test_a_view_that_a_batch_has_not_changes_nothing():
  def loss_fn(seen):
    assert set(seen.views) == set()
    return _ce(seen)

  views = {'views': {'other': lambda batch: batch.get('other')}}
  method, plain = _supervised(loss_fn, **views), _supervised()
  start = _start(plain)
  state, expected = _step(method, start)[0], _step(plain, start)[0]
  assert _equal(state, expected)


def test_dropout_draws_for_a_view_anew_and_types_are_those_of_the_images():
  def loss_fn(seen):
    differs = seen.logits != seen.views['other']
    assert seen.logits.dtype == seen.views['other'].dtype == jnp.bfloat16
    return _ce(seen)[0], {'differs': jnp.float32(differs.any(-1))}

  class Dropped(nn.Module):
    @nn.compact
    def __call__(self, images, train):
      x = images.reshape(len(images), -1)
      x = nn.Dropout(0.5, deterministic=not train)(x)
      return nn.Dense(10, dtype=x.dtype)(x)

  views = {'other': lambda batch: batch['image'].astype(jnp.float32)}
  image = _batch()['image'].astype(jnp.bfloat16)
  for train in (False, True):
    method = method_lib.supervised(
      Dropped(), optax.sgd(0.1), loss_fn, views=views, train=train
    )
    _, metrics = _step(method, batch={**_batch(), 'image': image})
    assert float(metrics['differs']) == train


# A second group of parameters.


def _with_a_projection(seen_at_init=None):
  """A network whose first layer, projected, is drawn to frozen answers."""

  def init(rng, seen):
    if seen_at_init is not None:
      seen_at_init.append(seen)
    shape = seen.features.shape[-1], seen.answers['other'].shape[-1]
    return {'kernel': jax.random.normal(rng, shape)}

  def loss_fn(seen):
    found = seen.features @ seen.extra['kernel']
    distance = jnp.square(found - seen.answers['other']).sum(-1)
    return _ce(seen)[0] + distance, {'distance': distance}

  return _supervised(
    loss_fn,
    answer_fns={'other': lambda variables, images: images.reshape(16, -1)},
    features_fn=_first_layer,
    extra=method_lib.Extra(init, optax.sgd(1e-4)),
  )


def test_a_second_group_of_parameters_learns_and_is_not_published():
  shown = []
  method = _with_a_projection(shown)
  frozen = {'other': {}}

  @jax.jit
  def init(rng):
    state = method.init(rng, _batch(), frozen)
    return state, (seen := shown[-1]).logits, seen.features, seen.answers

  start, logits, features, answers = jax.device_get(init(jax.random.key(0)))
  assert logits.shape == (16, 10)
  assert features.shape == (16, 4)
  assert answers['other'].shape == (16, 64)
  state, metrics = _step(method, start, frozen)
  images = _batch()['image'].reshape(16, -1)

  def distance(kernel):
    return jnp.square(features @ kernel - images).sum(-1).mean()

  value, grad = jax.device_get(
    jax.jit(jax.value_and_grad(distance))(start.extra['kernel'])
  )
  np.testing.assert_allclose(metrics['distance'], value, rtol=1e-4)
  np.testing.assert_allclose(
    state.extra['kernel'], start.extra['kernel'] - 1e-4 * grad, rtol=1e-4
  )
  assert not _equal(start.params, state.params)
  # It draws on the network, too, and is no part of it.
  plain, _ = _step(_supervised(), start.replace(extra=(), extra_opt_state=()))
  assert not _equal(plain.params['first'], state.params['first'])
  for published in (start.variables, state.variables):
    assert jax.tree.structure(published) == jax.tree.structure(plain.variables)


def test_a_second_group_of_parameters_is_in_the_checkpoint(tmp_path):
  method = _with_a_projection()
  init = functools.partial(method.init, jax.random.key(0), _batch())
  start = jax.jit(init)({'other': {}})
  one_more = jax.jit(lambda extra: jax.tree.map(lambda x: x + 1, extra))
  state = start.replace(extra=one_more(start.extra))
  with checkpoints.Checkpoints(tmp_path) as written:
    written.save(1, state)
    _, again = written.restore(jax.eval_shape(init, {'other': {}}))
  jax.tree.map(np.testing.assert_array_equal, again, state)
  assert jax.tree.leaves(again.extra)


def test_two_devices_draw_on_a_second_group_alike():
  method = _with_a_projection()
  images = _batch()['image'].reshape(16, -1)
  batch = {**_batch(), 'answers': {'other': images}}
  start = jax.jit(method.init)(jax.random.key(0), batch, {})
  one, _ = _step(method, start, batch=batch)
  two, _ = _split_step(method, start, batch)
  np.testing.assert_allclose(
    two.extra['kernel'], one.extra['kernel'], rtol=1e-4, atol=1e-5
  )


def test_dropout_draws_anew_on_each_device():
  """Whose key is the same, so that one drops here what another drops there."""

  def loss_fn(seen):
    # Of two images that are equal, one on either device.
    both = jax.lax.all_gather(seen.logits, 'batch')
    apart = jnp.abs(both[0] - both[1]).sum(-1)
    return _ce(seen)[0], {'apart': apart}

  method = _supervised(loss_fn)
  half = jax.tree.map(lambda x: x[:8], _batch())
  twice = jax.tree.map(lambda x: np.concatenate([x, x]), half)
  _, metrics = _split_step(method, _start(_supervised()), twice)
  assert metrics['apart'] > 0.1


@pytest.mark.parametrize('name', ['cnn8', 'mlp', 'resnetc8'])
def test_features_are_what_the_last_layer_reads(name):
  model = models.get_model(name, 3)
  images = np.float32(np.random.default_rng(0).normal(size=(4, 8, 8, 1)))
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(1), images)
  features = jax.jit(method_lib.features_fn(model))(variables, images)
  features, params = jax.device_get((features, variables['params']))
  last = [v for v in jax.tree.leaves(params) if v.shape[-1:] == (3,)]
  kernel = next(leaf for leaf in last if leaf.ndim == 2)
  bias = next(leaf for leaf in last if leaf.ndim == 1)
  apply = jax.jit(functools.partial(model.apply, train=False))
  logits = apply(variables, images)
  expected = features @ kernel + bias[None]
  if name == 'mlp':  # With its ReLU on the logits.
    expected = np.maximum(expected, 0)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
  assert method_lib.features_fn(model.clone()) is method_lib.features_fn(model)
