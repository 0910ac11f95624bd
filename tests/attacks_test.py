"""Attacks: their losses by hand, what each hears of the teacher, two devices.

The whole graph is run once, on a shrunken job with all of them.
"""

import dataclasses
import functools

import config_files
import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import scipy.special

from undistillable import (
  attacks,
  data,
  errors,
  losses,
  method as method_lib,
  models,
  oracle,
)
from undistillable.attacks import (
  averager,
  dfme,
  dkd,
  hard_label,
  kd,
  knockoff,
  skeptical,
)
from undistillable.graph import (
  execute,
  plan as plan_lib,
  programs,
  store as store_lib,
)
from undistillable.models import layers
from undistillable.training import parallel

RNG = jax.random.key(1)
SIZE, CLASSES = 8, 10
MODULES = {
  'averager': averager,
  'dfme': dfme,
  'dkd': dkd,
  'hard_label': hard_label,
  'knockoff': knockoff,
  'skeptical': skeptical,
}
SETTINGS = {
  'dfme': {'student_steps': 2, 'latent_dim': 6, 'generator_width': 4},
  'dkd': {'warmup_steps': 0},
  'skeptical': {'delay_steps': 0},
}
# The example of all known answers.
TEACHER, STUDENT = (3.0, 1.0, -1.0), (1.0, 0.0, 0.5)


class _Stages(nn.Module):
  """Maps of three sizes; the second stage starts with a norm of the first's."""

  num_classes: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train=False):
    for stage, strides in enumerate((1, 2, 2)):
      if stage:
        norm = layers.BatchNorm(train, self.axis_name, name=f'bn{stage}')
        x = nn.relu(norm(x))
      x = layers.Conv(4 + stage, 3, strides, 1, name=f'conv{stage}')(x)
    return layers.Dense(self.num_classes, name='fc')(layers.global_mean(x))


def _model(name='small'):
  own = {'small': networks.Small, 'stages': _Stages}
  return own[name](CLASSES) if name in own else models.get_model(name, CLASSES)


@functools.cache
def _scratch(model='small'):
  return attacks.scratch.make(_model(model), optax.sgd(0.1))


_init = jax.jit(_model().init)
_log_scores = jax.jit(losses.log_scores)
_decoupled = jax.jit(losses.decoupled_distillation)
_draw = jax.jit(dfme.draw_directions, static_argnums=2)


def _batch(size=SIZE):
  rng = np.random.default_rng(0)
  return {
    'image': rng.normal(size=(size, 8, 8, 1)).astype(np.float32),
    'label': np.arange(size) % 3,
    'index': np.arange(size),
  }


def _answers(size=SIZE, seed=5):
  rng = np.random.default_rng(seed)
  return 3.0 * rng.normal(size=(size, CLASSES)).astype(np.float32)


@functools.cache
def _frozen():
  """A teacher whose answers differ from image to image."""
  return {'teacher': _init(jax.random.key(9), _batch()['image'])}


@functools.cache
def _make(name, model='small', teacher=None, **changes):
  """The same method for the same arguments, which is compiled once."""
  module = MODULES[name]
  settings = module.Settings(**{**SETTINGS.get(name, {}), **changes})
  access = getattr(module, 'ACCESS', 'scores')
  # A gradient could go through it.
  ask = teacher or functools.partial(_model().apply, train=False)
  door = oracle.Oracle(ask, labels_only=access == 'labels')
  return module.make(_model(model), optax.sgd(0.1), settings, {'teacher': door})


@functools.cache
def _start(method):
  return jax.jit(method.init)(jax.random.key(0), _batch(), _frozen())


def _known(fn, **settings):
  """One number, of the example of all known answers."""
  rows = (np.float32([z]) for z in (STUDENT, TEACHER))
  return float(np.asarray(fn(*rows, np.array([0]), **settings))[0])


def _equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


def _distance(one, two):
  return sum(
    float(np.abs(np.subtract(x, y)).sum())
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  )


# All of them.


def test_the_attacks_are_registered():
  assert {name: attacks.get(name) for name in MODULES} == MODULES
  assert list(attacks.ATTACKS) == sorted(attacks.ATTACKS)


