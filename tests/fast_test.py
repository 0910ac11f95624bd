"""Fast: its terms by hand, what a batch changes, what is learned of it."""

import functools

import config_files
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from undistillable import errors, losses, oracle
from undistillable.attacks import batch_norm, fast, generators
from undistillable.graph import plan
from undistillable.models import layers
from undistillable.training import optimizers

RNG = jax.random.key(1)
SIZE = 6
TINY = {
  'latent_dim': 4,
  'generator_width': 2,
  'generator_steps': 2,
  'warmup': 2,
  'reset_at': 0,
  'student_steps': 3,
  'augment': 'none',
  'pool': 20,
}
NUMBERS = (
  'adversarial',
  'cross_entropy',
  'generator_learning_rate',
  'latent_learning_rate',
)


class _Net(nn.Module):
  """One layer and one BatchNorm: images -> logits float[B, 3]."""

  @nn.compact
  def __call__(self, images, train=False):
    x = layers.BatchNorm(train, name='bn')(images.reshape(len(images), -1))
    return layers.Dense(3, name='fc')(x)


MODEL = _Net()


def _method(**changes):
  settings = fast.Settings(**{**TINY, **changes})
  return fast.make(MODEL, optax.sgd(0.1), settings, {'teacher': MODEL})


def _batch():
  return {
    'image': np.zeros((SIZE, 4, 4, 1), np.float32),
    'label': np.zeros(SIZE, np.int32),
    'index': np.arange(SIZE),
  }


@functools.cache
def _frozen():
  return {'teacher': jax.jit(MODEL.init)(jax.random.key(9), _batch()['image'])}


@functools.cache
def _compiled(**whole):
  """A step that takes numbers as arguments: compiled once for all of them."""

  def step(numbers, *args):
    return _method(**whole, **numbers).step(*args)

  return jax.jit(step)


@functools.cache
def _start():
  """The first state; none of what is varied here has a say in it."""
  return jax.jit(_method().init)(jax.random.key(0), _batch(), _frozen())


@functools.cache
def _run(steps=1, **changes):
  """[(state, metrics)] before and after each step."""
  numbers = {
    name: changes.pop(name, getattr(fast.Settings(), name)) for name in NUMBERS
  }
  found = [(_start(), {})]
  step = _compiled(**changes)
  for _ in range(steps):
    found.append(step(numbers, found[-1][0], _frozen(), _batch(), RNG))
  return found


def _distance(one, two):
  return sum(
    float(np.abs(np.subtract(x, y)).sum())
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  )


# Its terms.


def test_equal_statistics_are_at_no_distance():
  zero = ((np.zeros(2, np.float32),) * 2,) * 3
  both = jax.jit(jax.value_and_grad(fast.statistics_distance))
  value, grad = both(zero, zero, 0.1)
  assert float(value) == 0.0
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(grad))


def test_batches_before_count_as_much_as_their_momentum():
  new = ((np.float32([10.0, 0.0]), np.float32([0.0, 20.0])),)
  old = ((np.float32([0.0, 4.0]), np.float32([0.0, -1.0])),)
  distance = jax.jit(fast.statistics_distance)
  found = distance(new, old, 0.1)
  assert found == pytest.approx(np.hypot(1.0, 3.6) + (2.0 - 0.9), rel=1e-6)
  gaps = [batch_norm.Gaps(mean, var + mean**2) for mean, var in new]
  alone = distance(new, old, 1.0)
  expected = batch_norm.distance(batch_norm.moments(gaps))
  assert alone == pytest.approx(float(expected), rel=1e-6)


def test_who_agrees_too_well_is_to_be_avoided():
  teacher = np.float32([[3.0, 1.0, -1.0]])
  gap = jax.jit(lambda *logits: fast.agreement_gap(*logits)[0])
  assert float(gap(teacher, teacher)) == 0.0
  other = np.float32([[0.0, 1.0, 0.5]])  # Which names another class.
  assert float(gap(teacher, other)) == 0.0
  like = np.float32([[1.0, 0.0, 0.5]])
  kl = float(jax.jit(losses.kl_divergence)(teacher, like)[0])
  assert float(gap(teacher, like)) == pytest.approx(-kl)
  assert kl > 0.1


