"""Training: resumed, looped, on two devices, beside others: it is the same."""

import dataclasses
import functools
import json
import logging
import types

import chex
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
  method as method_lib,
  models,
  oracle,
)
from undistillable.data import batches
from undistillable.models import layers
from undistillable.training import checkpoints, parallel, train

MODEL = networks.Small()
TEACHER = networks.Small(width=16)
ORACLE = oracle.as_oracle(TEACHER)
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


def _restored(folder, template):
  """The state in the checkpoint of a training."""
  with checkpoints.Checkpoints(folder / 'checkpoints') as written:
    return written.restore(template)[1]


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
  differing = jax.tree.map(lambda a, b: np.not_equal(a, b).any(), one, other)
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
    lambda a, b: np.not_equal(a, b).any(),
    *(state.batch_stats for state in initial),
  )
  assert all(jax.tree.leaves(differing))


def test_a_network_that_looks_at_its_data_is_initialised_with_many_images():
  arrays = _arrays(600)
  model = models.get_model('airbench93', 10, widths=(4, 4, 4))
  state = train.initial_state(
    defenses.none.make(model, optax.sgd(0.05)), arrays, PLAIN, jax.random.key(0)
  )
  images = PLAIN(arrays, np.arange(500), jax.random.key(0))['image']
  expected = jax.jit(layers.Whitening().init)(jax.random.key(0), images)
  np.testing.assert_allclose(
    state.batch_stats['whiten']['kernel'],
    expected['batch_stats']['kernel'],
    rtol=1e-3,
    atol=1e-3,
  )


@pytest.mark.usefixtures('full_compilation')
def test_a_network_starts_from_the_weights_that_its_own_init_gives():
  """Bit for bit, although it is compiled in less time."""
  model = networks.Small(strides=(1, 2))
  arrays, key = _arrays(), jax.random.key(5)
  image = PLAIN(arrays, np.arange(40), key)['image']
  expected = jax.jit(functools.partial(model.init, train=False))(key, image)
  method = defenses.none.make(model, optax.sgd(0.05))
  state = train.initial_state(method, arrays, PLAIN, key)
  _assert_equal(state.params, expected['params'])


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


@pytest.fixture
def saved_often(monkeypatch):
  """A checkpoint after each epoch, however long these are."""
  monkeypatch.setattr(train, '_PAUSE', 0)