# Who hears of it beforehand, and who asks in his step; through one oracle, all.
@pytest.mark.parametrize('name', ['dkd', 'dfme'])
def test_no_gradient_reaches_the_teacher(name):
  method = _make(name)
  batch = _batch()
  state = _start(method)

  def total(frozen):
    new, metrics = method.step(state, frozen, batch, RNG)
    leaves = jax.tree.leaves(new.variables)
    return sum(metrics.values()) + sum(map(jnp.sum, leaves))

  both = jax.jit(jax.value_and_grad(total))
  value, grads = both(_frozen())
  other = {'teacher': _init(jax.random.key(10), batch['image'])}
  assert float(both(other)[0]) != pytest.approx(float(value), rel=1e-6)
  assert all(not np.asarray(grad).any() for grad in jax.tree.leaves(grads))


@pytest.mark.parametrize('over', averager.OVER)
def test_averager_takes_means_over_all_devices(over):
  """With answers that differ; those of an untrained teacher hardly do."""
  method = _make('averager', over=over)
  state, batch = _start(method), _batch()
  batch['answers'] = {'teacher': _answers()}
  step = jax.pmap(
    functools.partial(method.step, axis_name=parallel.AXIS),
    axis_name=parallel.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
  )
  halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
  one, metrics = jax.jit(method.step)(state, _frozen(), batch, RNG)
  two, two_metrics = step(state, _frozen(), halves, RNG)
  for key, value in metrics.items():
    np.testing.assert_allclose(value, two_metrics[key], rtol=1e-3)
  for kind in state.variables:
    before, *after = (
      np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.variables[kind])])
      for s in (state, one, two)
    )
    changed = np.linalg.norm(after[0] - before)
    assert np.linalg.norm(after[0] - after[1]) <= 0.02 * changed
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, one.extra, two.extra)


@pytest.mark.parametrize('name', ['hard_label', 'knockoff', 'dfme'])
def test_no_label_is_read(name):
  method, batch = _make(name), _batch()
  state = _start(method)
  step = jax.jit(method.step)
  labelled = step(state, _frozen(), batch, RNG)
  batch['label'] = np.full_like(batch['label'], -1)
  _equal(step(state, _frozen(), batch, RNG), labelled)


# Hard labels.


@pytest.mark.parametrize(
  'transform',
  [lambda z: z**3, jnp.exp, lambda z: 0.1 * z - 7.0, losses.log_scores],
)
def test_hard_label_hears_the_order_alone(transform):
  teacher = method_lib.frozen_fn(_model())
  plain = _make('hard_label')
  changed = _make('hard_label', teacher=lambda v, x: transform(teacher(v, x)))
  image, variables = _batch()['image'], _frozen()['teacher']
  heard, same = (
    jax.jit(method.answer_fns['teacher'])(variables, image)
    for method in (plain, changed)
  )
  _equal(heard, same)


def test_hard_label_is_cross_entropy_with_the_top_class():
  batch = _batch()
  answers = _answers()
  method = _make('hard_label')
  state = _start(method)
  told = {**batch, 'answers': {'teacher': answers.argmax(-1)}}
  new, metrics = jax.jit(method.step)(state, {}, told, RNG)
  labelled = {**batch, 'label': answers.argmax(-1)}
  expected, plain = jax.jit(_scratch().step)(state, {}, labelled, RNG)
  _equal(new, expected)
  _equal(metrics, plain)


# Decoupled distillation.


@pytest.mark.parametrize(
  'alpha, beta, expected', [(1.0, 0.0, 0.563849), (0.0, 1.0, 0.760946)]
)
def test_decoupled_parts_are_the_known_answers(alpha, beta, expected):
  found = _known(_decoupled, temperature=4.0, alpha=alpha, beta=beta)
  assert found == pytest.approx(expected, abs=1e-5)


def test_decoupled_parts_add_up_to_the_divergence():
  z_s, z_t = _answers(seed=1), _answers(seed=2)
  labels = _batch()['label']
  log_p, log_q = scipy.special.log_softmax(np.float64([z_t, z_s]) / 4, axis=-1)
  p_y = np.exp(log_p)[np.arange(SIZE), labels]
  found = _decoupled(
    z_s, z_t, labels, temperature=4.0, alpha=1.0, beta=np.float32(1.0 - p_y)
  )
  kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
  np.testing.assert_allclose(found, 16.0 * kl, rtol=1e-5)


