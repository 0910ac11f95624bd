"""DeepInversion: its priors by hand, its gradient, what moves and what not."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry_test

from undistillable import attacks, losses, models, oracle
from undistillable.attacks import batch_norm, deep_inversion
from undistillable.models import layers
from undistillable.training import parallel, train

NUM_IMAGES = 12
LOW, HIGH = (-1.0, -2.0), (2.0, 1.5)
SETTINGS = {
  'num_images': NUM_IMAGES,
  'low': LOW,
  'high': HIGH,
  'total_variation': 0.02,
  'l2': 0.03,
  'batch_norm': 0.5,
  'jitter': 0,
  'flip': False,
}


class Tiny(nn.Module):
  """Our BatchNorm and Flax's, both on the image itself, and a linear layer."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.BatchNorm(use_running_average=not train, name='theirs')(images)
    y = layers.BatchNorm(train, name='ours')(images)
    return nn.Dense(self.num_classes)((x + y).reshape(len(images), -1))


class Flat(nn.Module):
  """A linear layer, without BatchNorm."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(3)(images.reshape(len(images), -1))


def _images(count=6):
  rng = np.random.default_rng(0)
  return np.float32(rng.normal(size=(count, 8, 8, 2)))


def _batch(index=(0, 1, 2, 3, 4, 5), dtype=jnp.float32):
  """What the loop gives: nothing but a shape, a type and an index."""
  if not isinstance(index, jax.Array):
    index = np.array(index)
  return {
    'image': np.zeros((len(index), 8, 8, 2), dtype),
    'label': np.zeros(len(index), np.int32),
    'index': index,
  }


@functools.cache
def _drawn(model, seed):
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(seed), _images())
  return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.25), variables)


def _variables(model, seed=9):
  """Weights, and statistics that are nobody's default."""
  return dict(_drawn(model, seed))


_SGD = optax.sgd(0.5)


def _deep(optimizer=None, model=None, **settings):
  """The method with a tiny teacher, ready to use.

  The same method for the same arguments, which is compiled once.
  """
  model, optimizer = model or Tiny(), optimizer or _SGD
  made = _made(model, optimizer, tuple(sorted(settings.items())))
  return types.SimpleNamespace(**vars(made))


@functools.cache
def _made(model, optimizer, settings):
  settings = dict(settings)
  method = attacks.deep_inversion.make(
    model,
    optimizer,
    attacks.deep_inversion.Settings(**{**SETTINGS, **settings}),
    {'teacher': model},
  )
  return types.SimpleNamespace(
    state=jax.jit(method.init)(jax.random.key(0), _batch(), {}),
    step=jax.jit(method.step),
    frozen={'teacher': _variables(model)},
    method=method,
  )


def _run(deep, steps, key=1, batch=None):
  """The state after some steps, and the metrics of each."""
  state, metrics = deep.state, []
  for k in range(steps):
    rng = jax.random.key(key + k)
    state, found = deep.step(state, deep.frozen, batch or _batch(), rng)
    metrics.append(jax.device_get(found))
  return state, metrics


def test_total_variation_by_hand():
  one = jnp.array([[0.0, 3.0], [0.0, 3.0]]).reshape(1, 2, 2, 1)
  energies = deep_inversion.variation_energies(jnp.concatenate([one, 2 * one]))
  # Horizontal, vertical and both diagonals; norms over both images at once.
  np.testing.assert_allclose(energies, [18 + 72, 0, 9 + 36, 9 + 36])


def test_a_norm_has_no_gradient_where_it_is_zero():
  def variation(images):
    energies = deep_inversion.variation_energies(images)
    return batch_norm.root(energies).sum()

  value, grad = jax.value_and_grad(variation)(jnp.ones((2, 8, 8, 1)))
  assert value == 0
  np.testing.assert_array_equal(grad, 0)
  assert jax.grad(batch_norm.root)(4.0) == 0.25


@jax.jit
def _distance(variables, images):
  _, gaps = batch_norm.read(Tiny(), variables, images)
  return batch_norm.distance(batch_norm.moments(gaps))