# What a batch changes.


def test_the_first_step_makes_more_batches_and_each_one_lesson_more():
  states = [state for state, _ in _run(steps=2)]
  assert [int(state.made) for state in states] == [0, 3, 4]
  assert [int(state.student.step) for state in states] == [0, 3, 6]
  assert [int(state.step) for state in states] == [0, 1, 2]
  assert states[1].pool.count == 3 * SIZE
  images = np.asarray(states[1].pool.kept['image'])
  assert len(np.unique(images[:18].reshape(18, -1), axis=0)) == 18
  assert not images[18:].any()
  # A fourth batch is more than it holds.
  assert np.asarray(states[2].pool.kept['image'])[18:].any()


def test_the_generator_takes_one_update_whatever_its_copies_do():
  """Adam's first one: as large as its rate, of each number."""
  before, after = (
    run[0].generator
    for run in _run(warmup=0, generator_learning_rate=1e-3, adversarial=0.0)
  )
  changes = jax.tree.map(
    lambda x, y: np.abs(x - y).max(),
    *(jax.device_get(one.params) for one in (before, after)),
  )
  largest = max(jax.tree.leaves(changes))
  assert largest == pytest.approx(2 * 1e-3, rel=1e-2)
  (adam, *_) = after.opt_state
  assert adam.count == 1
  jax.tree.map(
    np.testing.assert_array_equal, before.batch_stats, after.batch_stats
  )


def test_its_gradient_is_the_sum_of_those_of_the_copy():
  """Twice that of one step, where both are too small to move the copy."""
  still = {
    'warmup': 0,
    'generator_learning_rate': 1e-12,
    'latent_learning_rate': 1e-12,
  }

  def mu(generator_steps):
    state, _ = _run(generator_steps=generator_steps, **still)[1]
    (adam, *_) = state.generator.opt_state
    return adam.mu

  one, two = jax.device_get((mu(1), mu(2)))
  assert _distance(one, jax.tree.map(np.zeros_like, one)) > 1e-3
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(2 * x, y, rtol=1e-3, atol=1e-4),
    one,
    two,
  )


def test_a_batch_comes_closer_to_what_it_shall_be():
  """With more updates, and by either of what they change."""
  few = {'warmup': 0, 'adversarial': 0.0, 'cross_entropy': 0.0}
  start = _run(**few, generator_steps=1)[1][1]['batch_norm']
  for rates in (
    {'generator_learning_rate': 0.01, 'latent_learning_rate': 1e-9},
    {'generator_learning_rate': 1e-9, 'latent_learning_rate': 0.05},
  ):
    end = _run(**few, **rates, generator_steps=30)[1][1]['batch_norm']
    assert float(end) < 0.97 * float(start)


def test_the_student_is_not_asked_before_his_first_lesson():
  """And is from then on: what is made depends on him."""
  one, other = (
    _run(steps=2, adversarial=weight, student_steps=1) for weight in (0.0, 50.0)
  )
  made = [
    [np.asarray(run[0].pool.kept['image']) for run in runs[1:]]
    for runs in (one, other)
  ]
  np.testing.assert_array_equal(made[0][0][:12], made[1][0][:12])
  assert (made[0][1] != made[1][1]).any()


def test_the_first_layer_is_drawn_anew_in_time():
  runs = {at: _run(steps=2, warmup=0, reset_at=at) for at in (0, 2)}
  first, second = (
    _distance(
      runs[0][step][0].generator.params['fc'],
      runs[2][step][0].generator.params['fc'],
    )
    for step in (1, 2)
  )
  assert first < 1e-3  # But for the rounding of another program.
  assert second > 0.1
  bias = runs[2][2][0].generator.params['fc']['bias']
  assert np.abs(bias).max() < 0.01  # One update away from 0.