def test_the_other_classes_do_not_hear_of_the_label():
  z_s, z_t, labels = _answers(seed=1), _answers(seed=2), _batch()['label']
  loss = jax.jit(
    functools.partial(
      losses.decoupled_distillation, temperature=4.0, alpha=0.0, beta=1.0
    )
  )
  label = np.eye(CLASSES, dtype=np.float32)[labels]
  np.testing.assert_allclose(
    loss(z_s + 9.0 * label, z_t - 4.0 * label, labels),
    loss(z_s, z_t, labels),
    rtol=1e-4,
  )
  grad = jax.jit(jax.grad(lambda z: loss(z, z_t, labels).sum()))(z_s)
  grad = np.asarray(grad)
  np.testing.assert_allclose(grad[np.arange(SIZE), labels], 0.0, atol=1e-6)
  assert np.abs(grad).max() > 1e-2


@jax.jit
@jax.value_and_grad
def _decoupled_of_one(z, teacher, labels):
  return losses.decoupled_distillation(
    z, teacher, labels, temperature=1.0, alpha=1.0, beta=8.0
  )[0]


@pytest.mark.parametrize('label', [0, 1])
@pytest.mark.parametrize('scale', [1.0, 1e4])
@pytest.mark.parametrize('teacher', [(0.0, -np.inf, -np.inf), TEACHER])
def test_decoupled_distillation_is_finite(label, scale, teacher):
  for student in (STUDENT, TEACHER):
    rows = (np.float32([z]) * np.float32(scale) for z in (student, teacher))
    value, grad = _decoupled_of_one(*rows, np.array([label]))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_dkd_warms_up_step_by_step():
  method = _make('dkd', warmup_steps=4)
  state, batch = _start(method), _batch()
  batch['answers'] = {'teacher': _answers()}
  step = jax.jit(method.step)
  plain = jax.jit(_scratch().step)
  for taken, weight in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
    state = dataclasses.replace(state, step=np.int32(taken))
    metrics, alone = jax.device_get(
      [fn(state, {}, batch, RNG)[1] for fn in (step, plain)]
    )
    found = metrics['loss'] - alone['loss']
    np.testing.assert_allclose(found, weight * metrics['decoupled'], rtol=1e-5)


# Averager.


@jax.jit
def _means_fn(answers, labels):
  table = averager.enter(
    averager.empty(answers.shape[-1]),
    losses.finite(answers),
    labels,
    temperature=4.0,
  )
  return averager.means(table, temperature=4.0)[labels]


def _means(answers, labels):
  return np.asarray(_means_fn(np.float32(answers), np.array(labels)))


def test_averager_of_distinct_labels_is_kd():
  batch = {**_batch(), 'label': np.arange(SIZE)}
  batch['answers'] = {'teacher': _answers()}
  method = _make('averager')
  state = _start(method)
  other = kd.make(
    _model(), optax.sgd(0.1), kd.Settings(), {'teacher': _model()}
  )
  found, found_metrics = jax.jit(method.step)(state, {}, batch, RNG)
  expected, metrics = jax.jit(other.step)(state, {}, batch, RNG)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, found, expected)
  jax.tree.map(close, found_metrics, metrics)


@pytest.mark.parametrize('withheld', [False, True])
def test_averager_does_not_see_who_answered_what(withheld):
  labels, answers = _batch()['label'], _answers()
  if withheld:
    answers[2, 5:] = losses.WITHHELD
  permuted = answers.copy()
  for label in range(3):
    members = np.flatnonzero(labels == label)
    permuted[members] = answers[np.roll(members, 1)]
  assert _distance(answers, permuted) > 1.0
  means = _means(answers, labels)
  np.testing.assert_allclose(_means(permuted, labels), means, rtol=1e-5)
  for label in range(3):  # One target for all of a class, another for each.
    np.testing.assert_array_equal(means[label], means[label + 3])
  assert _distance(means[0], means[1]) > 1.0


