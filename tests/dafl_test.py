"""DAFL: its three terms by hand, the quirks of its code, who learns of whom."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import registry_test
import scipy.special

from undistillable import oracle
from undistillable.attacks import dafl, generators
from undistillable.models import generator as generator_lib

TINY = {
  **dataclasses.asdict(dafl.Settings()),
  'generator_learning_rate': 3e-4,
  'generator_width': 4,
  'latent_dim': 6,
  'one_hot_weight': 3.0,
}
NUMBERS = (
  'activation_weight',
  'entropy_weight',
  'generator_learning_rate',
  'one_hot_weight',
  'temperature',
)
# How the released code departs from the article.
QUIRKS = {
  'entropy_log': 'log10',
  'batch_norm_epsilon': 0.8,
  'student_images': 'shared',
}


def _model(**overrides):
  return networks.Small(10, **overrides)


def _batch(size=8, dtype=jnp.float32):
  return {
    'image': np.zeros((size, 8, 8, 1), dtype),
    'label': np.zeros(size, np.int32),
    'index': np.arange(size),
  }


@functools.cache
def _frozen():
  """A teacher whose answers differ from image to image."""
  init = jax.jit(_model().init)
  return {'teacher': init(jax.random.key(9), _batch()['image'])}


def _method(model=None, **changes):
  settings, model = dafl.Settings(**{**TINY, **changes}), model or _model()
  return dafl.make(model, optax.sgd(0.1), settings, {'teacher': model})


@functools.cache
def _start():
  """The first state; no setting of the steps has a say in it."""
  return jax.jit(_method().init)(jax.random.key(0), _batch(), {})


@functools.cache
def _compiled(**changes):
  """A step that takes numbers as arguments: compiled once for all of them."""

  def step(numbers, *args):
    return _method(**changes, **numbers).step(*args)

  return jax.jit(step)


def _step(*, state=None, batch=None, seed=1, **changes):
  """The state and the metrics after one step."""
  numbers = {k: changes.pop(k, TINY[k]) for k in NUMBERS}
  return _compiled(**changes)(
    numbers,
    state or _start(),
    _frozen(),
    batch or _batch(),
    jax.random.key(seed),
  )


def _moment(state):
  """Adam's first one: after one step, a tenth of the generator's gradient."""
  (mu,) = (s.mu for s in state.generator.opt_state if hasattr(s, 'mu'))
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(mu)])


def _equal(one, two):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))


# What the generator is asked for.


def test_one_hot_is_the_surprise_at_the_top_class():
  logits = np.log(np.float32([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
  expected = -(math.log(0.5) + math.log(0.8)) / 2
  found = jax.jit(dafl.one_hot)(logits)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_activation_is_the_mean_size_of_the_features():
  features = jnp.array([[1.0, -2.0], [0.0, 5.0]])
  assert dafl.activation(features) == -2.0


def test_negative_entropy_is_that_of_the_mean_answer():
  logits = np.log(np.float32([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]]))
  expected = 0.3 * math.log(0.3) + 0.5 * math.log(0.5) + 0.2 * math.log(0.2)
  found = jax.jit(dafl.negative_entropy)(logits)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_negative_entropy_is_finite_where_a_class_has_no_image():
  logits = 1e4 * np.eye(3, dtype=np.float32)[[0, 1, 1]]
  value, grad = jax.jit(jax.value_and_grad(dafl.negative_entropy))(logits)
  np.testing.assert_allclose(
    value, math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3, rtol=1e-6
  )
  assert np.isfinite(grad).all()


def test_two_devices_pool_the_mean_answer():
  logits = np.float32(3 * np.random.default_rng(0).normal(size=(8, 5)))
  pooled = jax.pmap(
    functools.partial(dafl.negative_entropy, axis_name='batch'),
    axis_name='batch',
  )(logits.reshape(2, 4, 5))
  entropy = jax.jit(dafl.negative_entropy)
  whole, *halves = (float(entropy(x)) for x in (logits, *np.split(logits, 2)))
  np.testing.assert_allclose(pooled, [whole, whole], rtol=1e-6)
  assert abs(np.mean(halves) - whole) > 0.01


def test_classes_are_counted_from_a_tenth_of_their_share():
  top = jnp.array([0] * 97 + [1] * 2 + [2])  # A tenth of 1/4 of 100 is 2.5.
  counts = dafl.count_classes(jax.nn.one_hot(top, 4))
  assert counts == {'classes': 1.0, 'classes_missing': 3.0}


def test_a_collapsed_generator_is_told():
  settings = dafl.Settings(**TINY)
  found = dafl.warning({'classes': 3.2, 'classes_missing': 6.8}, settings)
  assert found == (
    'the generator makes images of 3 of 10 classes; raise entropy_weight (now '
    '5.0) or lower generator_learning_rate (now 0.0003)'
  )
  assert (
    dafl.warning({'classes': 9.5, 'classes_missing': 0.5}, settings) is None
  )


def test_the_generator_minimises_the_weighted_sum():
  """One step each with one weight: the others' gradients add up to it."""
  plain = {
    'one_hot_weight': 0.0,
    'entropy_weight': 0.0,
    'activation_weight': 0.0,
  }
  start = _start()
  after = {
    name: _step(state=start, **{**plain, name: 1.0})[0] for name in plain
  }
  after['none'] = _step(state=start, **plain)[0]
  assert (_moment(after.pop('none')) == 0).all()
  parts = [_moment(state) for state in after.values()]
  assert all(np.linalg.norm(part) > 1e-4 for part in parts)
  weights = {'one_hot_weight': 2.0, 'entropy_weight': 3.0}
  whole = _moment(_step(state=start, **weights, activation_weight=0.5)[0])
  expected = 2.0 * parts[0] + 3.0 * parts[1] + 0.5 * parts[2]
  np.testing.assert_allclose(whole, expected, atol=1e-5)


