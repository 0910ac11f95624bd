"""Defenses: known answers, neutral settings, what they leave as it was."""

import functools

import config_files
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from undistillable import attacks, defenses, losses, models, serving
from undistillable.defenses import (
  label_smoothing,
  nasty,
  nasty_head,
  none,
  reverse_sigmoid,
  stingy,
)
from undistillable.graph import execute, plan as plan_lib, store as store_lib
from undistillable.training import checkpoints, evaluate, optimizers

S = np.float32([[1.0, 0.0, 0.5]])
SERVED = [stingy, reverse_sigmoid]
RATIOS = (0.0, 0.1, 0.25, 0.5, 1.0)


@functools.cache
def _serve_fn(module, several):
  """What is served with each of the settings, of one program."""

  def serve(logits):
    query = serving.Query(jnp.zeros((len(logits), 8, 8, 1)), logits, {})
    return [module.serve(query, settings) for settings in several]

  return jax.jit(serve)


def _serve(module, logits, **settings):
  fn = _serve_fn(module, (module.Settings(**settings),))
  return np.asarray(fn(np.float32(logits))[0])


def _stingy(logits, ratios):
  fn = _serve_fn(stingy, tuple(map(stingy.Settings, ratios)))
  return [np.asarray(served) for served in fn(logits)]


def _logits(rows=64, classes=10, scale=3.0):
  rng = np.random.default_rng(0)
  return np.float32(scale * rng.normal(size=(rows, classes)))


@pytest.mark.parametrize('classes', [2, 3, 10, 100])
@pytest.mark.parametrize('ratio', RATIOS)
def test_stingy_serves_the_largest_as_they_are(classes, ratio):
  logits = _logits(classes=classes)
  served = _stingy(logits, RATIOS)[RATIOS.index(ratio)]
  number = max(1, int(ratio * classes))
  kept = served != losses.WITHHELD
  assert (kept.sum(-1) == number).all()
  np.testing.assert_array_equal(served[kept], logits[kept])
  smallest = np.where(kept, logits, np.inf).min(-1)
  largest = np.where(kept, -np.inf, logits).max(-1)
  assert (smallest > largest).all()
  np.testing.assert_array_equal(served.argmax(-1), logits.argmax(-1))


def test_stingy_counts_shares_as_they_are_written():
  """0.29 of 100 is 28.999999999999996 to a computer."""
  wrong = [n for n in range(1, 101) if int(n / 100 * 100) != n]
  assert 29 in wrong
  numbers = (1, 28, 30, 100, *wrong)
  logits = _logits(classes=100)
  for number, served in zip(
    numbers, _stingy(logits, [n / 100 for n in numbers]), strict=True
  ):
    assert (served != losses.WITHHELD).sum(-1).tolist() == [number] * len(
      served
    )


def test_of_equal_scores_stingy_serves_the_first():
  served = _serve(stingy, [[1.0, 2.0, 1.0, 1.0]], ratio=0.5)
  expected = [[1.0, 2.0, losses.WITHHELD, losses.WITHHELD]]
  np.testing.assert_array_equal(served, expected)


@jax.jit
def _kd(student, served, labels, temperature):
  """The losses of students, and the gradient of their sum."""

  def total(student):
    loss = losses.distillation(
      student, served, labels, temperature=temperature, alpha=1.0
    )
    return loss.sum(), loss

  grad, loss = jax.grad(total, has_aux=True)(student)
  return loss, grad


@pytest.mark.parametrize('temperature', [1.0, 4.0, 20.0, 1000.0])
def test_a_student_of_a_stingy_teacher_has_finite_losses(temperature):
  teacher, student = 10 * _logits(), _logits()[::-1]
  served, labels = _serve(stingy, teacher), teacher.argmax(-1)
  loss, grad = _kd(student, served, labels, temperature)
  assert np.isfinite(grad).all()
  # By hand, over the two classes that are served.
  places = np.argsort(-teacher)[:, :2]
  two = np.take_along_axis(np.float64(teacher), places, axis=-1) / temperature
  log_p = scipy.special.log_softmax(two, axis=-1)
  log_q = scipy.special.log_softmax(np.float64(student) / temperature, axis=-1)
  log_q = np.take_along_axis(log_q, places, axis=-1)
  expected = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1)
  np.testing.assert_allclose(loss, expected, rtol=1e-3)