def test_averager_takes_the_mean_of_logits():
  labels, answers = np.array([0, 0, 1]), _answers(3)
  expected = scipy.special.log_softmax(answers[:2].mean(0) / 4.0)
  found = scipy.special.log_softmax(_means(answers, labels)[0] / 4.0)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_averager_takes_the_mean_of_scores_where_one_is_withheld():
  answers = [[0.0, -np.inf], [0.0, 0.0], [0.0, 4.0], [2.0, 0.0]]
  means = _means(answers, [0, 0, 1, 1])
  found = np.exp(_log_scores(means, 4.0))
  np.testing.assert_allclose(found[0], (0.75, 0.25), rtol=1e-5)
  # The other class has nothing withheld: logits (1, 2).
  odds = np.exp(-0.25)
  np.testing.assert_allclose(found[2, 0] / found[2, 1], odds, rtol=1e-5)


def test_averager_never_gives_what_all_withhold():
  means = _means([[0.0, -np.inf, 1.0], [2.0, -np.inf, 0]], [0, 0])
  assert np.isfinite(means).all()
  assert np.exp(_log_scores(means, 4.0))[0, 1] == 0.0


@pytest.mark.parametrize('withheld', [False, True])
def test_averager_of_the_dataset_takes_the_mean_of_all_that_was_heard(withheld):
  method = _make('averager', over='dataset')
  state, step = _start(method), jax.jit(method.step)
  labels, heard = _batch()['label'], []
  for seed in range(3):
    heard.append(_answers(seed=seed))
    if withheld and seed == 1:  # It is heard once, of the label 0 alone.
      heard[-1][0, 5:] = losses.WITHHELD
    batch = {**_batch(), 'answers': {'teacher': heard[-1]}}
    before = state
    state, metrics = step(state, {}, batch, RNG)
  every = np.concatenate(heard)
  found = np.asarray(averager.means(state.extra, temperature=4.0))
  expected = np.zeros((3, CLASSES))
  for label in range(3):
    own = every[np.tile(labels, 3) == label]
    log_scores = scipy.special.log_softmax(own, axis=-1)
    expected[label] = scipy.special.softmax(log_scores.mean(0) / 4.0)
    if withheld and label == 0:
      scores = scipy.special.softmax(own / 4.0, axis=-1)
      expected[label] = scores.mean(0)
  np.testing.assert_allclose(
    scipy.special.softmax(found[:3] / 4.0, axis=-1), expected, atol=1e-6
  )
  np.testing.assert_array_equal(state.extra['count'][:4], [9, 9, 6, 0])
  # What is learned is that mean, the newest answers among it.
  logits, _ = _model().apply(
    before.variables, batch['image'], train=True, mutable=['batch_stats']
  )
  log_p = scipy.special.log_softmax(np.asarray(logits) / 4.0, axis=-1)
  target = expected[labels]
  kl = (target * (np.log(np.maximum(target, 1e-30)) - log_p)).sum(-1)
  np.testing.assert_allclose(metrics['kl'], kl.mean(), rtol=1e-4)


def test_averager_of_the_dataset_starts_as_that_of_a_batch():
  batch = {**_batch(), 'answers': {'teacher': _answers()}}
  one, other = (_make('averager', over=over) for over in averager.OVER)
  found = jax.jit(one.step)(_start(one), {}, batch, RNG)
  expected = jax.jit(other.step)(_start(other), {}, batch, RNG)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, found[0].variables, expected[0].variables)
  jax.tree.map(close, found[1], expected[1])


def test_averager_knows_two_kinds_of_means():
  with pytest.raises(ValueError, match="over='epoch'"):
    averager.Settings(over='epoch')


# Skeptical student.


def _skeptical_update(answers, step=0, **changes):
  """What a step changes in the network, by layer."""
  method = _make('skeptical', 'stages', **changes)
  state = dataclasses.replace(_start(method), step=np.int32(step))
  batch = {**_batch(), 'answers': {'teacher': answers}}
  new, metrics = jax.jit(method.step)(state, {}, batch, RNG)
  return new, metrics


