"""MAZE: what it pays for, what it remembers, what both networks want."""

import functools

import config_files
import jax
import numpy as np
import optax
import pytest

from undistillable import errors, losses, models, oracle
from undistillable.attacks import dfme, generators, maze
from undistillable.graph import plan

RNG = jax.random.key(1)
SIZE = 6
TINY = {
  'latent_dim': 4,
  'generator_width': 2,
  'student_steps': 2,
  'directions': 2,
  'replay_steps': 3,
  'memory': 10,
}
MODEL = models.get_model('mlp', 10)


@functools.cache
def _method(**changes):
  settings = maze.Settings(**{**TINY, **changes})
  teacher = oracle.Oracle(functools.partial(MODEL.apply, train=False))
  return maze.make(MODEL, optax.sgd(0.1), settings, {'teacher': teacher})


def _batch():
  return {
    'image': np.zeros((SIZE, 4, 4, 1), np.float32),
    'label': np.full(SIZE, -1),
    'index': np.arange(SIZE),
  }


_init = jax.jit(MODEL.init)


def _start(method, seed=0):
  frozen = {'teacher': _init(jax.random.key(seed), _batch()['image'])}
  return jax.jit(method.init)(jax.random.key(0), _batch(), frozen), frozen


# What is paid for.


def test_the_published_iteration_asks_1920_times():
  assert 128 * maze.Settings().queries_per_image == 1920
  assert dfme.num_steps(maze.Settings(), 128) == 5_000_000 // 1920


@pytest.mark.parametrize(
  'changes', [{}, {'directions': 1, 'student_steps': 4}, {'replay_steps': 0}]
)
def test_a_step_asks_as_often_as_it_says(changes):
  """And for nothing that it remembers."""
  method = _method(**changes)
  state, frozen = jax.eval_shape(lambda: _start(method))
  count = oracle.queries(method.step, state, frozen, _batch(), RNG)
  settings = maze.Settings(**{**TINY, **changes})
  assert count == SIZE * settings.queries_per_image
  assert oracle.queries(method.init, RNG, _batch(), frozen) == 0


def _run(**changes):
  config = config_files.load('digits')
  config.attacks, config.seeds = ('maze',), (0,)
  config.update_from_flattened_dict(
    {f'maze.{k}': v for k, v in changes.items()}
  )
  return plan.make(config)[-1]


@pytest.mark.parametrize('budget', [1_000, 12_345, 5_000_000])
def test_the_budget_is_never_passed(budget):
  run = _run(budget=budget)
  steps = run.recipe['epochs'] * run.recipe['steps_per_epoch']
  assert steps * 64 * 15 <= budget
  assert steps > budget // (64 * 15) - run.recipe['epochs']
  assert (run.settings['low'], run.settings['high']) != ((-2.0,), (2.0,))


def test_what_cannot_be_is_refused():
  with pytest.raises(errors.InputError, match='less than the 960 queries'):
    _run(budget=959)
  with pytest.raises(errors.InputError, match='less than a batch of 64'):
    _run(memory=63)
  for name, value in {**dict.fromkeys(TINY, -1), 'epsilon': 0.0}.items():
    with pytest.raises(ValueError, match=name):
      maze.Settings(**{name: value})


# What is remembered.


def _rows(*numbers):
  image = np.float32(numbers).reshape(-1, 1, 1, 1)
  return {'image': image, 'answers': np.repeat(image.reshape(-1, 1), 2, axis=1)}


_draw = jax.jit(lambda memory, index: memory.draw(RNG, index))
_write = jax.jit(lambda memory, rows: memory.write(rows, None))


def _drawn(memory, index):
  drawn = jax.device_get(_draw(memory, index))
  return drawn['image'], drawn['answers']


def test_a_full_memory_forgets_the_first():
  memory = generators.Memory(_rows(0, 0, 0, 0), np.int32(0))
  memory = _write(memory, _rows(1, 2, 3))
  index = np.arange(200)
  images, answers = _drawn(memory, index)
  assert set(images.ravel().tolist()) == {1.0, 2.0, 3.0}
  np.testing.assert_array_equal(answers[:, 0], images.ravel())
  np.testing.assert_array_equal(_drawn(memory, index[100:])[0], images[100:])
  memory = _write(memory, _rows(4, 5, 6))
  images, _ = _drawn(memory, index)
  assert set(images.ravel().tolist()) == {3.0, 4.0, 5.0, 6.0}


def test_the_student_learns_of_its_memory_as_well():
  method = _method()
  state, frozen = _start(method, seed=5)
  step = jax.jit(method.step)
  for steps in (1, 2):
    state, _ = step(state, frozen, _batch(), RNG)
    assert state.student.step == 5 * steps
    assert state.step == steps
    assert state.memory.count == SIZE * steps
  kept = jax.device_get(state.memory.kept)
  images, answers = (kept[k] for k in ('image', 'answers'))
  expected = jax.jit(MODEL.apply)(frozen['teacher'], images)
  np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5)
  assert len(np.unique(images.reshape(10, -1), axis=0)) == 10


# What they want.


def test_equal_networks_have_nothing_to_learn():
  method = _method()
  state, frozen = _start(method, seed=5)
  student = state.student.replace(params=frozen['teacher']['params'])
  step = jax.jit(method.step)
  after, metrics = step(state.replace(student=student), frozen, _batch(), RNG)
  assert metrics['disagreement'] == pytest.approx(0.0, abs=1e-6)
  assert metrics['loss'] == pytest.approx(0.0, abs=1e-6)
  assert metrics['accuracy'] == 100.0
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    after.student.params,
    student.params,
  )
  _, metrics = step(state, frozen, _batch(), RNG)
  assert metrics['disagreement'] > 1e-3
  assert metrics['loss'] > 1e-3


@pytest.mark.parametrize(
  ('module', 'rate', 'apart'),
  [
    (dfme, 3e-3, dfme.disagreement),
    (maze, 1.0, lambda z, q: losses.kl_divergence(q, z)),
  ],
  ids=['dfme', 'maze'],
)
def test_a_step_of_the_generator_raises_the_disagreement(module, rate, apart):
  """Of images from noise that it has not seen; the student is as he was."""
  settings = module.Settings(
    latent_dim=4,
    generator_width=4,
    student_steps=1,
    directions=32,
    generator_learning_rate=rate,
  )
  teacher = oracle.Oracle(functools.partial(MODEL.apply, train=False))
  method = module.make(MODEL, optax.sgd(0.1), settings, {'teacher': teacher})
  batch = {'image': np.zeros((64, 4, 4, 1), np.float32), 'index': np.arange(64)}
  state, frozen = _start(method, seed=5)
  after, metrics = jax.jit(method.step)(state, frozen, batch, RNG)
  assert metrics['disagreement'] > 0
  trainer = generators.Trainer(settings, optax.sgd(rate), batch)

  @jax.jit
  def disagreement(generator):
    images, _ = trainer.sample(generator, jax.random.key(2))
    images = dfme.to_images(images, settings)
    student, said = (
      MODEL.apply(variables, images)
      for variables in (state.student.variables, frozen['teacher'])
    )
    return apart(student, said).mean()

  before, now = (float(disagreement(s.generator)) for s in (state, after))
  assert now > 1.01 * before