# The quirks of the released code.


def test_log10_weakens_the_entropy_and_nothing_else():
  quirk, metrics = _step(entropy_log=QUIRKS['entropy_log'])
  weaker, expected = _step(
    entropy_weight=TINY['entropy_weight'] / math.log(10.0)
  )
  np.testing.assert_allclose(_moment(quirk), _moment(weaker), atol=1e-6)
  np.testing.assert_allclose(metrics['entropy'], expected['entropy'], rtol=1e-5)
  assert np.abs(_moment(quirk) - _moment(_step()[0])).max() > 1e-4


def test_epsilon_is_that_of_the_two_inner_batch_norms():
  noise = np.float32(np.random.default_rng(0).normal(size=(16, 6)))
  paper = generator_lib.Generator((8, 8, 1), width=4)
  variables = jax.jit(paper.init)(jax.random.key(1), noise)
  # Of statistics 0 and 1, one BatchNorm divides by sqrt(1 + epsilon).
  released = paper.clone(epsilon=QUIRKS['batch_norm_epsilon'])
  scale = math.sqrt((1 + 1e-5) / (1 + 0.8))
  params = dict(variables['params'])
  for name in ('bn1', 'bn2'):
    params[name] = jax.tree.map(
      lambda x: np.float32(np.asarray(x) * scale), params[name]
    )
  apply = jax.jit(paper.apply)
  by_hand = apply({**variables, 'params': params}, noise)
  found = jax.jit(released.apply)(variables, noise)
  np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-6)
  plain = apply(variables, noise)
  assert np.abs(np.subtract(found, plain)).max() > 1e-3
  eps = _step(batch_norm_epsilon=0.8)[0].generator.params
  assert not _equal(eps, _step()[0].generator.params)


def test_shared_images_are_those_of_the_generators_step():
  """So the student's first lesson does not depend on what G learned."""
  rates = ({'generator_learning_rate': 1e-3}, {'generator_learning_rate': 1.0})
  shared = [_step(student_images='shared', **rate)[0] for rate in rates]
  assert _equal(shared[0].student, shared[1].student)
  fresh = [_step(student_images='fresh', **rate)[0] for rate in rates]
  assert not _equal(fresh[0].student.params, fresh[1].student.params)