def _changed(one, two):
  """Layers in which two states differ."""
  return {
    name
    for name in one.params
    if _distance(one.params[name], two.params[name]) > 0
  }


def test_the_teacher_is_heard_by_shallow_layers_alone():
  one, two = (_skeptical_update(_answers(seed=s))[0] for s in (1, 2))
  # The map at loc 2 is the last of 8x8, the norm of the second stage.
  assert _changed(one, two) == {'conv0', 'bn1'}
  assert {'conv1', 'bn2', 'conv2', 'fc'} <= set(one.params)
  assert _distance(one.extra['2'], two.extra['2']) > 0
  _equal(one.extra['1'], two.extra['1'])


def test_at_loc_1_the_second_stage_hears_the_teacher_as_well():
  one, two = (_skeptical_update(_answers(seed=s), loc=1)[0] for s in (1, 2))
  assert _changed(one, two) == {'conv0', 'bn1', 'conv1', 'bn2'}
  assert set(one.extra) == {'1'}


def test_skeptical_is_cross_entropy_before_the_delay():
  state = _start(_make('skeptical', 'stages', delay_steps=3))
  scratch = jax.jit(_scratch('stages').step)
  plain, alone = scratch(state, {}, _batch(), RNG)
  for step, same in ((2, True), (3, False)):
    new, metrics = _skeptical_update(_answers(), step=step, delay_steps=3)
    close = _distance(new.params, plain.params) < 1e-3
    assert close == same
    equal = metrics['loss'] == pytest.approx(float(alone['loss']), rel=1e-5)
    assert equal == same
    # Heads, too, wait.
    assert (_distance(new.extra, state.extra) == 0) == same


def test_skeptical_at_loc_0_is_kd_and_cross_entropy():
  z = {0: _answers(seed=1), 1: _answers(seed=2)}
  teacher, labels = _answers(seed=3), _batch()['label']
  settings = skeptical.Settings(
    loc=0, delay_steps=0, self_weight=0.0, label_weight=0.0
  )

  @jax.jit
  def both(z, teacher):
    found, _ = skeptical.skeptical_loss(z, teacher, labels, 0, settings)
    return found, losses.distillation(
      z[0], teacher, labels, temperature=4.0, alpha=0.9
    ) + losses.cross_entropy(z[0], labels)

  found, expected = both(z, teacher)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_skeptical_loss_is_as_published():
  z = {i: _answers(seed=i) for i in range(3)}
  teacher, labels = _answers(seed=3), _batch()['label']
  settings = skeptical.Settings(delay_steps=5, temperature=20.0)

  @jax.jit
  def loss(z, teacher):
    return skeptical.skeptical_loss(z, teacher, labels, 5, settings)[0]

  found = loss(z, teacher)

  def kl(p, q):
    log_p, log_q = scipy.special.log_softmax(np.float64([p, q]) / 20, axis=-1)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)

  def ce(z):
    log_p = scipy.special.log_softmax(np.float64(z), axis=-1)
    return -log_p[np.arange(SIZE), labels]

  expected = (
    0.9 * 400 * kl(teacher, z[2])
    + 0.1 * ce(z[2])
    + 0.3 * kl(z[0], z[1])
    + 0.7 * ce(z[1])
    + ce(z[0])
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_skeptical_says_so_of_a_network_with_too_few_feature_maps():
  method = _make('skeptical', 'mlp')
  with pytest.raises(errors.InputError, match='has 0 stages.*loc=2'):
    jax.eval_shape(method.init, RNG, _batch(), _frozen())


@pytest.mark.parametrize('side, stages', [(2, 0), (4, 0), (8, 1), (34, 4)])
def test_a_head_takes_any_size(side, stages):
  head, x = skeptical.Head(CLASSES), np.ones((2, side, side, 4), np.float32)
  variables = jax.eval_shape(head.init, RNG, x)
  dense = variables['params']['fc']['kernel']
  assert dense.shape == (4 * 2**stages, CLASSES)


def test_the_heads_are_dropped():
  new, _ = _skeptical_update(_answers())
  expected = jax.eval_shape(_model('stages').init, RNG, _batch()['image'])
  assert jax.tree.map(jnp.shape, new.variables) == jax.tree.map(
    jnp.shape, dict(expected)
  )


# Knockoff nets.


def _knockoff_loss(answers, **changes):
  method = _make('knockoff', **changes)
  state = _start(method)
  batch = {**_batch(), 'answers': {'teacher': answers}}
  return jax.jit(method.step)(state, {}, batch, RNG)


@pytest.mark.parametrize('targets', ['scores', 'top'])
def test_knockoff_of_certain_answers_is_cross_entropy(targets):
  labels = _answers().argmax(-1)
  certain = np.where(np.eye(CLASSES)[labels] > 0, 0.0, losses.WITHHELD)
  found = _knockoff_loss(certain.astype(np.float32), targets=targets)
  batch = {**_batch(), 'label': labels}
  expected = jax.jit(_scratch().step)(_start(_scratch()), {}, batch, RNG)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, found, expected)


