"""Recovery: what is undone and what cannot be, and what the thief knows."""

import functools
import types

import bare
import config_files
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from undistillable import defenses, errors, losses, serving
from undistillable.attacks import bayes, d_dae, recovery
from undistillable.graph import plan, programs

KEY = jax.random.key(0)
TRAINED_BESIDE = (
  'adaptive_misinformation',
  'decoy',
  'grad2',
  'modelguard_s',
)


class _Net(nn.Module):
  """Images float[B, H, W, C] -> logits float[B, 4]."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(4)(images.reshape(len(images), -1))


def _images(rows=16, seed=0):
  """Whose pixels are logits, for `bare.Bias`."""
  rng = np.random.default_rng(seed)
  return np.float32(2.0 * rng.normal(size=(rows, 1, 1, 4)))


_posterior_mean = jax.jit(bayes.posterior_mean)


def _softmax(z):
  return scipy.special.softmax(np.asarray(z), axis=-1)


def _restore(variables, q):
  return _softmax(jax.jit(d_dae.Restorer().apply)(variables, q))


def _pairs(images, network=None, **settings):
  """Of scores around those that the images are the logits of."""
  draw = functools.partial(recovery.pairs, recovery.Settings(**settings))
  return jax.jit(draw)(KEY, images[:, 0, 0, :], images, network)


def _served(module, parents=('teacher', 'shadow'), **settings):
  """An attack on a network that is served with what its images say."""
  network = bare.Bias()
  return bare.attack(module, dict.fromkeys(parents, network), **settings)


def _start(method, images, **shifts):
  """Of other networks, each with a bias of its own, by role."""
  frozen = {
    role: {'params': {'bias': np.float32(shift)}}
    for role, shift in shifts.items()
  }
  batch = {'image': images, 'label': np.full(len(images), -1)}
  return jax.jit(method.init)(KEY, batch, frozen)


def _check_scores(scores):
  scores = np.asarray(scores)
  assert np.isfinite(scores).all()
  assert (scores >= 0).all()
  np.testing.assert_allclose(scores.sum(-1), 1.0, atol=1e-5)


def _error(one, other):
  return float(np.abs(np.subtract(one, other)).sum(-1).mean())


# The pairs.


def test_pairs_are_scores_around_their_centres():
  images = _images(4)
  y, q = jax.device_get(_pairs(images, draws=500))
  _check_scores(y)
  np.testing.assert_array_equal(y, q)  # There is no defense.
  means = y.reshape(500, 4, 4).mean(0)
  centres = _softmax(images[:, 0, 0, :])
  # The variance of a score is at most 1/4 / (concentration K + 1).
  np.testing.assert_allclose(means, centres, atol=4 * 0.5 / (33 * 500) ** 0.5)
  close, _ = _pairs(images, draws=20, concentration=1e5)
  np.testing.assert_allclose(np.asarray(close)[:4], centres, atol=0.01)


def test_pairs_of_a_certain_centre_are_finite():
  images = np.float32([[1e4, 0.0, 0.0, 0.0]]).reshape(1, 1, 1, 4)
  y, _ = _pairs(images, draws=3)
  _check_scores(y)
  np.testing.assert_array_equal(np.asarray(y).argmax(-1), 0)


@pytest.mark.parametrize(
  ('defense', 'settings'),
  [('reverse_sigmoid', {'beta': 0.1}), ('top_k', {'k': 2})],
)
def test_an_answer_is_that_of_the_defense(defense, settings):
  images = _images()
  y, q = _pairs(images, draws=4, defense=defense, defense_settings=settings)
  module = defenses.get(defense)

  @jax.jit
  def serve(y):
    query = serving.Query(images, jnp.log(y), {})
    return module.serve(query, module.Settings(**settings))

  expected = _softmax(serve(y))
  np.testing.assert_allclose(q, expected, atol=1e-5)
  assert _error(y, q) > 0.01


@pytest.mark.parametrize('defense', TRAINED_BESIDE)
def test_what_the_owner_trains_beside_the_thief_trains_himself(defense):
  images, network = jnp.asarray(_images(32)), _Net()
  variables = jax.jit(network.init)(KEY, images)
  settings = recovery.Settings(defense=defense, draws=2)

  @jax.jit
  def run(variables):
    shadow = serving.Network(network, variables)
    replica = recovery.replica(settings, optax.sgd(0.1), KEY, shadow, images)
    pairs = recovery.pairs(settings, KEY, shadow(images), images, replica)
    return replica.variables, pairs

  protected, (y, q) = run(variables)
  jax.tree.map(
    np.testing.assert_array_equal, protected['params'], variables['params']
  )
  _check_scores(y)
  _check_scores(q)
  if defense == 'decoy':
    # A gate of his own images lets them in.
    np.testing.assert_allclose(y, q, atol=1e-5)
  else:
    assert _error(y, q) > 0.01
  if defense == 'modelguard_s':
    words = np.exp(protected['book']['words']).reshape(-1, 4)
    near = np.abs(np.asarray(q)[:, None] - words[None]).sum(-1).min(-1)
    np.testing.assert_allclose(near, 0.0, atol=1e-5)


# The ways back.


def test_without_a_defense_bayes_finds_the_answer():
  rng = np.random.default_rng(0)
  y = np.float32(rng.dirichlet(np.ones(3), 5000))
  found = np.asarray(_posterior_mean(y, y, y[:64]))
  _check_scores(found)
  assert np.abs(found - y[:64]).sum(-1).max() <= 0.01 + 1e-6
  assert _error(found, y[1:65]) > 0.1


def test_of_the_top_class_bayes_finds_the_mean_of_its_prior():
  rng = np.random.default_rng(0)
  y = rng.dirichlet(np.ones(3), 500).astype(np.float32)
  top = np.eye(3, dtype=np.float32)
  found = _posterior_mean(y, top[y.argmax(-1)], top)
  expected = [y[y.argmax(-1) == k].mean(0) for k in range(3)]
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bayes_takes_the_nearest_where_none_is_near():
  y = np.float32([[0.1, 0.9], [0.4, 0.6]])
  q = np.float32([[0.5, 0.5], [0.3, 0.7]])
  found = _posterior_mean(y, q, np.float32([[0.45, 0.55]]))
  np.testing.assert_allclose(found, y[:1], atol=1e-6)


def test_a_top_class_that_is_always_kept_is_kept():
  """Also where a pair of another one is nearer."""
  y = np.float32([[0.9, 0.1], [0.1, 0.9]])
  answer = np.float32([[0.52, 0.48]])
  kept = np.float32([[0.9, 0.1], [0.49, 0.51]])
  found = _posterior_mean(y, kept, answer)
  np.testing.assert_allclose(found, y[:1], atol=1e-6)
  swapped = np.float32([[0.1, 0.9], [0.49, 0.51]])
  found = _posterior_mean(y, swapped, answer)
  np.testing.assert_allclose(found, y[1:], atol=1e-6)


@pytest.mark.parametrize(
  ('defense', 'settings'), [('none', {}), ('reverse_sigmoid', {'beta': 0.8})]
)
def test_a_network_learns_the_way_back(defense, settings):
  """Of what can be undone, on scores that it has not learned from."""
  known = {'defense': defense, 'defense_settings': settings}
  y, q = jax.device_get(
    _pairs(_images(), draws=128, concentration=2.0, **known)
  )
  settings = d_dae.Settings(epochs=150, batch_size=256)
  learn = jax.jit(functools.partial(d_dae.train_restorer, settings))
  variables = learn(KEY, y[:1792], q[:1792])
  found = _restore(variables, q[1792:])
  if defense == 'none':
    assert _error(found, y[1792:]) < 0.1
  else:
    assert _error(found, y[1792:]) < 0.5 * _error(q[1792:], y[1792:])


def test_a_restorer_is_as_wide_as_its_classes_need():
  def widths(num_classes):
    init = functools.partial(d_dae.Restorer().init, KEY)
    params = jax.eval_shape(init, jnp.zeros((1, num_classes)))['params']
    return params['fc0']['kernel'].shape[1], params['fc1']['kernel'].shape[1]

  found = [widths(k) for k in (10, 11, 100, 101, 200)]
  assert found == [(128, 64), *2 * [(1024, 512)], *2 * [(2048, 1024)]]


# The attack.

SMALL = {
  bayes: {'draws': 50},
  d_dae: {'draws': 50, 'epochs': 20, 'batch_size': 128},
}


@pytest.mark.parametrize('module', SMALL)
def test_the_student_learns_the_restored_answers(module):
  method = _served(module, defense='reverse_sigmoid', **SMALL[module])
  images = _images()
  state = _start(method, images, shadow=[0.0] * 4)
  withheld = [0.0, 0.0, losses.WITHHELD, losses.WITHHELD]
  answers = np.float32([[0.0] * 4, withheld])
  given = bare.batch(np.zeros((2, 4), np.float32), [-1, -1], teacher=answers)
  after, metrics = jax.jit(method.step)(state, {}, given, KEY)
  biases = (x.student.params['bias'] for x in (state, after))
  gradient = np.subtract(*biases)
  q = _softmax(answers)
  if module is bayes:
    restored = _posterior_mean(state.way_back['y'], state.way_back['q'], q)
  else:
    restored = _restore(state.way_back, q)
  restored = np.asarray(restored)
  _check_scores(restored)
  np.testing.assert_allclose(gradient, 0.25 - restored.mean(0), atol=1e-5)
  assert metrics['moved'] == pytest.approx(_error(restored, q), rel=1e-3)
  jax.tree.map(np.testing.assert_array_equal, after.way_back, state.way_back)


def test_the_honest_prior_is_the_shadow_and_the_oracle_the_owner():
  images = np.zeros((16, 1, 1, 4), np.float32)
  shifts = {'shadow': [4.0, 0, 0, 0], 'clean': [0, 0, 0, 4.0]}
  flat, honest, oracle = (
    np.asarray(
      _start(
        _served(bayes, ('teacher', *roles), draws=50),
        images,
        **{role: shifts[role] for role in roles},
      ).way_back['y']
    ).mean(0)
    for roles in ((), ('shadow',), ('shadow', 'clean'))
  )
  np.testing.assert_allclose(flat, 0.25, atol=0.02)
  expected = _softmax(np.float32(shifts['shadow']))
  np.testing.assert_allclose(honest, expected, atol=0.02)
  np.testing.assert_allclose(oracle, expected[::-1], atol=0.02)


# The plan.


def _plans(name, teacher, seed=0, **changes):
  config = config_files.load('digits')
  small = {'students': ('cnn4',), 'defenses': (teacher,), 'null_teacher': True}
  config.update_from_flattened_dict(small | changes)
  config.attacks = (name,)
  return plan.make(config), plan.Job(config, seed)


@pytest.mark.parametrize('name', ['bayes', 'd_dae'])
def test_the_thief_has_a_shadow_of_the_top_classes_and_asks_once(name):
  planned, job = _plans(name, 'reverse_sigmoid', **{'kd.alpha': 0.5})
  students = [run for run in planned if run.method == name]
  assert {len(run.parents) for run in students if run.robs_nobody} == {1}
  served = job.defend('reverse_sigmoid')[-1]
  shadow, run = job.attack(name, served, 'cnn4')
  assert run in students
  assert shadow in planned
  assert run.parents == {'teacher': served, 'shadow': shadow}
  assert (shadow.role, shadow.settings) == ('helper', {'targets': 'top'})
  assert (shadow.recipe['epochs'], run.recipe['epochs']) == (5, 30)
  assert shadow.parents == {'teacher': served}
  assert run.asks_once and shadow.asks_once
  assert run.settings['defense'] == 'reverse_sigmoid'
  assert run.settings['defense_settings'] == served.settings
  assert run.compared_with['null'].robs_nobody
  assert run.compared_with['null'].settings['defense'] == 'none'
  assert programs.build(run, 64).method.answer_fns.keys() == {'teacher'}


def test_an_oracle_reads_the_owners_network_and_says_so():
  _, job = _plans('bayes', 'modelguard_s', **{'bayes.prior': 'oracle'})
  run = job.attack('bayes', job.defend('modelguard_s')[-1], 'cnn4')[-1]
  assert run.parents['clean'] == job.normal
  assert 'oracle' in bayes.warning({}, run.method_settings)
  unprotected = job.attack('bayes', job.normal, 'cnn4')[-1]
  assert unprotected.parents['clean'] == job.normal
  assert 'clean' not in job.attack('bayes', None, 'cnn4')[-1].parents
  assert bayes.warning({}, bayes.Settings()) is None


@pytest.mark.parametrize('name', ['bayes', 'd_dae'])
def test_what_is_trained_in_has_no_way_back(name):
  for defense in ('nasty', 'cmim', 'label_smoothing'):
    with pytest.raises(
      errors.InputError, match=f'{name}: {defense} is trained'
    ):
      _plans(name, defense)


def test_a_defense_that_reads_other_networks_is_refused():
  module = types.SimpleNamespace(PARENTS=('normal', 'adversary'), serve=None)
  served = types.SimpleNamespace(method='my', shown_method='my', module=module)
  with pytest.raises(ValueError, match='my has PARENTS'):
    bayes.plan(types.SimpleNamespace(student=None), served, 'cnn4')


def test_bad_settings_are_refused():
  for module, changes in (
    (bayes, {'prior': 'owner'}),
    (bayes, {'concentration': 0.0}),
    (bayes, {'draws': 0}),
    (bayes, {'shadow_epochs': 0.5}),
    (d_dae, {'epochs': 0}),
    (d_dae, {'batch_size': 1}),
    (d_dae, {'learning_rate': -1.0}),
    (d_dae, {'draws': -1}),
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      module.Settings(**changes)
