"""Training: resumed equals uninterrupted, looped equals stepped, two = one."""

import dataclasses
import functools
import json
import logging

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable import (
  attacks,
  checkpoints,
  defenses,
  errors,
  evaluate,
  method as method_lib,
  models,
  parallel,
  train,
  trainee,
)
from undistillable.data import batches

MODEL = models.get_model('cnn8', 10)
TEACHER = models.get_model('cnn16', 10)
METHOD = defenses.none.make(MODEL, optax.sgd(0.05, momentum=0.9))
PLAIN = batches.prepare_fn((0.5,), (0.25,))
SHIFTED = batches.prepare_fn((0.5,), (0.25,), augment='pad_crop')


def _arrays(number=40, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 10, number).astype(np.int32)
  image = rng.integers(0, 50, (number, 8, 8, 1)).astype(np.uint8)
  image[np.arange(number), label % 8, label // 8] = 255  # Something to learn.
  return {'image': image, 'label': label}


def _fit(prepare=SHIFTED, **kwargs):
  kwargs = {'epochs': 4, 'batch_size': 8, 'seed': 3} | kwargs
  return train.fit(METHOD, _arrays(), prepare, **kwargs)


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _assert_close(one, other):
  """But for the rounding of another program."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    one,
    other,
  )


def _metrics(folder):
  """What a training wrote, but for how long it took."""
  return [
    {k: v for k, v in json.loads(line).items() if k != 'secs'}
    for line in (folder / 'metrics.jsonl').read_text().splitlines()
  ]


def test_a_stream_parts_the_batches_and_not_the_initial_weights():
  one, again, other = (
    _fit(epochs=1, stream=stream).variables for stream in ('a', 'a', 'b')
  )
  _assert_equal(one, again)
  differing = jax.tree.map(lambda a, b: (a != b).any(), one, other)
  assert all(jax.tree.leaves(differing))
  still = defenses.none.make(MODEL, optax.sgd(0.0))
  initial = [
    train.fit(
      still, _arrays(), PLAIN, epochs=1, batch_size=8, seed=3, stream=stream
    )
    for stream in ('a', 'b')
  ]
  _assert_equal(*(state.params for state in initial))
  # The last batches were others.
  differing = jax.tree.map(
    lambda a, b: (a != b).any(), *(state.batch_stats for state in initial)
  )
  assert all(jax.tree.leaves(differing))


def test_the_loss_falls():
  numbers, losses = [], []

  def on_step(number, loss, accuracy):
    numbers.append(number)
    losses.append(loss)

  _fit(PLAIN, epochs=12, on_step=on_step)
  assert sum(numbers) == 12 * 5
  assert np.mean(losses[-2:]) < 0.5 * np.mean(losses[:2])


def test_bfloat16_learns_too_and_keeps_its_state_in_float32():
  model = models.get_model('cnn8', 10, dtype=jnp.bfloat16)
  prepare = batches.prepare_fn((0.5,), (0.25,), dtype=jnp.bfloat16)
  method = defenses.none.make(model, optax.sgd(0.05, momentum=0.9))
  losses = []
  state = train.fit(
    method,
    _arrays(),
    prepare,
    epochs=12,
    batch_size=8,
    on_step=lambda number, loss, accuracy: losses.append(loss),
  )
  assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
  for leaf in jax.tree.leaves(state.variables):
    assert leaf.dtype == jnp.float32


def test_the_seed_decides():
  _assert_equal(_fit(), _fit())
  first, second = (
    jax.tree.leaves(_fit(seed=seed).params)[0] for seed in (3, 4)
  )
  assert (first != second).any()


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
  whole = _fit(folder=tmp_path / 'whole')

  class Killed(Exception):  # noqa: N818
    pass

  def die(number, loss, accuracy):
    die.steps += number
    if die.steps > 10:  # In the third epoch of five steps.
      raise Killed

  die.steps = 0
  with pytest.raises(Killed):
    _fit(folder=tmp_path / 'parts', on_step=die)
  resumed_steps = []
  resumed = _fit(
    folder=tmp_path / 'parts', on_step=lambda n, *_: resumed_steps.append(n)
  )
  assert sum(resumed_steps) == 10
  _assert_equal(resumed, whole)
  lines = [_metrics(tmp_path / name) for name in ('parts', 'whole')]
  assert lines[0] == lines[1]
  assert [line['epoch'] for line in lines[0]] == [1, 2, 3, 4]


def test_a_finished_training_takes_no_further_step(tmp_path):
  done = _fit(folder=tmp_path)
  steps = []
  again = _fit(folder=tmp_path, on_step=lambda n, *_: steps.append(n))
  assert not steps
  _assert_equal(done, again)


@pytest.mark.usefixtures('full_compilation')
def test_a_looped_epoch_equals_single_steps():
  arrays = _arrays()
  order = batches.epoch_order(jax.random.key(0), 40, 8, 2)
  ends, losses = [], []
  for make in (parallel.steps_fn, parallel.loops_fn):
    state = train.initial_state(METHOD, arrays, PLAIN, jax.random.key(1))
    loss = []
    epoch = make(METHOD, SHIFTED)
    for new, metrics in epoch(state, {}, arrays, order, jax.random.key(2)):
      state = new
      loss.extend(metrics['loss'])
    ends.append(state)
    losses.append(loss)
  assert len(losses[0]) == len(losses[1]) == 5
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
  _assert_close(*ends)


class _Foreign(nn.Module):
  """A module of a user, with Flax's own layers."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.relu(nn.Conv(4, (3, 3))(images))
    return nn.Dense(10)(nn.Conv(4, (3, 3))(x).mean((1, 2)))


@pytest.mark.parametrize(
  ('model', 'loops'), [(MODEL, True), (_Foreign(), False)]
)
def test_what_a_cpu_runs_slowly_in_a_loop_is_not_put_into_one(model, loops):
  numbers = []
  method = defenses.none.make(model, optax.sgd(0.05))
  train.fit(
    method,
    _arrays(),
    PLAIN,
    epochs=3,
    batch_size=8,
    on_step=lambda number, *_: numbers.append(number),
  )
  assert sum(numbers) == 15
  # But for the first step of an epoch, which tells how long one takes.
  assert (max(numbers) > 1) == loops


def test_every_example_comes_once_an_epoch_in_a_new_order():
  orders = [
    batches.epoch_order(jax.random.key(epoch), 40, 8, 2) for epoch in (1, 2)
  ]
  for order in orders:
    assert order.shape == (5, 2, 4)
    assert sorted(order.ravel()) == list(range(40))
  assert (orders[0] != orders[1]).any()


@functools.cache
def _students():
  """Three that hear the same teacher, and its variables."""
  images = np.zeros((1, 8, 8, 1), np.float32)
  init = jax.jit(functools.partial(TEACHER.init, train=False))
  variables = init(jax.random.key(8), images)
  # Not Adam, which makes much of the rounding of gradients that are zero.
  optimizer = optax.sgd(0.05, momentum=0.9)
  students = [
    trainee.Trainee(
      attacks.kd.make(
        models.get_model(name, 10), optimizer, teacher=TEACHER, **settings
      )
    )
    for name, settings in (
      ('cnn4', {'temperature': 4.0, 'alpha': 0.9}),
      ('cnn8', {'temperature': 4.0, 'alpha': 0.9}),
      ('cnn4', {'temperature': 1.0, 'alpha': 0.1}),
    )
  ]
  return students, {'teacher': variables}


def _fit_together(trainees, frozen, **kwargs):
  kwargs = {'epochs': 3, 'batch_size': 8, 'seed': 3} | kwargs
  return train.fit_together(
    trainees, _arrays(), SHIFTED, frozen=frozen, **kwargs
  )


def test_each_becomes_what_it_would_alone(tmp_path):
  students, frozen = _students()
  alone, beside = (
    [
      dataclasses.replace(one, folder=tmp_path / name / str(index))
      for index, one in enumerate(students)
    ]
    for name in ('alone', 'beside')
  )
  for one in alone:
    _fit_together([one], frozen)
  counts = []
  states = _fit_together(beside, frozen, on_step=lambda n, *_: counts.append(n))
  assert sum(counts) == 3 * 3 * 5
  for one, other, state in zip(alone, beside, states, strict=True):
    expected, found = (
      checkpoints.load(t.folder / 'checkpoints', state) for t in (one, other)
    )
    _assert_equal(found, state)
    _assert_close(found, expected)
    lines, others = map(_metrics, (one.folder, other.folder))
    assert len(lines) == len(others) == 3
    for line, other_line in zip(lines, others, strict=True):
      assert line == pytest.approx(other_line, rel=1e-3)


def test_a_shared_teacher_answers_once():
  students, frozen = _students()
  arrays = _arrays()
  batch = SHIFTED(arrays, np.arange(8), jax.random.key(0))

  def flops(methods):
    method = method_lib.together(tuple(methods))
    state = jax.eval_shape(method.init, jax.random.key(0), batch)
    compiled = jax.jit(method.step).lower(
      state, frozen, batch, jax.random.key(0)
    )
    return compiled.compile().cost_analysis()['flops']

  apart = sum(flops([one.method]) for one in students)
  together = flops([one.method for one in students])
  teacher_fn = method_lib.frozen_fn(TEACHER)
  teacher = (
    jax.jit(teacher_fn)
    .lower(frozen['teacher'], batch['image'])
    .compile()
    .cost_analysis()['flops']
  )
  assert teacher > 0.1 * together
  assert apart - together == pytest.approx(2 * teacher, rel=0.02)


def test_one_that_diverges_leaves_the_others_as_they_are():
  students, frozen = _students()
  model = models.get_model('cnn8', 10)
  explosive = trainee.Trainee(
    attacks.scratch.make(model, optax.sgd(1e30)), label='it', remedy='lower x'
  )
  unread = dataclasses.replace(
    students[1], evaluate_fn=lambda _: {'nll': float('inf')}, label='that'
  )
  expected = _fit_together(students, frozen)
  first, second, third, fourth = _fit_together(
    [students[0], explosive, unread, students[2]], frozen
  )
  _assert_close([first, fourth], [expected[0], expected[2]])
  for error, text in ((second, 'it: the loss'), (third, 'that: its answers')):
    assert isinstance(error, errors.DivergedError)
    assert str(error).startswith(text)


def test_networks_that_got_unequally_far_are_resumed_together(tmp_path):
  students, frozen = _students()
  whole = _fit_together(students, frozen)
  students = [
    dataclasses.replace(one, folder=tmp_path / str(index))
    for index, one in enumerate(students)
  ]
  _fit_together(students[:2], frozen, epochs=1)
  _fit_together(students[:1], frozen, epochs=2)
  counts = []
  resumed = _fit_together(
    students, frozen, on_step=lambda n, *_: counts.append(n)
  )
  assert sum(counts) == (1 + 2 + 3) * 5
  _assert_close(resumed, whole)


def test_a_non_finite_loss_stops_with_the_step_and_the_remedy(tmp_path):
  explosive = defenses.none.make(MODEL, optax.sgd(1e30))
  with pytest.raises(errors.DivergedError, match=r'teacher.*step \d+; lower x'):
    train.fit(
      explosive,
      _arrays(),
      PLAIN,
      epochs=2,
      batch_size=8,
      label='teacher',
      remedy='lower x',
      folder=tmp_path,
    )


def test_an_evaluation_without_numbers_stops_too():
  with pytest.raises(errors.DivergedError, match='evaluated; lower x'):
    _fit(evaluate_fn=lambda _: {'nll': float('nan')}, remedy='lower x')


@pytest.mark.parametrize('batch_size', [0, 7, 42])
def test_a_batch_that_does_not_fit_is_refused(batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size}'):
    _fit(batch_size=batch_size)


def test_a_checkpoint_of_another_architecture_is_named(tmp_path):
  _fit(folder=tmp_path)
  other = defenses.none.make(models.get_model('cnn16', 10), optax.sgd(0.1))
  template = train.abstract_state(other, _arrays(), PLAIN)
  with pytest.raises(errors.InputError, match='another architecture.*delete'):
    checkpoints.load(tmp_path / 'checkpoints', template)


def test_a_checkpoint_with_as_many_numbers_elsewhere_is_refused(tmp_path):
  template = {'a': np.zeros((2, 3), np.float32), 'b': np.zeros(4, np.float32)}
  others = (
    {'a': np.zeros(4, np.float32), 'b': np.zeros((2, 3), np.float32)},
    {'a': np.zeros((3, 2), np.float32), 'b': np.zeros(4, np.float32)},
    {'a': np.zeros((2, 3), np.float32), 'c': np.zeros(4, np.float32)},
    {'a': np.zeros((2, 3), np.int32), 'b': np.zeros(4, np.float32)},
  )
  for number, other in enumerate(others):
    with checkpoints.Checkpoints(tmp_path / str(number)) as written:
      written.save(1, other)
    with pytest.raises(errors.InputError, match='another architecture'):
      checkpoints.load(tmp_path / str(number), template)


def test_every_dtype_comes_back_from_a_checkpoint(tmp_path):
  state = {
    'step': jnp.asarray(7, jnp.int32),
    'weights': [jnp.arange(6.0).reshape(2, 3), jnp.ones((), jnp.float32)],
    'half': jnp.asarray([0.1, 3.0], jnp.bfloat16),
    'empty': jnp.zeros((0, 3)),
    'none': None,
    'mask': jnp.asarray([True, False]),
  }
  with checkpoints.Checkpoints(tmp_path) as written:
    written.save(3, state)
  again = checkpoints.load(tmp_path, jax.eval_shape(lambda: state))
  chex.assert_trees_all_equal(again, state)
  chex.assert_trees_all_equal_shapes_and_dtypes(again, state)


def test_a_damaged_checkpoint_is_named(tmp_path):
  _fit(folder=tmp_path, epochs=1)
  template = train.abstract_state(METHOD, _arrays(), PLAIN)
  # Not the arrays: Orbax's threads then complain after the test has ended.
  (metadata,) = tmp_path.rglob('_METADATA')
  metadata.write_bytes(metadata.read_bytes()[:100])
  with pytest.raises(errors.InputError, match='it is damaged.*delete'):
    checkpoints.load(tmp_path / 'checkpoints', template)


def test_a_checkpoint_holds_the_state_it_was_given(tmp_path, caplog):
  state = _fit(folder=tmp_path)
  template = train.abstract_state(METHOD, _arrays(), PLAIN)
  _assert_equal(checkpoints.load(tmp_path / 'checkpoints', template), state)
  warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
  assert not warnings  # Orbax tells users what they cannot mend.


def test_a_training_is_compiled_once():
  """Whatever the number of epochs and seeds, and of steps in a loop."""
  chex.clear_trace_counter()
  # Steps are traced for the program, and before for the shapes of the metrics
  # and for the convolutions that are in them.
  method = method_lib.Method(
    chex.assert_max_traces(METHOD.init, n=1),
    chex.assert_max_traces(METHOD.step, n=3),
  )
  for seed in (3, 4):
    train.fit(method, _arrays(), PLAIN, epochs=2, batch_size=8, seed=seed)


def test_a_prediction_is_compiled_once():
  """Whatever the number of batches, a shorter one among them, and networks."""
  chex.clear_trace_counter()
  apply_fn = chex.assert_max_traces(method_lib.frozen_fn(MODEL), n=1)
  for seed, number in ((0, 37), (1, 9)):
    arrays = _arrays(number)
    key = jax.random.key(seed)
    state = train.initial_state(METHOD, arrays, PLAIN, key)
    evaluate.predict(apply_fn, state.variables, arrays, PLAIN, batch_size=16)


@pytest.mark.parametrize('batch_size', [3, 16, 512])
def test_prediction_covers_every_example(batch_size):
  arrays = _arrays(37)
  state = train.initial_state(METHOD, arrays, PLAIN, jax.random.key(0))
  logits = evaluate.predict(
    method_lib.frozen_fn(MODEL),
    state.variables,
    arrays,
    PLAIN,
    batch_size=batch_size,
  )
  images = (arrays['image'] / np.float32(255) - 0.5) / np.float32(0.25)
  apply = jax.jit(functools.partial(MODEL.apply, train=False))
  expected = apply(state.variables, jnp.asarray(images))
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_scores_by_hand():
  logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
  scores = evaluate.scores(logits, np.array([0, 1]))
  assert scores['accuracy'] == 50.0
  np.testing.assert_allclose(scores['nll'], -np.log(0.5 * 0.1) / 2)


def test_fidelity_by_hand():
  p, q = np.log([[0.75, 0.25]]), np.log([[0.25, 0.75]])
  found = evaluate.fidelity(q, p)
  assert found['agreement'] == 0.0
  np.testing.assert_allclose(found['kl'], 0.5 * np.log(3))


def test_what_stands_in_for_data_reads_none():
  prepare = batches.blank_fn((8, 8, 3), jnp.bfloat16)
  batch = prepare({}, np.array([5, 2]), jax.random.key(0))
  assert batch['image'].shape == (2, 8, 8, 3)
  assert batch['image'].dtype == jnp.bfloat16
  assert not batch['image'].any()
  np.testing.assert_array_equal(batch['index'], [5, 2])
  assert batches.blank_fn((8, 8, 3), jnp.bfloat16) is prepare
