"""Markov KD: its matrices by hand, what they can do, and who learns what."""

import functools

import bare
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import losses
from undistillable.attacks import kd, mkd

Z_S, Z_T = np.float32([bare.STUDENT]), np.float32([bare.TEACHER])
LABEL = np.array([0])
SIZE, CLASSES = 6, 5
mapped_answers = jax.jit(mkd.mapped_answers)


def _random(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def _matrices(s=1.0, rank=1, num_classes=3):
  no = jnp.zeros((num_classes, num_classes, rank))
  return {'u': no, 'v': no, 's': jnp.full(num_classes, s)}


def _mapped(matrices, answers, labels, temperature=4.0):
  return np.exp(
    mapped_answers(matrices, answers, labels, temperature=temperature)
  )


def _take(given, matrices, **settings):
  """A step from these matrices."""
  method = bare.attack(mkd, **settings)
  state = bare.start(method, given).replace(extra=matrices)
  return bare.take(method, given, state)


def test_a_mapped_answer_is_the_known_one():
  found = _mapped(_matrices(), Z_T, LABEL)[0]
  np.testing.assert_allclose(found, (0.396389, 0.323815, 0.279796), atol=1e-5)


def test_a_matrix_maps_the_answers_of_its_class_as_written():
  """By the definition, one example at a time."""
  matrices = {
    'u': _random(0, CLASSES, CLASSES, 2),
    'v': _random(1, CLASSES, CLASSES, 2),
    's': _random(2, CLASSES),
  }
  answers, labels = _random(3, SIZE, CLASSES), np.arange(SIZE) % CLASSES
  found = _mapped(matrices, answers, labels)
  for row, z, y in zip(found, answers, labels, strict=True):
    t = np.exp(z / 4.0) / np.exp(z / 4.0).sum()
    u, v = matrices['u'][y], matrices['v'][y]
    m = np.exp(matrices['s'][y] * np.eye(CLASSES) + u @ v.T)
    expected = t @ (m / m.sum(1, keepdims=True))
    np.testing.assert_allclose(row, expected, rtol=1e-4)


@pytest.mark.parametrize('scale', [0.0, 1.0, 30.0])
def test_a_mapped_answer_is_a_distribution(scale):
  init = functools.partial(mkd.init_matrices, jax.random.key(0))
  matrices = jax.tree.map(lambda x: scale * x, init(CLASSES, 3))
  answers = losses.finite(
    jnp.asarray(_random(0, SIZE, CLASSES)).at[0, 1:].set(-jnp.inf)
  )
  found = _mapped(matrices, answers, np.arange(SIZE) % CLASSES)
  np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
  assert (found >= 0).all()


def test_a_large_s_leaves_the_answers_and_none_leaves_nothing():
  given = bare.batch(Z_S, LABEL, teacher=Z_T)
  metrics, gradient, _ = _take(given, _matrices(s=60.0), rank=1)
  plain, expected, _ = bare.take(bare.attack(kd), given)
  assert metrics['loss'] == pytest.approx(0.913479, abs=1e-5)
  assert metrics['mapped'] == pytest.approx(0.0, abs=1e-4)
  np.testing.assert_allclose(metrics['kl'], plain['kl'], rtol=1e-5)
  np.testing.assert_allclose(gradient, expected, atol=1e-5)
  np.testing.assert_allclose(_mapped(_matrices(0.0), Z_T, LABEL), 1 / 3)


def test_what_a_matrix_can_do_is_bounded_by_its_rank():
  """Beside a multiple of the identity, whose part is told from its rest."""
  init = functools.partial(mkd.init_matrices, jax.random.key(0), CLASSES)
  matrices = init(rank=2)
  scores = matrices['u'] @ jnp.swapaxes(matrices['v'], 1, 2)
  assert (np.linalg.matrix_rank(scores) == 2).all()
  for classes, rank, number in ((100, 3, 60_100), (200, 5, 400_200)):
    shapes = jax.eval_shape(
      functools.partial(mkd.init_matrices, jax.random.key(0), classes, rank)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == number


def test_a_matrix_of_equal_rows_does_not_hear_the_teacher():
  """Which is why the attack without a teacher is its control."""
  matrices = _matrices(s=0.0, num_classes=CLASSES)
  matrices['u'] = jnp.ones_like(matrices['u'])
  matrices['v'] = jnp.asarray(_random(0, CLASSES, CLASSES, 1))
  labels = np.arange(SIZE) % CLASSES
  one, two = (_random(seed, SIZE, CLASSES) for seed in (1, 2))
  found = _mapped(matrices, one, labels)
  np.testing.assert_allclose(found, _mapped(matrices, two, labels), rtol=1e-5)
  expected = jax.nn.softmax(matrices['v'][labels, :, 0])
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_student_and_matrices_learn_as_if_the_other_were_fixed():
  answers, student = _random(0, SIZE, CLASSES), _random(1, SIZE, CLASSES)
  labels = np.arange(SIZE) % CLASSES
  given = bare.batch(student, labels, teacher=answers)
  matrices = mkd.init_matrices(jax.random.key(0), CLASSES, 3)
  _, gradient, after = _take(given, matrices)
  mapped = functools.partial(
    mkd.mapped_answers, answers=answers, labels=labels, temperature=4.0
  )

  def of_student(bias):
    return losses.distillation(
      student + bias[None],
      4.0 * mapped(matrices),
      labels,
      temperature=4.0,
      alpha=0.9,
    ).mean()

  def of_matrices(matrices):
    return losses.kl_divergence(
      4.0 * mapped(matrices), student, temperature=4.0
    ).mean()

  expected = jax.jit(jax.grad(of_student))(jnp.zeros(CLASSES))
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
  # The first step of Adam is its rate against the sign of each gradient.
  signs = jax.tree.map(np.sign, jax.jit(jax.grad(of_matrices))(matrices))
  for name, sign in signs.items():
    moved = after.extra[name] - matrices[name]
    np.testing.assert_allclose(moved, -1e-3 * sign, rtol=0.05, atol=1e-5)


def test_withheld_classes_leave_everything_finite():
  answers = np.full((3, 3), losses.WITHHELD, np.float32)
  answers[:, 1] = 0.0
  given = bare.batch(1e4 * _random(0, 3, 3), np.arange(3), teacher=answers)
  metrics, gradient, after = _take(
    given, mkd.init_matrices(jax.random.key(0), 3, 3)
  )
  assert np.isfinite(list(metrics.values())).all()
  assert np.isfinite(gradient).all()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.extra))


def test_bad_settings_are_refused():
  for changes in (
    {'temperature': 0.0},
    {'alpha': -0.1},
    {'rank': 0},
    {'rank': 1.5},
    {'matrix_learning_rate': 0.0},
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      mkd.Settings(**changes)