def test_knockoff_exceeds_the_divergence_by_the_entropy():
  answers = _answers()
  _, metrics = _knockoff_loss(answers)
  other = kd.make(
    _model(),
    optax.sgd(0.1),
    kd.Settings(temperature=1.0, alpha=1.0),
    {'teacher': _model()},
  )
  batch = {**_batch(), 'answers': {'teacher': answers}}
  _, plain = jax.jit(other.step)(_start(other), {}, batch, RNG)
  log_q = scipy.special.log_softmax(answers, axis=-1)
  entropy = -np.mean(np.sum(np.exp(log_q) * log_q, axis=-1))
  found = float(metrics['loss']) - entropy
  assert found == pytest.approx(float(plain['loss']), rel=1e-4)
  assert found > 0


def test_knockoff_of_the_top_class_hears_no_scores():
  answers = _answers()
  _equal(
    _knockoff_loss(answers, targets='top'),
    _knockoff_loss(3.0 * answers, targets='top'),
  )
  with pytest.raises(ValueError, match="'best'; known: scores, top"):
    knockoff.Settings(targets='best')


def test_patches_look_like_digits_and_differ(tmp_path):
  loaded = data.load('patches', data_dir=tmp_path)
  assert loaded.image_shape == data.get_source('digits').image_shape
  assert loaded.class_names == ('china', 'flower')
  images = loaded.train['image'] / 255.0
  assert images.mean() == pytest.approx(loaded.mean[0], abs=1e-4)
  assert images.std() == pytest.approx(loaded.std[0], abs=1e-4)
  assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 1900


# DFME.


@pytest.mark.parametrize('epsilon', [1e-2, 1.0])
def test_forward_differences_of_a_linear_function_are_exact(epsilon):
  rng = np.random.default_rng(0)
  slope = np.float32(rng.normal(size=(2, 3, 2, 1)))
  basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  directions = np.broadcast_to(
    basis.reshape(6, 1, 3, 2, 1), (6, 2, 3, 2, 1)
  ).astype(np.float32)

  def fn(x):
    return jnp.sum(slope * x, axis=(1, 2, 3))

  values, grads = jax.jit(
    functools.partial(dfme.forward_differences, fn, epsilon=epsilon)
  )(np.zeros((2, 3, 2, 1), np.float32), directions)
  np.testing.assert_array_equal(values, 0.0)
  np.testing.assert_allclose(grads, slope, rtol=1e-5, atol=1e-5)


def test_forward_differences_of_constant_pieces_are_zero():
  def fn(x):
    return jnp.round(x.sum(axis=(1, 2, 3)))

  x = _batch()['image']
  x = x - (x.sum((1, 2, 3)) / 64).reshape(-1, 1, 1, 1) + np.float32(0.1 / 64)
  directions = np.asarray(_draw(RNG, _batch(), 3))
  found = jax.jit(functools.partial(dfme.forward_differences, fn))
  _, grads = found(x, directions, 1e-3)
  np.testing.assert_array_equal(grads, 0.0)
  _, grads = found(x, 1e3 * directions, 1e-1)
  assert np.abs(grads).max() > 0