# Who learns from whom.


@pytest.mark.parametrize('student_images', ['fresh', 'shared'])
def test_the_generator_learns_nothing_of_the_student(student_images):
  changes = {'student_images': student_images}
  start = _start()
  other = jax.tree.map(
    lambda x: np.asarray(x) + np.float32(0.1), start.student.params
  )
  changed = start.replace(student=start.student.replace(params=other))
  one, two = (_step(state=s, **changes)[0] for s in (start, changed))
  hot = _step(state=start, **changes, temperature=7.0)[0]
  assert _equal(one.generator, two.generator)
  assert _equal(one.generator, hot.generator)
  assert not _equal(one.student.params, hot.student.params)


def test_the_student_minimises_the_softened_divergence():
  """Its loss and agreement, of shared images that are made again here."""
  start, batch = _start(), _batch()
  _, metrics = _step(student_images='shared', temperature=3.0)
  _, generator_rng = jax.random.split(jax.random.key(1))
  trainer = generators.Trainer(dafl.Settings(**TINY), optax.adam(1e-3), batch)
  images, _ = jax.jit(trainer.sample)(start.generator, generator_rng)
  z_teacher = jax.jit(_model().apply)(_frozen()['teacher'], images)
  train = functools.partial(_model().apply, train=True, mutable=['batch_stats'])
  z_student, _ = jax.jit(train)(start.variables, images)
  z_teacher, z_student = np.float64(z_teacher), np.float64(z_student)
  p, q = (scipy.special.softmax(z / 3, axis=-1) for z in (z_teacher, z_student))
  expected = 9.0 * np.sum(p * np.log(p / q), axis=-1).mean()
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-3)
  same = z_teacher.argmax(-1) == z_student.argmax(-1)
  assert float(metrics['accuracy']) == 100.0 * same.mean()


def test_no_gradient_reaches_the_teacher():
  method, start = _method(), _start()

  def total(frozen):
    state, metrics = method.step(start, frozen, _batch(), jax.random.key(1))
    return sum(metrics[k] for k in ('loss', 'one_hot', 'entropy', 'activation'))

  grads = jax.jit(jax.grad(total))(_frozen())
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_both_networks_learn_and_both_know_how_often():
  start = _start()
  state, _ = _step(state=start, student_steps=3)
  for before, after in (
    (start.student, state.student),
    (start.generator, state.generator),
  ):
    assert not _equal(before.params, after.params)
    assert not _equal(before.batch_stats, after.batch_stats)
  assert state.step == 1
  assert state.student.step == 3
  assert _equal(state.variables['params'], state.student.params)


def test_a_batch_gives_the_shape_of_the_images_alone():
  garbage = {
    **_batch(),
    'image': np.full((8, 8, 8, 1), np.nan, np.float32),
    'label': np.full(8, 7, np.int32),
  }
  method = _method()
  assert _equal(_start(), jax.jit(method.init)(jax.random.key(0), garbage, {}))
  assert _equal(_step(), _step(batch=garbage))


def test_a_step_is_a_function_of_its_key():
  assert _equal(_step(), _step())
  assert not _equal(_step()[0].student.params, _step(seed=2)[0].student.params)


def test_every_example_has_noise_of_its_own():
  other = {**_batch(), 'index': np.arange(8) + 8}
  one, two = (float(_step(batch=x)[1]['loss']) for x in (None, other))
  assert one != two


# Every network.


@pytest.mark.parametrize('name', registry_test.DISTINCT)
def test_every_network_can_be_the_teacher(name):
  """Its features are found, whatever they are called."""
  teacher = registry_test.shrunk(name)
  image = jnp.zeros((2, 8, 8, 3))
  variables = jax.eval_shape(teacher.init, jax.random.key(0), image)
  loss_fn = functools.partial(dafl.images_loss, teacher, {'activation': 1.0})
  loss, terms = jax.eval_shape(
    functools.partial(loss_fn, axis_name=None), variables, images=image
  )
  assert loss.shape == terms['activation'].shape == ()