@pytest.mark.parametrize(
  ('every', 'saving', 'expected'),
  [
    (1, 0.0, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (1, 0.04, [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # 20 of them take 0.8 of an epoch.
    (1, 0.14, [1, 4, 7, 9]),  # 2.8 epochs.
    (2, 0.14, [2, 6, 9]),
    (1, 1.0, [1, 9]),
    (100, 0.0, [9]),
  ],
)
def test_checkpoints_take_a_small_part_of_the_time(
  every, saving, expected, tmp_path, monkeypatch
):
  """The last one is written whatever it takes."""
  clock = types.SimpleNamespace(now=1000.0)
  monkeypatch.setattr(
    train, 'time', types.SimpleNamespace(monotonic=lambda: clock.now)
  )
  saved = []

  def save(self, epoch, *args):
    clock.now += saving / 2  # Of two networks.
    saved.append((self, epoch))

  monkeypatch.setattr(checkpoints.Checkpoints, 'save', save)

  def on_step(number, *_):
    clock.now += number / 2 / 5  # An epoch of five steps takes both a second.

  trainees = [
    train.Trainee(METHOD, folder=tmp_path / name) for name in ('one', 'other')
  ]
  train.fit_together(
    trainees,
    _arrays(),
    SHIFTED,
    epochs=9,
    batch_size=8,
    checkpoint_every_epochs=every,
    on_step=on_step,
  )
  assert [epoch for _, epoch in saved[::2]] == expected
  assert [epoch for _, epoch in saved[1::2]] == expected
  assert len({one for one, _ in saved}) == 2


@pytest.mark.usefixtures('saved_often')
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
  # Whatever becomes of these: they are in the checkpoint as well.
  (tmp_path / 'parts' / 'metrics.jsonl').write_text('{"epoch": 1, "step": 7}')
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
@pytest.mark.parametrize(('wanted', 'taken'), [(None, 5), (2, 2), (9, 5)])
def test_a_looped_epoch_equals_single_steps(wanted, taken):
  """So many as are wanted, or as there are."""
  arrays = _arrays()
  order = parallel.epoch_order(jax.random.key(0), 40, 8)
  key = jax.random.key(2)
  lesson = parallel.Lesson({}, arrays, order, key, num_steps=wanted)
  ends, losses = [], []
  for make in (parallel.steps_fn, parallel.loops_fn):
    state = train.initial_state(METHOD, arrays, PLAIN, jax.random.key(1))
    loss = []
    epoch = make(METHOD, SHIFTED)
    for new, metrics in epoch(state, lesson):
      state = new
      loss.extend(metrics['loss'])
    ends.append(state)
    losses.append(loss)
  assert len(losses[0]) == len(losses[1]) == taken
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
    parallel.epoch_order(jax.random.key(epoch), 40, 8) for epoch in (1, 2)
  ]
  for order in orders:
    assert order.shape == (5, 2, 4)
    assert sorted(order.ravel()) == list(range(40))
  assert (orders[0] != orders[1]).any()


# Frozen networks, of which the loop asks what the steps hear.


@functools.cache
def _students():
  """Three that hear the same teacher, and its variables."""
  images = np.zeros((1, 8, 8, 1), np.float32)
  init = jax.jit(functools.partial(TEACHER.init, train=False))
  variables = init(jax.random.key(8), images)
  # Not Adam, which makes much of the rounding of gradients that are zero.
  optimizer = optax.sgd(0.05, momentum=0.9)
  students = [
    train.Trainee(
      attacks.kd.make(
        networks.Small(width=width),
        optimizer,
        attacks.kd.Settings(temperature, alpha),
        {'teacher': ORACLE},
      )
    )
    for width, temperature, alpha in (
      (4, 4.0, 0.9),
      (8, 4.0, 0.9),
      (4, 1.0, 0.1),
    )
  ]
  return students, {'teacher': variables}


@pytest.fixture
def asked(monkeypatch):
  """How many images each call of `parallel.answers` asks about."""
  counts, answers = [], parallel.answers

  def spy(answer_fns, prepare, lesson, parts):
    counts.extend(lesson.order.size for _ in answer_fns)
    return answers(answer_fns, prepare, lesson, parts)

  monkeypatch.setattr(parallel, 'answers', spy)
  return counts


def _witness(plain):
  """A method that compares what it hears with what there is to see.

  Its teacher answers with the pixels themselves, and the label of an example is
  its place in `plain`, float[N, H, W, C], the images without augmentation.
  """

  def loss_fn(seen):
    loss = jnp.square(seen.logits).mean(-1)
    heard = seen.answers['teacher']

    def distance(images):
      return jnp.abs(heard - images.reshape(heard.shape)).max(-1)

    return loss, {
      'from_view': distance(seen.batch['image']),
      'from_plain': distance(plain[seen.batch['label']]),
    }

  method = method_lib.supervised(
    models.get_model('mlp', 10),
    optax.sgd(0.1),
    loss_fn,
    answer_fns={
      'teacher': lambda scale, images: scale * images.reshape(len(images), -1)
    },
  )
  return dataclasses.replace(method, logits_fn=None)  # Labels are no classes.


@pytest.mark.parametrize(
  ('ask_with', 'expected'),
  [(None, [40, 40, 40]), (PLAIN, [48, 48])],  # Once in each process.
)
def test_a_teacher_is_asked_about_what_it_should_be(
  ask_with, expected, asked, tmp_path
):
  """Each view that the student sees, drawn as it is drawn; or the plain image.

  Three examples are left over in each epoch; and the training is resumed.
  """
  arrays = {**_arrays(43), 'label': np.arange(43, dtype=np.int32)}
  everything = np.arange(43)
  plain = PLAIN(arrays, everything, jax.random.key(0))['image']
  fit = functools.partial(
    train.fit,
    _witness(plain),
    arrays,
    batches.prepare_fn((0.5,), (0.25,), augment='pad_crop_flip'),
    batch_size=8,
    frozen={'teacher': jnp.ones(())},
    ask_with=ask_with,
    folder=tmp_path,
  )
  fit(epochs=1)
  fit(epochs=3)
  assert asked == expected
  same, other = 'train_from_view', 'train_from_plain'
  if ask_with:
    same, other = other, same
  lines = _metrics(tmp_path)
  assert len(lines) == 3
  for line in lines:
    assert line[same] < 1e-5
    assert line[other] > 1.0


@pytest.mark.usefixtures('all_devices_again')
def test_answers_lie_where_their_examples_do():
  """And zeros where nobody asks, whatever the number of devices."""
  arrays = _arrays(43)
  order = np.random.default_rng(0).permutation(43)[:40].astype(np.int32)

  def answer(scale, images):
    return scale * images.reshape(len(images), -1)

  found = []
  for devices in (1, 2):
    parallel.use(devices)
    lesson = parallel.Lesson(
      {'teacher': np.float32(2.0)},
      arrays,
      order.reshape(5, devices, -1),
      jax.random.key(0),
    )
    found.append(parallel.answers({'teacher': answer}, PLAIN, lesson))
  one, two = (answers['teacher'] for answers in found)
  np.testing.assert_array_equal(one, two)
  images = PLAIN(arrays, np.arange(43), jax.random.key(0))['image']
  expected = 2 * np.array(images).reshape(43, -1)
  expected[np.setdiff1d(np.arange(43), order)] = 0
  np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_a_student_becomes_what_it_would_if_its_steps_asked():
  (student, *_), frozen = _students()
  asking = dataclasses.replace(student.method, answer_fns={})
  fit = functools.partial(
    train.fit, arrays=_arrays(), prepare=SHIFTED, epochs=2, batch_size=8
  )
  handed_in, inside = (
    fit(method, frozen=frozen) for method in (student.method, asking)
  )
  _assert_close(handed_in, inside)
  teacher = frozen['teacher']
  weights = jax.tree.map(lambda x: -x, teacher['params'])
  other = {'teacher': {**teacher, 'params': weights}}
  with pytest.raises(AssertionError):  # What it hears does matter.
    _assert_close(fit(student.method, frozen=other), inside)


def test_a_network_may_start_from_the_weights_of_another():
  def init(rng, batch, frozen):
    state = METHOD.init(rng, batch, frozen)
    return state.replace(params=frozen['normal']['params'])

  normal = _fit(PLAIN, epochs=1).variables
  still = defenses.none.make(MODEL, optax.sgd(0.0))
  method = dataclasses.replace(still, init=init)
  state = train.fit(
    method,
    _arrays(),
    PLAIN,
    epochs=1,
    batch_size=8,
    seed=4,
    frozen={'normal': normal},
  )
  # A state without momentum: none of `METHOD`'s is wanted.
  _assert_equal(state.params, normal['params'])


# Networks side by side.


def _fit_together(trainees, frozen, **kwargs):
  kwargs = {'epochs': 3, 'batch_size': 8, 'seed': 3} | kwargs
  return train.fit_together(
    trainees, _arrays(), SHIFTED, frozen=frozen, **kwargs
  )


def test_each_becomes_bit_for_bit_what_it_would_alone(tmp_path):
  students, frozen = _students()
  alone, beside = (
    [
      dataclasses.replace(one, folder=tmp_path / name / str(index))
      for index, one in enumerate(students)
    ]
    for name in ('alone', 'beside')
  )
  expected = [_fit_together([one], frozen)[0] for one in alone]
  counts = []
  states = _fit_together(beside, frozen, on_step=lambda n, *_: counts.append(n))
  assert sum(counts) == 3 * 3 * 5
  _assert_equal(states, expected)
  for one, other, state in zip(alone, beside, states, strict=True):
    _assert_equal(_restored(other.folder, state), state)
    lines = _metrics(one.folder)
    assert lines == _metrics(other.folder)
    assert len(lines) == 3


@pytest.mark.parametrize(
  ('ask_with', 'expected'), [(None, [40] * 3), (PLAIN, [40])]
)
def test_a_shared_teacher_is_asked_once_for_all(ask_with, expected, asked):
  students, frozen = _students()
  alone = train.Trainee(METHOD)  # Who asks nobody.
  states = _fit_together([*students, alone], frozen, ask_with=ask_with)
  assert asked == expected
  assert [int(state.step) for state in states] == [15] * 4


def test_one_that_diverges_leaves_the_others_as_they_are():
  students, frozen = _students()
  explosive = train.Trainee(
    attacks.kd.make(
      models.get_model('cnn8', 10),
      optax.sgd(1e30),
      attacks.kd.Settings(),
      {'teacher': ORACLE},
    ),
    label='it',
    remedy='lower x',
  )
  unread = dataclasses.replace(
    students[1], evaluate_fn=lambda _: {'nll': float('inf')}, label='that'
  )
  expected = _fit_together([students[0], students[2]], frozen)
  first, second, third, fourth = _fit_together(
    [students[0], explosive, unread, students[2]], frozen
  )
  _assert_equal([first, fourth], expected)
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
  _assert_equal(resumed, whole)


# What goes wrong, and what is written.


def test_a_non_finite_loss_stops_with_the_step_and_the_remedy(tmp_path):
  explosive = defenses.none.make(MODEL, optax.sgd(1e30))
  with pytest.raises(errors.DivergedError, match=r'step \d+; lower the lear'):
    train.fit(
      explosive, _arrays(), PLAIN, epochs=2, batch_size=8, folder=tmp_path
    )


def test_an_evaluation_without_numbers_stops_too():
  with pytest.raises(errors.DivergedError, match='evaluated; lower the'):
    _fit(evaluate_fn=lambda _: {'nll': float('nan')})


@pytest.mark.parametrize('batch_size', [0, 7, 42])
def test_a_batch_that_does_not_fit_is_refused(batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size}'):
    _fit(batch_size=batch_size)


def test_a_checkpoint_of_another_network_or_optimizer_is_named(tmp_path):
  _fit(folder=tmp_path, epochs=1)
  for name, optimizer in (
    ('cnn16', optax.sgd(0.05, momentum=0.9)),
    ('cnn8', optax.sgd(0.05)),
  ):
    other = defenses.none.make(models.get_model(name, 10), optimizer)
    with pytest.raises(errors.InputError, match='another architecture.*delete'):
      train.fit(
        other, _arrays(), PLAIN, epochs=2, batch_size=8, folder=tmp_path
      )


def test_a_checkpoint_holds_the_state_it_was_given(tmp_path, caplog):
  state = _fit(folder=tmp_path)
  _assert_equal(_restored(tmp_path, state), state)
  warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
  assert not warnings  # Orbax tells users what they cannot mend.


def test_a_training_is_compiled_once():
  """Whatever the number of epochs and seeds, and of steps in a loop."""
  chex.clear_trace_counter()
  (student, *_), frozen = _students()
  answer_fns = {
    role: chex.assert_max_traces(ask, n=1)
    for role, ask in student.method.answer_fns.items()
  }
  method = method_lib.Method(
    chex.assert_max_traces(student.method.init, n=1),
    chex.assert_max_traces(student.method.step, n=1),
    answer_fns,
  )
  for seed in (3, 4):
    train.fit(
      method,
      _arrays(),
      PLAIN,
      epochs=2,
      batch_size=8,
      seed=seed,
      frozen=frozen,
    )


def test_what_stands_in_for_data_reads_none():
  prepare = batches.blank_fn((8, 8, 3), jnp.bfloat16)
  batch = prepare({}, np.array([5, 2]), jax.random.key(0))
  assert batch['image'].shape == (2, 8, 8, 3)
  assert batch['image'].dtype == jnp.bfloat16
  assert not batch['image'].any()
  np.testing.assert_array_equal(batch['index'], [5, 2])
  assert batches.blank_fn((8, 8, 3), jnp.bfloat16) is prepare


@pytest.fixture
def all_devices_again():
  yield
  parallel.use(None)


def test_a_training_goes_on_on_fewer_devices_and_on_more(
  tmp_path, all_devices_again
):
  (student, *_), frozen = _students()

  def trained(folder, *epochs_on):
    for epochs, num_devices in epochs_on:
      parallel.use(num_devices)
      state = train.fit(
        student.method,
        _arrays(),
        PLAIN,
        epochs=epochs,
        batch_size=8,
        seed=3,
        frozen=frozen,
        folder=tmp_path / folder,
      )
    kernel = jax.tree.leaves(state.params)[0]
    assert len(kernel.sharding.device_set) == parallel.num_devices()
    return jax.device_get(state.variables)

  # What was compiled for one device must not serve two.
  on_one = trained('one', (2, 1))
  for name, *epochs_on in (
    ('all', (2, None)),
    ('fewer', (1, 2), (2, 1)),
    ('more', (1, 1), (2, 2)),
  ):
    found = trained(name, *epochs_on)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
      on_one,
      found,
    )


BLANK = batches.blank_fn((8, 8, 1))
MADE = {'latent_dim': 6, 'generator_width': 4}
# What draws in a step: images that are moved, or made up.
DRAWS = {
  'augmented': lambda: METHOD,
  'dafl': lambda: _thief('dafl', **MADE),
  'decoy': lambda: defenses.decoy.make(
    MODEL, optax.sgd(0.05), defenses.decoy.Settings(), {'normal': MODEL}
  ),
  'deep_inversion': lambda: _thief(
    'deep_inversion', num_images=40, low=(-2.0,), high=(2.0,), batch_norm=1.0
  ),
  'fast': lambda: _thief(
    'fast',
    **MADE,
    low=(-2.0,),
    high=(2.0,),
    generator_steps=2,
    student_steps=2,
    warmup=1,
    pool=40,
  ),
}


def _thief(name, **settings):
  module = attacks.ATTACKS[name]
  door = oracle.Oracle(method_lib.frozen_fn(TEACHER), TEACHER)
  return module.make(
    MODEL, optax.sgd(0.05), module.Settings(**settings), {'teacher': door}
  )


@pytest.mark.whole
@pytest.mark.parametrize('name', DRAWS)
def test_whoever_draws_is_trained_on_two_devices_as_on_one(
  name, all_devices_again
):
  """With the keys of the training loop, which no test of a step has."""
  method = DRAWS[name]()
  arrays, prepare = {'label': np.zeros(40, np.int32)}, BLANK
  if name in ('augmented', 'decoy'):
    arrays, prepare = _arrays(), SHIFTED
  init = functools.partial(TEACHER.init, train=False)
  image = np.zeros((1, 8, 8, 1), np.float32)
  frozen = {
    'teacher': jax.jit(init)(jax.random.key(9), image),
    'normal': jax.jit(MODEL.init)(jax.random.key(9), image),
  }
  found = []
  for number in (1, 2):
    parallel.use(number)
    state = train.fit(
      method,
      arrays,
      prepare,
      epochs=1,
      batch_size=20,
      seed=3,
      frozen=frozen,
    )
    found.append(jax.device_get(state.variables))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4),
    *found,
  )


@pytest.mark.parametrize('number', [0, 3, -1])
def test_devices_that_are_not_there_are_refused(number, all_devices_again):
  with pytest.raises(errors.InputError, match='there are 2, and None takes a'):
    parallel.use(number)