@pytest.mark.parametrize('scale', [1.0, 10.0, 100.0])
def test_reverse_sigmoid_is_its_equation_at_any_confidence(scale):
  logits = _logits(scale=scale)
  log_y = scipy.special.log_softmax(np.float64(logits), axis=-1)
  others = np.where(np.eye(10, dtype=bool), -np.inf, log_y[:, None, :])
  logit = log_y - scipy.special.logsumexp(others, axis=-1)
  limit = np.log((1 - 1e-9) / 1e-9)
  s = scipy.special.expit(0.3 * np.clip(logit, -limit, limit))
  q = np.exp(log_y) - 0.5 * (s - 0.5)
  served = _serve(reverse_sigmoid, logits, beta=0.5, gamma=0.3)
  np.testing.assert_allclose(
    np.exp(served), q / q.sum(-1, keepdims=True), rtol=1e-4
  )


def test_reverse_sigmoid_of_two_classes_needs_no_normalisation():
  logits = _logits(classes=2)
  y = scipy.special.softmax(np.float64(logits), axis=-1)
  s = scipy.special.expit(0.2 * np.log(y / (1 - y)))
  served = np.exp(_serve(reverse_sigmoid, logits))
  np.testing.assert_allclose(served, y - 0.21 * (s - 0.5), rtol=1e-5)
  half = _serve(reverse_sigmoid, np.zeros((1, 2)), beta=1.0, gamma=5.0)
  np.testing.assert_allclose(np.exp(half), [[0.5, 0.5]], rtol=1e-6)


def test_reverse_sigmoid_withholds_what_is_zero():
  # All of it is perturbed away at beta 4; without gamma nothing is.
  beyond = _serve(reverse_sigmoid, [[9.0, 0, 0]], beta=4.0)
  assert beyond[0, 0] == losses.WITHHELD
  np.testing.assert_allclose(np.exp(beyond[0, 1:]), [0.5, 0.5], rtol=1e-5)
  zero = _serve(reverse_sigmoid, [[1e4, 0, 0]], gamma=0.0)
  np.testing.assert_array_equal(zero, [[0.0, *[losses.WITHHELD] * 2]])


def test_label_smoothing_by_hand():
  label = np.array([0])

  @jax.jit
  def found(z):
    smooth = functools.partial(losses.label_smoothing, labels=label)
    grad = jax.grad(lambda z: smooth(z, epsilon=0.3).sum())(z)
    values = [smooth(z, epsilon=epsilon) for epsilon in (0.1, 0.0, 1.0)]
    return *values, losses.cross_entropy(z, label), grad

  some, none_, whole, plain, grad = found(S)
  np.testing.assert_allclose(some, [0.730270], atol=1e-5)
  np.testing.assert_array_equal(none_, plain)
  to_uniform = -scipy.special.log_softmax(np.float64(S), axis=-1).mean(-1)
  np.testing.assert_allclose(whole, to_uniform, rtol=1e-6)
  expected = scipy.special.softmax(S, axis=-1) - [[0.8, 0.1, 0.1]]
  np.testing.assert_allclose(grad, expected, atol=1e-6)