def test_bfloat16_is_finite_and_keeps_float32_weights():
  method = _method(_model(dtype=jnp.bfloat16))
  batch = _batch(dtype=jnp.bfloat16)
  state = jax.jit(method.init)(jax.random.key(0), batch, {})
  step = jax.jit(method.step)
  for k in range(3):
    state, metrics = step(state, _frozen(), batch, jax.random.key(k))
  for value in metrics.values():
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
  for leaf in jax.tree.leaves(state):
    assert leaf.dtype in (jnp.float32, jnp.int32)
    assert np.isfinite(leaf).all()


def test_images_have_the_scale_of_normalised_ones():
  noise = np.float32(np.random.default_rng(0).normal(size=(64, 6)))
  generator = generator_lib.Generator((12, 8, 3), width=4, dtype=jnp.bfloat16)
  variables = jax.jit(generator.init)(jax.random.key(1), noise)
  train = functools.partial(generator.apply, train=True, mutable='batch_stats')
  images, _ = jax.jit(train)(variables, noise)
  assert images.shape == (64, 12, 8, 3)
  assert images.dtype == jnp.bfloat16
  images = np.asarray(images, np.float32)
  np.testing.assert_allclose(images.mean((0, 1, 2)), 0.0, atol=0.01)
  np.testing.assert_allclose(images.std((0, 1, 2)), 1.0, atol=0.02)


# What is wrong is said.


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('activation_weight', -1.0),
    ('entropy_log', 'log2'),
    ('generator_learning_rate', 0.0),
    ('generator_width', 1),
    ('student_images', 'real'),
    ('student_steps', 0),
    ('temperature', 0.0),
  ],
)
def test_a_wrong_setting_is_named(name, value):
  with pytest.raises(ValueError, match=name):
    _method(**{name: value})


def test_images_of_odd_sides_are_refused():
  batch = {**_batch(), 'image': jnp.zeros((8, 10, 8, 1))}
  with pytest.raises(ValueError, match='multiples of 4; got 10x8'):
    jax.eval_shape(_method().init, jax.random.key(0), batch, {})


def test_a_teacher_whose_weights_are_not_known_is_refused():
  closed = oracle.Oracle(lambda variables, images: images)
  with pytest.raises(ValueError, match='reads the weights'):
    dafl.make(_model(), optax.sgd(0.1), dafl.Settings(), {'teacher': closed})


def test_who_has_the_weights_does_not_ask():
  """The network itself is read, whatever its owner serves."""

  def refuse(variables, images):
    raise AssertionError('asked')

  served = oracle.Oracle(refuse, _model())
  settings = dafl.Settings(**TINY)
  method = dafl.make(_model(), optax.sgd(0.1), settings, {'teacher': served})
  step = functools.partial(oracle.queries, method.step)
  assert step(_start(), _frozen(), _batch(), jax.random.key(1)) == 0


def test_a_schedule_is_told_how_often_the_student_is_updated():
  settings = dafl.Settings(student_steps=3)
  assert dafl.updates_per_epoch(settings, 7) == 21


def test_the_defaults_are_those_of_the_article():
  """For CIFAR-10; the released quirks are known by name."""
  expected = {
    'latent_dim': 1000,
    'generator_learning_rate': 0.02,
    'one_hot_weight': 0.05,
    'entropy_weight': 5.0,
    'activation_weight': 0.01,
    'entropy_log': 'natural',
    'batch_norm_epsilon': 1e-5,
    'student_images': 'fresh',
    'temperature': 1.0,
  }
  defaults = dataclasses.asdict(dafl.Settings())
  assert expected.items() <= defaults.items()
  dafl.Settings(**QUIRKS)