def test_directions_have_length_1_and_belong_to_their_image():
  image = np.zeros((1, 4, 4, 1), np.float32)
  whole, half = (
    np.asarray(_draw(RNG, {'image': image, 'index': index}, 3))
    for index in (np.arange(6), np.arange(3, 6))
  )
  assert whole.shape == (3, 6, 4, 4, 1)
  np.testing.assert_array_equal(whole[:, 3:], half)
  np.testing.assert_allclose(
    np.linalg.norm(whole.reshape(18, -1), axis=-1), 1.0, rtol=1e-5
  )
  assert len(np.unique(whole.reshape(18, -1), axis=0)) == 18


def test_centred_scores_are_centred_logits():
  z = _answers()
  expected = z - z.mean(-1, keepdims=True)
  centred = jax.jit(dfme.centred_scores)
  for answers in (z, z + 7.0, scipy.special.log_softmax(z, axis=-1)):
    np.testing.assert_allclose(centred(answers), expected, rtol=1e-4, atol=1e-4)
  rows = (np.float32([z]) for z in (STUDENT, TEACHER))
  (found,) = np.asarray(jax.jit(dfme.disagreement)(*rows))
  assert found == pytest.approx(1.166667, abs=1e-5)


def test_withheld_scores_have_a_floor():
  @jax.jit
  def centred(answers):
    return dfme.centred_scores(losses.finite(answers))

  found = np.asarray(
    centred(np.float32([[0.0, -30.0, -np.inf], [0.0, -30.0, 0]]))
  )
  low = np.log(1e-3 / 3)
  expected = np.array([0.0, low, low]) - 2 * low / 3
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)
  np.testing.assert_allclose(found[1], (10.0, -20.0, 10.0), rtol=1e-5)


@pytest.mark.parametrize('module', [dfme, attacks.maze])
def test_forward_differences_are_of_products_with_all_their_digits(module):
  """On whatever device; and lessons are as fast as any."""
  seen = []

  class Watched(networks.Small):
    def __call__(self, images, train=False):
      seen.append(jax.config.jax_default_matmul_precision)
      return super().__call__(images, train)

  model = Watched(CLASSES)
  door = oracle.Oracle(functools.partial(model.apply, train=False))
  settings = module.Settings(
    student_steps=1, directions=1, latent_dim=6, generator_width=4
  )
  method = module.make(model, optax.sgd(0.1), settings, {'teacher': door})
  state = jax.eval_shape(method.init, RNG, _batch(), _frozen())
  seen.clear()
  jax.eval_shape(method.step, state, _frozen(), _batch(), RNG)
  assert seen.count('highest') == 4  # Student and teacher, here and nearby.
  assert set(seen) == {'highest', None}


def test_dfme_follows_the_gradient_of_the_disagreement():
  """With many directions the generator moves as if it saw the teacher."""
  x = _batch()['image']
  student, teacher = (_init(jax.random.key(key), x) for key in (3, 4))

  @jax.jit
  def fn(x):
    z_s, z_t = (_model().apply(v, x) for v in (student, teacher))
    return dfme.disagreement(z_s, z_t)

  directions = np.asarray(_draw(RNG, _batch(), 64))
  # As one program it would take seconds to compile.
  _, found = dfme.forward_differences(fn, x, directions, 1e-2)
  found = np.ravel(found)
  exact = np.ravel(jax.jit(jax.grad(lambda x: fn(x).sum()))(x))
  cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
  assert cosine > 0.5  # Of n random ones, 0.7 is expected.


@pytest.mark.parametrize('settings', [{}, {'directions': 3}])
def test_a_step_of_dfme_asks_as_often_as_it_says(settings):
  method = _make('dfme', **settings)
  batch, frozen = _batch(), _frozen()
  state = jax.eval_shape(method.init, RNG, batch, frozen)
  count = oracle.queries(method.step, state, frozen, batch, RNG)
  chosen = dfme.Settings(**{**SETTINGS['dfme'], **settings})
  assert count == SIZE * chosen.queries_per_image
  assert oracle.queries(method.init, RNG, batch, frozen) == 0


def test_the_published_iteration_of_dfme_asks_1792_times():
  assert 256 * dfme.Settings().queries_per_image == 1792
  assert dfme.num_steps(dfme.Settings(), 256) == 11_160