def test_images_are_bytes_in_the_range_of_the_data():
  share = np.float32([0, 51, 255]).reshape(1, 1, 3, 1) / 255
  seen = generators.stretch(share, (-1.0,), (4.0,))
  np.testing.assert_allclose(np.ravel(seen), [-1.0, 0.0, 4.0], atol=1e-6)
  images = np.asarray(_run()[1][0].pool.kept['image'])[:18]
  assert images.dtype == np.uint8
  assert len(np.unique(images)) > 20


# The plan.


def _planned(**changes):
  config = config_files.load('digits')
  config.attacks, config.seeds, config.students = ('fast',), (0,), ('cnn8',)
  config.null_teacher = True
  config.update_from_flattened_dict(changes)
  return [run for run in plan.make(config) if run.method == 'fast']


def test_the_plan_knows_the_range_and_refuses_a_small_pool():
  runs = _planned()
  assert len(runs) == 2  # Of the normal and the nasty teacher; none of nobody.
  for run in runs:
    low, high = run.settings['low'], run.settings['high']
    assert low[0] < 0 < high[0] != 2.0
    assert run.num_made == 128
    assert run.access == 'weights'
  with pytest.raises(errors.InputError, match='pool=127 holds less'):
    _planned(**{'fast.pool': 127})


@pytest.mark.parametrize('name', ['cifar10', 'cifar100', 'tiny_imagenet'])
def test_the_student_of_the_articles_data_learns_as_released(name):
  """Whoever he is, and in nothing as his model does by itself."""
  config = config_files.load(name, 'article')
  for student in (*config.students, 'airbench94'):
    recipe = plan.recipe_of(config, student, 'fast')
    assert recipe['optimizer'] == 'sgd'
    assert (recipe['momentum'], recipe['weight_decay']) == (0.9, 1e-4)
    assert recipe['groups'] == ()
    assert (recipe['epochs'], recipe['batch_size']) == (200, 256)
    rate = optimizers.get_schedule(
      recipe['schedule'],
      learning_rate=recipe['learning_rate'],
      epochs=recipe['epochs'],
      steps_per_epoch=400,
      gamma=recipe['gamma'],
      warmup_epochs=recipe['warmup_epochs'],
    )
    found = [float(rate(step)) for step in (0, 40_000, 80_000)]
    assert found == pytest.approx([0.2, 0.1001, 2e-4], rel=1e-4)


@pytest.mark.parametrize(
  'given', [('digits',), ('cifar10', 'fast'), ('cifar100', 'fast')]
)
def test_on_two_cores_he_learns_as_his_model_does(given):
  """As recorded: by Adam, or at whatever rate."""
  config = config_files.load(*given)
  for student in (*config.students, 'resnetc8', 'airbench94'):
    found, own = (
      plan.recipe_of(config, student, method) for method in ('fast', 'none')
    )
    changed = {k for k in own if found[k] != own[k]}
    length = {'epochs', 'steps_per_epoch', 'batch_size', 'warmup_epochs'}
    assert changed <= {'schedule', 'checkpoint_every_epochs'} | length
    assert found['schedule'] == 'cosine'


def test_it_needs_the_weights():
  door = oracle.Oracle(lambda variables, images: images)
  with pytest.raises(ValueError, match='reads the weights'):
    fast.make(MODEL, optax.sgd(0.1), fast.Settings(), {'teacher': door})


def test_bad_settings_are_refused():
  for changes in (
    {'momentum': 1.5},
    {'generator_steps': 0},
    {'augment': 'blur'},
    {'adversarial': -1.0},
    {'temperature': 0.0},
    {'pool': 0},
  ):
    with pytest.raises(ValueError, match=next(iter(changes))[:5]):
      fast.Settings(**changes)