class _Net(nn.Module):
  """What a network can be made of: BatchNorm, and names of no meaning."""

  width: int = 6

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(self.width, name='b')(images.reshape(len(images), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(10, name='a')(x)


def _batch(size=12):
  rng = np.random.default_rng(1)
  return {
    'image': rng.normal(size=(size, 8, 8, 1)).astype(np.float32),
    'label': np.arange(size) % 10,
  }


@functools.cache
def _adversary():
  """Variables, with statistics of their own, in a dict by role."""
  method = none.make(_Net(), optax.sgd(0.1))
  key = jax.random.key(0)
  state = jax.jit(method.init)(key, _batch(), {})
  state, _ = jax.jit(method.step)(state, {}, _batch(), key)
  return {'adversary': state.variables}


def _trained(method, steps=2, step_fn=None):
  """The states before and after some steps."""
  key, frozen = jax.random.key(1), _adversary()
  before = state = jax.jit(method.init)(key, _batch(), frozen)
  step = step_fn or jax.jit(method.step)
  for _ in range(steps):
    state, metrics = step(state, frozen, _batch(), key)
    assert np.isfinite(metrics['loss']).all()
  return before, state


def _head(optimizer=None, **settings):
  return nasty_head.make(
    _Net(),
    optimizer or optax.sgd(0.1),
    nasty_head.Settings(**settings),
    {'adversary': _Net()},
  )


def test_without_epsilon_label_smoothing_is_no_defense():
  optimizer = optax.sgd(0.1)
  _, plain = _trained(none.make(_Net(), optimizer))
  settings = [label_smoothing.Settings(epsilon) for epsilon in (0.0, 0.3)]
  for module in (defenses.get('label_smoothing'), attacks.label_smoothing):
    same, other = (
      _trained(module.make(_Net(), optimizer, s, {}))[1] for s in settings
    )
    for x, y in zip(*map(jax.tree.leaves, (same, plain)), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    biases = [np.asarray(x.params['a']['bias']) for x in (same, other)]
    assert (biases[0] != biases[1]).any()


@functools.partial(jax.jit, static_argnames=('omega', 'temperature'))
def _conditions_fn(z, adversary, labels, **settings):
  return nasty.conditions(z, adversary, labels, **settings)


def _conditions(z, adversary, labels, **settings):
  found = _conditions_fn(
    np.float32(z), np.float32(adversary), np.array(labels), **settings
  )
  return {name: np.asarray(value) for name, value in found.items()}


def test_the_conditions_of_a_nasty_teacher_by_hand():
  log = np.log
  # At tau 2 the adversary's scores are 4/6, 1/6, 1/6.
  adversary = [[2 * log(4.0), 0.0, 0.0]]
  found = _conditions(
    [[1.0, 4.0, 4.0]], adversary, [0], omega=0.5, temperature=2.0
  )
  assert found['gap'] == pytest.approx(1.5)  # 4 less the mean of 1 and 4.
  assert found['peaks'] == 2
  assert found['adversary_gap'] == pytest.approx(2 * log(4.0))
  assert found['adversary_loss'] == pytest.approx(-log(16 / 18))
  assert found['hold'] == pytest.approx(1 - (256 + 2) / 18**2)
  assert found['push'] == pytest.approx(0.5 * (1 - (16 + 2) / 36))
  divergence = -log(3.0) - (log(4 / 6) + 2 * log(1 / 6)) / 3
  assert found['pull'] == pytest.approx(0.5 * 4 * divergence, rel=1e-5)
  # Where the adversary is wrong, its gap is negative.
  wrong = _conditions(adversary, adversary, [1], omega=0.5, temperature=2.0)
  assert wrong['adversary_gap'] == pytest.approx(-log(4.0))
  assert wrong['kl'] == 0


_CURVED = {'omega': 0.3, 'temperature': 4.0}


@jax.jit
@jax.vmap
@jax.hessian
def _hessian(z, adversary, label):
  return losses.self_undermining(z, adversary, label, **_CURVED)


@pytest.mark.parametrize('scale', [1.0, 4.0])
def test_hold_and_push_are_the_curvature_of_the_loss_beside_the_adversary(
  scale,
):
  z, labels, settings = _logits(8, 5, scale), np.arange(8) % 5, _CURVED
  found = _conditions(z, z, labels, **settings)
  np.testing.assert_allclose(
    found['hold'] - found['push'],
    np.trace(_hessian(z, z, labels), axis1=1, axis2=2),
    rtol=1e-3,
    atol=1e-5,
  )


def test_an_adversary_that_is_not_sure_is_told_from_one_that_is():
  labels = np.arange(8) % 5
  for gap, nasty_at_last in ((2.0, False), (12.0, True)):
    adversary = gap * np.eye(5)[labels]
    metrics = _conditions(
      adversary, adversary, labels, omega=0.04, temperature=4.0
    )
    metrics = {name: float(value.mean()) for name, value in metrics.items()}
    text = nasty.warning(metrics, nasty.Settings(omega=0.04))
    assert (text is None) == nasty_at_last
  settings = nasty.Settings(temperature=4.0)
  unsure = {
    'hold': 0.2,
    'push': 0.05,
    'adversary_loss': 0.31,
    'omega': 0.04,
    'pull': 0.34,
    'kl': 0.04,  # An undecided teacher has 0.53.
  }
  text = nasty.warning(unsure, settings)
  assert 'cross entropy 0.31' in text
  assert 'omega from 0.04 towards 0.16' in text
  assert nasty.warning(unsure | {'kl': 0.46}, settings) is None  # It left.
  assert nasty.warning(unsure | {'omega': 0.0}, settings) is None


def test_a_last_layer_that_stays_says_so():
  """Also where nothing holds it, as beside an adversary that is sure."""
  settings = nasty_head.Settings(omega=0.004, temperature=4.0)
  stayed = {
    'hold': 0.002,
    'push': 0.002,
    'adversary_loss': 0.001,
    'omega': 0.004,
    'pull': 0.04,
    'kl': 0.011,
  }
  assert nasty.warning(stayed, settings) is None
  assert 'raise omega from 0.004' in nasty_head.warning(stayed, settings)
  assert nasty_head.warning(stayed | {'omega': 0.0}, settings) is None
  assert nasty_head.warning(stayed | {'kl': 0.07}, settings) is None  # It left.
  unsure = stayed | {'hold': 0.2, 'push': 0.05}
  assert nasty_head.warning(unsure, settings) == nasty.warning(unsure, settings)


@functools.cache
def _nasty(module, **settings):
  """Of a small network, after three steps: state and metrics."""
  model = _Net()
  method = module.make(
    model, optax.sgd(0.05), module.Settings(**settings), {'adversary': model}
  )
  rng = np.random.default_rng(0)
  batch = {
    'image': np.float32(rng.normal(size=(32, 8, 8, 1))),
    'label': np.arange(32) % 10,
  }
  adversary = jax.jit(model.init)(jax.random.key(9), batch['image'])
  # As sure as one that has learned.
  params = jax.tree.map(lambda x: 3 * np.asarray(x), adversary['params'])
  frozen = {'adversary': {**adversary, 'params': params}}
  state = jax.jit(method.init)(jax.random.key(0), batch, frozen)
  step = jax.jit(method.step)
  for i in range(3):
    state, metrics = step(state, frozen, batch, jax.random.key(i))
  return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize('module', [nasty, nasty_head])
def test_a_balance_chooses_the_omega_that_gives_it(module):
  _, metrics = _nasty(module, balance=2.5, temperature=8.0)
  assert metrics['push'] / metrics['hold'] == pytest.approx(2.5, rel=1e-4)
  # And then learns as with that omega.
  state, _ = _nasty(module, balance=2.5, temperature=8.0)
  given, same = _nasty(module, omega=metrics['omega'], temperature=8.0)
  assert same['omega'] == pytest.approx(metrics['omega'], rel=1e-6)
  assert metrics['omega'] > 0.01
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    state.variables,
    given.variables,
  )
  assert given.extra == ()


@pytest.mark.parametrize('module', [nasty, nasty_head])
def test_the_remedy_is_the_setting_that_counts(module):
  name = module.__name__.rsplit('.', 1)[-1]
  plain, balanced = (module.Settings(balance=b) for b in (0.0, 2.5))
  assert module.remedy(plain) == f'lower {name}.omega (now 0.004)'
  assert module.remedy(balanced) == f'lower {name}.balance (now 2.5)'


@pytest.mark.parametrize('optimizer', ['adam', 'sgd'])
@pytest.mark.parametrize('devices', [1, 3])
def test_a_nasty_head_leaves_all_else_bit_for_bit(optimizer, devices):
  method = _head(
    optimizers.get_optimizer(optimizer, 0.1, momentum=0.9, weight_decay=0.1)
  )

  def on_many(state, frozen, batch, key):
    """A share of the batch each: the mean of three is no exact one."""
    step = functools.partial(method.step, axis_name='batch')
    step = jax.vmap(step, in_axes=(0, None, 0, None), axis_name='batch')
    parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    copies = jax.tree.map(lambda x: jnp.stack([x] * devices), state)
    new = step(copies, frozen, parts, key)
    return jax.tree.map(lambda x: x[0], new)

  step_fn = jax.jit(on_many) if devices > 1 else None
  before, after = _trained(method, steps=3, step_fn=step_fn)
  start = _adversary()['adversary']
  for state in (before, after):
    for name in ('b', 'BatchNorm_0'):
      jax.tree.map(
        np.testing.assert_array_equal, state.params[name], start['params'][name]
      )
    jax.tree.map(
      np.testing.assert_array_equal, state.batch_stats, start['batch_stats']
    )
  assert np.any(np.asarray(start['batch_stats']['BatchNorm_0']['mean']))
  moved = jax.tree.map(
    lambda x, y: np.abs(np.subtract(x, y)).max() > 1e-2,
    before.params,
    after.params,
  )
  assert all(jax.tree.leaves(moved['a']))


def test_a_nasty_head_starts_from_its_adversary():
  start = _adversary()['adversary']['params']
  same, _ = _trained(_head(noise=0.0), steps=0)
  jax.tree.map(np.testing.assert_array_equal, same.params, start)
  near, _ = _trained(_head(noise=0.01), steps=0)
  kernel = np.subtract(near.params['a']['kernel'], start['a']['kernel'])
  assert 0.007 < kernel.std() < 0.013


def test_the_divergence_of_a_nasty_head_needs_noise_to_start():
  def after(omega, noise):
    method = _head(omega=omega, noise=noise)
    return np.asarray(_trained(method, steps=1)[1].params['a']['kernel'])

  np.testing.assert_allclose(after(1.0, 0.0), after(0.0, 0.0), atol=1e-6)
  assert np.abs(after(1.0, 0.1) - after(0.0, 0.1)).max() > 1e-4


def test_a_nasty_head_moves_away_from_its_adversary():
  @jax.jit
  def divergence(variables):
    teacher, adversary = (
      _Net().apply(one, _batch()['image'])
      for one in (variables, _adversary()['adversary'])
    )
    return losses.kl_divergence(teacher, adversary, temperature=4.0).mean()

  states = [_trained(_head(omega=x), steps=20)[1] for x in (2.0, 0.0)]
  far, near = (float(divergence(state.variables)) for state in states)
  assert far > 2 * near


def test_a_step_of_a_nasty_head_reads_answers_that_are_there():
  method = _head()
  before, _ = _trained(method, steps=0)
  (role,) = method.answer_fns
  ask = jax.jit(method.answer_fns[role])
  answers = ask(_adversary()[role], _batch()['image'])
  key, step = jax.random.key(1), jax.jit(method.step)
  _, given = step(before, {}, _batch() | {'answers': {role: answers}}, key)
  _, asked = step(before, _adversary(), _batch(), key)
  np.testing.assert_allclose(given['loss'], asked['loss'], rtol=1e-5)


def test_the_state_of_a_nasty_head_can_be_saved(tmp_path):
  before, after = _trained(_head(optax.adam(0.1)))
  with checkpoints.Checkpoints(tmp_path) as kept:
    kept.save(1, after)
    _, restored = kept.restore(before)
  jax.tree.map(np.testing.assert_array_equal, restored, after)


def test_a_nasty_head_needs_the_architecture_of_its_adversary():
  with pytest.raises(ValueError, match='another architecture'):
    nasty_head.make(
      _Net(),
      optax.sgd(0.1),
      nasty_head.Settings(),
      {'adversary': _Net(width=7)},
    )


class _Setup(nn.Module):
  """Layers are declared in another order than they are called in."""

  def setup(self):
    self.last = nn.Dense(10)
    self.first = nn.Dense(4)
    self.unused = nn.Dense(3)

  def __call__(self, images, train=False):
    return self.last(nn.relu(self.first(images.reshape(len(images), -1))))


class _Scaled(nn.Module):
  """A layer with a parameter of its own and an inner one."""

  @nn.compact
  def __call__(self, x):
    return self.param('scale', nn.initializers.ones, ()) * nn.Dense(10)(x)


class _Deep(nn.Module):
  """The last layer is an inner one of the last."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(10, name='last')(nn.relu(nn.Dense(5)(x)))


class _Lifted(nn.Module):
  """The last layer is within a transformed one; one without parameters ends."""

  lift: object

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(4)(images.reshape(len(images), -1))
    x = self.lift(_Deep)(name='deep')(x)
    return nn.Dropout(0.5, deterministic=not train)(x)


class _Rooted(nn.Module):
  """A parameter of the network itself is in no layer."""

  @nn.compact
  def __call__(self, images, train=False):
    x = _Scaled()(images.reshape(len(images), -1))
    return x / self.param('temperature', nn.initializers.ones, ())


@pytest.mark.parametrize(
  ('model', 'layer'),
  [
    (_Net(), ['a']),
    (_Setup(), ['last']),
    (_Rooted(), ['_Scaled_0', 'Dense_0']),
    (_Lifted(lambda module: module), ['deep', 'last']),
    (_Lifted(nn.remat), ['deep', 'last']),
    (_Lifted(nn.jit), ['deep', 'last']),
    (models.get_model('mobilenetv2', 10), ['conv2']),
    (models.get_model('resnext29', 10), ['classifier']),
  ],
)
def test_the_last_layer_is_found_whatever_it_is_called(model, layer):
  images = jnp.zeros((1, 8, 8, 1))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  for _ in range(2):  # What is traced is kept, and not traced again.
    found = nasty_head.last_layer(model, variables, images)
    heads = {
      tuple(key.key for key in path[:-1])
      for path, is_head in jax.tree_util.tree_leaves_with_path(found)
      if is_head
    }
    assert heads == {tuple(layer)}


class _Bare(nn.Module):
  @nn.compact
  def __call__(self, images, train=False):
    shape = (images[0].size, 10)
    kernel = self.param('kernel', nn.initializers.zeros, shape)
    return images.reshape(len(images), -1) @ kernel


def test_a_network_without_layers_has_no_last_one():
  images = jnp.zeros((1, 8, 8, 1))
  variables = jax.eval_shape(_Bare().init, jax.random.key(0), images)
  with pytest.raises(ValueError, match='no inner module of _Bare'):
    nasty_head.last_layer(_Bare(), variables, images)


@pytest.mark.parametrize(
  ('module', 'settings'),
  [
    (label_smoothing, {'epsilon': 1.1}),
    (nasty_head, {'noise': -1.0}),
    (nasty_head, {'omega': -1.0}),
  ],
)
def test_impossible_settings_are_named(module, settings):
  (name,) = settings
  with pytest.raises(ValueError, match=f'{name}='):
    module.Settings(**settings)


def _config(**changes):
  """The config of digits, shrunk to seconds."""
  small = {
    'teacher.model': 'mlp',
    'students': ('mlp',),
    'seeds': (0,),
    'recipe.batch_size': 32,
    'recipe.epochs': 4,
    'recipe.checkpoint_every_epochs': 4,
    'limit': 200,
    'defenses': ('stingy', 'reverse_sigmoid', 'label_smoothing', 'nasty_head'),
    'attacks': ('kd', 'label_smoothing'),
  }
  return plan_lib.vary(config_files.load('digits'), small | changes)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """Every run of a graph, by method and teacher; what it came to; the store."""
  config = _config()
  store = store_lib.Store(tmp_path_factory.mktemp('study'))
  runs, results = {}, {}
  for group in execute.groups(plan_lib.make(config), config.together):
    for run, result in zip(group, execute.run_group(group, store), strict=True):
      teacher = run.parents.get('teacher')
      key = run.role, run.method, teacher and teacher.method
      runs[key], results[key] = run, result
  return runs, results, store


@pytest.mark.whole
def test_the_whole_graph_is_finished(done):
  runs, results, _ = done
  names = ('stingy', 'reverse_sigmoid', 'label_smoothing', 'nasty_head', 'none')
  assert set(runs) == {
    *(('teacher', name, None) for name in names),
    *(('student', 'kd', name) for name in names),
    ('student', 'label_smoothing', None),
    ('student', 'scratch', None),
  }
  assert {result['status'] for result in results.values()} == {'finished'}
  normal = runs['teacher', 'none', None]
  for (role, method, teacher), run in runs.items():
    if role == 'teacher' and method != 'none':
      assert run.compared_with == {'normal': normal}
    if teacher and teacher != 'none':
      twin = runs['student', 'kd', 'none']
      assert run.compared_with['normal'] == twin


@pytest.mark.whole
@pytest.mark.parametrize('module', SERVED)
def test_a_served_teacher_is_judged_as_served_and_not_trained(done, module):
  runs, results, store = done
  key = 'teacher', module.__name__.rsplit('.', 1)[-1], None
  run, result = runs[key], results[key]
  assert store.num_steps(run) == result['epochs'] == 0
  names = {path.name for path in store.folder(run).iterdir()}
  assert names == {'SHA256SUMS', 'config.json', 'result.json'}
  test = store.task(run.judged_on).test
  normal = store.answers(runs['teacher', 'none', None], test)
  served = _serve(module, normal)
  expected = evaluate.scores(served, test['label'])
  assert result['test_accuracy'] == pytest.approx(expected['accuracy'])
  assert result['test_nll'] == pytest.approx(expected['nll'], rel=1e-4)
  plain = results['teacher', 'none', None]
  assert result['test_nll'] != pytest.approx(plain['test_nll'], rel=1e-3)
  # And so it is what a student hears, and is compared with.
  student = runs['student', 'kd', key[1]]
  kl = evaluate.fidelity(store.answers(student, test), served)['kl']
  found = results['student', 'kd', key[1]]['test_teacher_kl']
  assert found == pytest.approx(kl, rel=1e-3)


@pytest.mark.whole
def test_a_nasty_head_of_the_graph_is_the_normal_teacher_but_for_its_head(done):
  runs, _, store = done
  normal, nasty = (
    store.variables(runs['teacher', name, None])
    for name in ('none', 'nasty_head')
  )
  same = jax.tree.map(
    lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), normal, nasty
  )
  assert not any(jax.tree.leaves(same['params'].pop('fc3')))
  assert all(jax.tree.leaves(same))


def test_another_adversary_than_the_teacher_is_refused_in_the_plan():
  config = _config(**{'adversary.model': 'cnn16', 'defenses': ('nasty_head',)})
  with pytest.raises(ValueError, match='another architecture'):
    plan_lib.make(config)