# The whole graph.


def _config(name='digits', **changes):
  """A config as the command line reads it, shrunk to seconds."""
  config = config_files.load(name)
  config.lock()
  small = {
    'teacher.model': 'mlp',
    'students': ('mlp',),
    'seeds': (0,),
    'progress': False,
    'defenses': ('none',),
    'attacks': ('hard_label', 'knockoff', 'dfme', 'kd'),
    'recipe.epochs': 1,
    'limit': 200,
    'dfme.budget': 10_000,
  }
  config.update_from_flattened_dict(small | changes)
  return config


def _of(planned, method):
  return next(run for run in planned if run.method == method)


@pytest.mark.parametrize('budget', [1_000, 5_000, 123_456, 20_000_000])
@pytest.mark.parametrize('batch_size', [32, 64])
def test_the_budget_of_dfme_is_never_passed(budget, batch_size):
  config = _config(
    **{'dfme.budget': budget, 'recipes.dfme.batch_size': batch_size}
  )
  run = _of(plan_lib.make(config), 'dfme')
  steps = run.recipe['epochs'] * run.recipe['steps_per_epoch']
  asked = steps * batch_size * run.method_settings.queries_per_image
  assert asked <= budget
  possible = budget // (batch_size * 7)
  assert steps > possible - run.recipe['epochs']
  assert run.num_made == run.recipe['steps_per_epoch'] * batch_size


def test_the_plan_of_dfme_refuses_what_cannot_be():
  with pytest.raises(errors.InputError, match='less than the 448 queries'):
    plan_lib.make(_config(**{'dfme.budget': 447}))
  with pytest.raises(errors.InputError, match='vanish in bfloat16'):
    plan_lib.make(_config(dtype='bfloat16'))


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """The finished runs of a job: {method: (run, result)}."""
  planned = plan_lib.make(_config())
  store = store_lib.Store(
    tmp_path_factory.mktemp('study'), str(tmp_path_factory.mktemp('data'))
  )
  found = {}
  for group in execute.groups(planned, 4):
    results = execute.run_group(group, store)
    for run, result in zip(group, results, strict=True):
      found[run.method] = run, result
  return found, store


@pytest.mark.whole
def test_every_way_to_ask_is_counted(done):
  """Of the other attacks, which ask as kd does, the steps are tested above."""
  found, store = done
  for _, result in found.values():
    assert result['status'] == 'finished'
    assert 0 <= result['test_accuracy'] <= 100
  queries = {name: result['queries'] for name, (_, result) in found.items()}
  own = store.num_examples(found['kd'][0])
  assert queries == {
    'none': None,
    'scratch': None,
    'kd': own,
    'hard_label': own,
    'knockoff': store.num_examples(found['knockoff'][0]),
    'dfme': 22 * 64 * 7,
  }
  assert queries['dfme'] <= 10_000


@pytest.mark.whole
def test_knockoff_sees_foreign_images_without_labels(done):
  found, store = done
  run, _ = found['knockoff']
  arrays = store.examples(run)
  assert run.learns_from['name'] == 'patches'
  assert run.judged_on['name'] == 'digits'
  assert set(arrays['label']) == {-1}
  # Asked once each, whatever the other attacks do.
  fresh = _of(plan_lib.make(_config(queries='fresh')), 'knockoff')
  assert fresh.queries == 'cached'


@pytest.mark.whole
def test_a_smaller_share_of_the_transfer_set_is_part_of_a_larger(done):
  _, store = done
  few, many = (
    store.examples(_of(plan_lib.make(_config(fraction=f)), 'knockoff'))
    for f in (0.5, 1.0)
  )
  small, large = (
    {image.tobytes() for image in arrays['image']} for arrays in (few, many)
  )
  assert small < large


def test_students_of_one_teacher_ask_it_once_together():
  config = _config(students=('cnn4', 'cnn8'))
  for name in ('kd', 'hard_label'):
    methods = [
      programs.build(run, 64).method
      for run in plan_lib.make(config)
      if run.method == name
    ]
    assert len(methods) == 2
    assert methods[0].answer_fns == methods[1].answer_fns