def test_batch_norm_prior_by_hand():
  images, variables = _images(), _variables(Tiny())
  mean, var = images.mean((0, 1, 2)), images.var((0, 1, 2))
  stats = {
    'ours': {'mean': mean, 'var': var},
    'theirs': {'mean': mean, 'var': var},
  }
  variables = {**variables, 'batch_stats': stats}
  np.testing.assert_allclose(_distance(variables, images), 0, atol=1e-6)
  stats['ours'] = {
    'mean': mean + np.float32([3.0, -4.0]),
    'var': var + np.float32([5.0, 12.0]),
  }
  # ||(3, -4)|| + ||(5, 12)||: not squared, and no root of the sum of both.
  np.testing.assert_allclose(_distance(variables, images), 5 + 13, rtol=1e-5)
  stats['theirs'] = {'mean': mean, 'var': var + np.float32([0.0, 2.0])}
  np.testing.assert_allclose(_distance(variables, images), 20, rtol=1e-5)


def test_batch_norm_prior_keeps_its_digits_where_the_mean_is_large():
  images, variables = np.float32(100 + 0.1 * _images()), _variables(Tiny())
  exact = np.float64(images)
  mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
  stats = {'mean': np.float32(mean), 'var': np.float32(var)}
  variables['batch_stats'] = {'ours': stats, 'theirs': stats}
  # In float32 E[x^2] - E[x]^2 would be off by several percent of 0.01.
  assert _distance(variables, images) < 1e-4


@pytest.mark.parametrize('name', registry_test.DISTINCT)
def test_every_batch_norm_of_every_model_is_read(name):
  model = registry_test.shrunk(name)
  image = jnp.zeros((2, 8, 8, 3))
  init = functools.partial(model.init, train=False)
  variables = jax.eval_shape(init, jax.random.key(0), image)
  read = functools.partial(batch_norm.read, model)
  logits, gaps = jax.eval_shape(read, variables, image)
  stats = [
    x
    for path, x in jax.tree.leaves_with_path(variables.get('batch_stats', {}))
    if path[-1].key in ('mean', 'var')  # Not the kernel of a whitening.
  ]
  assert 2 * len(gaps) == len(stats)
  assert sorted(x.shape for gap in gaps for x in gap) == sorted(
    x.shape for x in stats
  )
  assert bool(gaps) == (name != 'mlp')
  assert logits.shape == (2, 10)


def test_statistics_over_another_axis_are_refused():
  class First(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      return nn.BatchNorm(use_running_average=True, axis=1)(images)

  variables = jax.jit(First().init)(jax.random.key(0), _images())
  with pytest.raises(ValueError, match='over the last axis'):
    batch_norm.read(First(), variables, _images())


def test_a_step_descends_the_loss_written_as_one_function():
  """Against plain autodiff: the step pools between two halves of a chain."""
  deep = _deep(low=(-99.0, -99.0), high=(99.0, 99.0), cross_entropy=2.0)
  index = np.array([3, 7, 1, 8])
  variables, model = deep.frozen['teacher'], Tiny()
  labels = np.asarray(deep.state.label)[index]

  def loss(images):
    ce = losses.cross_entropy(model.apply(variables, images), labels)
    total = 2.0 * ce.mean() + 0.03 * jnp.linalg.norm(images.ravel())
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
      differences = images - jnp.roll(images, (-dy, -dx), axis=(1, 2))
      inside = differences[:, : 8 - dy, max(0, -dx) : 8 - max(0, dx)]
      total += 0.02 * jnp.linalg.norm(inside.ravel())
    for stats in variables['batch_stats'].values():
      total += 0.5 * jnp.linalg.norm(images.mean((0, 1, 2)) - stats['mean'])
      total += 0.5 * jnp.linalg.norm(images.var((0, 1, 2)) - stats['var'])
    return total

  before = np.asarray(deep.state.image)[index]
  value, grad = jax.jit(jax.value_and_grad(loss))(before)
  state, metrics = _run(deep, 1, batch=_batch(index))
  np.testing.assert_allclose(metrics[0]['loss'], value, rtol=1e-5)
  np.testing.assert_allclose(
    before - np.asarray(state.image)[index],
    0.5 * np.asarray(grad),
    rtol=1e-3,
    atol=1e-6,
  )


def test_only_the_rows_of_the_index_change():
  deep = _deep(optax.adam(0.1))
  chosen = [7, 2, 11]
  state, _ = _run(deep, 2, batch=_batch(chosen))
  others = np.setdiff1d(np.arange(NUM_IMAGES), chosen)
  for before, after in zip(
    *(
      jax.tree.leaves(jax.device_get((one.image, one.opt_state)))
      for one in (deep.state, state)
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(before[others], after[others])
    changed = (before != after).reshape(NUM_IMAGES, -1).any(1)
    np.testing.assert_array_equal(np.flatnonzero(changed), sorted(chosen))
  # An image counts its own updates, so a schedule counts epochs.
  count = np.asarray(state.opt_state[0].count)
  np.testing.assert_array_equal(count[chosen], 2)


def test_images_stay_in_range():
  deep = _deep(optax.sgd(1e3))
  state, _ = _run(deep, 2, batch=_batch(range(NUM_IMAGES)))
  for image in jax.device_get((deep.state.image, state.image)):
    np.testing.assert_array_equal(image.min((0, 1, 2)), LOW)
    np.testing.assert_array_equal(image.max((0, 1, 2)), HIGH)


def test_labels_are_balanced():
  deep = _deep()
  np.testing.assert_array_equal(np.bincount(deep.state.label), [4, 4, 4])
  assert deep.state.image.shape == (NUM_IMAGES, 8, 8, 2)
  images = deep.state.variables['images']
  assert (images['image'].dtype, images['label'].dtype) == ('float32', 'int32')


def test_jitter_and_flip_follow_the_step_and_the_seed():
  still = optax.sgd(0.0)
  count = {
    name: len({float(m['cross_entropy']) for m in _run(deep, 8)[1]})
    for name, deep in {
      'still': _deep(still),
      'flip': _deep(still, flip=True),
      'jitter': _deep(still, jitter=3),
    }.items()
  }
  assert count['still'] == 1
  assert count['flip'] == 2
  assert count['jitter'] > 4

  deep = _deep(jitter=3)
  first, second = (_run(deep, 2, key=key)[0] for key in (1, 1000))
  np.testing.assert_array_equal(first.image, second.image)
  seed = np.asarray(deep.state.seed)
  deep.state = deep.state.replace(seed=seed + np.ones_like(seed))
  assert np.not_equal(_run(deep, 2)[0].image, first.image).any()


def test_a_seed_gives_the_same_images_again():
  init = jax.jit(_deep().method.init)
  first, again, other = jax.device_get(
    [init(jax.random.key(k), _batch(), {}) for k in (0, 0, 1)]
  )
  np.testing.assert_array_equal(first.image, again.image)
  assert first.seed == again.seed
  assert first.seed != other.seed
  assert (first.image != other.image).mean() > 0.5


def test_a_teacher_without_batch_norm_has_a_prior_of_zero():
  deep = _deep(model=Flat())
  _, metrics = _run(deep, 5)
  assert metrics[0]['batch_norm'] == 0
  assert metrics[-1]['cross_entropy'] < metrics[0]['cross_entropy']


def test_bfloat16_networks_make_float32_images():
  model = models.get_model('cnn4', 3, dtype=jnp.bfloat16)
  deep = _deep(optax.adam(0.1), model)
  batch = _batch(dtype=jnp.bfloat16)
  state, metrics = _run(deep, 3, batch=batch)
  assert state.image.dtype == jnp.float32
  assert all(x.dtype == jnp.float32 for x in metrics[-1].values())
  assert np.isfinite([list(m.values()) for m in metrics]).all()
  assert metrics[-1]['loss'] < metrics[0]['loss']


def _adaptive(competition, **settings):
  model = Tiny()
  method = attacks.adaptive_inversion.make(
    model,
    optax.sgd(0.5),
    attacks.adaptive_inversion.Settings(
      **{**SETTINGS, 'l2': 0.0, **settings}, competition=competition
    ),
    {'teacher': model, 'student': Flat()},
  )
  return types.SimpleNamespace(
    state=jax.jit(method.init)(jax.random.key(0), _batch(), {}),
    step=jax.jit(method.step),
    frozen={'teacher': _variables(model), 'student': _variables(Flat(), 4)},
  )


def test_competition_finds_images_on_which_the_student_differs():
  final = {}
  for weight in (0.0, 5.0):
    adaptive = _adaptive(weight)
    _, metrics = _run(adaptive, 20)
    final[weight] = metrics[-1]['competition']
  assert final[5.0] < final[0.0] - 0.01
  _, (metrics,) = _run(adaptive, 1)

  @jax.jit
  def competition(frozen, images):
    logits = [
      model.apply(frozen[role], images)
      for role, model in (('teacher', Tiny()), ('student', Flat()))
    ]
    return 1 - losses.jensen_shannon(*logits, temperature=3.0).mean()

  images = np.asarray(adaptive.state.image)[:6]
  expected = competition(adaptive.frozen, images)
  np.testing.assert_allclose(metrics['competition'], expected, rtol=1e-5)


@pytest.mark.parametrize('make', [_deep, lambda: _adaptive(1.0)])
def test_no_gradient_reaches_a_frozen_network(make):
  deep = make()

  def loss(frozen):
    return deep.step(deep.state, frozen, _batch(), jax.random.key(1))[1]['loss']

  grads = jax.jit(jax.grad(loss))(deep.frozen)
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'num_images': 0}, 'num_images=0'),
    ({'jitter': -1}, 'jitter=-1'),
    ({'batch_norm': -1.0}, 'batch_norm=-1.0'),
    ({'low': (1.0, 1.0), 'high': (2.0, 1.0)}, 'low < high'),
    ({'low': (0.0,)}, 'one value a channel'),
    ({'low': (0.0,), 'high': (1.0,)}, 'images 2 channels'),
  ],
)
def test_impossible_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    _deep(**settings)


@pytest.mark.parametrize(
  'attack', [attacks.deep_inversion, attacks.adaptive_inversion]
)
def test_a_teacher_that_only_answers_is_refused(attack):
  closed = oracle.Oracle(lambda variables, images: images)
  parents = {**dict.fromkeys(attack.PARENTS, Flat()), 'teacher': closed}
  with pytest.raises(ValueError, match='reads the weights'):
    attack.make(Tiny(), optax.sgd(0.1), attack.Settings(**SETTINGS), parents)


@pytest.mark.parametrize(
  ('attack', 'own'),
  [
    (attacks.deep_inversion, {}),
    (attacks.adaptive_inversion, {'competition': 1.0}),
  ],
)
def test_the_defaults_are_those_of_the_article(attack, own):
  """Of the command for CIFAR-10, with the range and the teacher of a test."""
  settings = attack.Settings(num_images=6, low=LOW, high=HIGH)
  assert settings.weights == {
    'cross_entropy': 1.0,
    'total_variation': 2.5e-5,
    'l2': 0.0,
    'batch_norm': 10.0,
    **own,
  }
  assert (settings.jitter, settings.flip) == (2, False)
  parents = dict.fromkeys(attack.PARENTS, Tiny())
  parents['teacher'] = oracle.as_oracle(Tiny())  # Which is open.
  method = attack.make(Tiny(), optax.sgd(0.1), settings, parents)
  frozen = dict.fromkeys(parents, _variables(Tiny()))
  state = jax.jit(method.init)(jax.random.key(0), _batch(), {})
  step = jax.jit(method.step)
  _, metrics = step(state, frozen, _batch(), jax.random.key(1))
  assert np.isfinite(metrics['loss'])


def test_an_epoch_of_the_loop_moves_every_image():
  """Through the training loop's own permutation, over two devices."""
  assert parallel.num_devices() == 2
  method = _deep(optax.sgd(0.5)).method
  start = train.initial_state(
    method, {'label': np.zeros(4)}, lambda a, i, r: _batch(i), jax.random.key(2)
  )
  order = np.random.default_rng(0).permutation(NUM_IMAGES).reshape(3, 2, 2)
  before = np.array(start.image)
  lesson = parallel.Lesson(
    {'teacher': _variables(Tiny())}, {}, order, jax.random.key(0)
  )
  run_epoch = parallel.steps_fn(method, lambda a, i, r: _batch(i))
  (*_, (state, _)) = run_epoch(start, lesson)
  changed = (np.array(state.image) != before).reshape(NUM_IMAGES, -1).any(1)
  assert changed.all()
