"""DIST: its correlations by hand, what they do not see, and their gradient."""

import functools

import bare
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import losses
from undistillable.attacks import dist

S = np.float32([(1, 0, 0.5), (0, 1, 0), (0, 1, 2)])
T = np.float32([(3, 1, -1), (0, 2, 1), (1, 0, 2)])
relations = jax.jit(dist.relations, static_argnames='total')


def _means(student, teacher, temperature=1.0):
  parts = relations(student, teacher, temperature=temperature)
  return [float(part.mean()) for part in parts]


def _plain(s, t, axis):
  """1 - the mean correlation along an axis, of scores."""
  s, t = (x - x.mean(axis, keepdims=True) for x in (s, t))
  norms = jnp.sqrt((s * s).sum(axis) * (t * t).sum(axis))
  return 1 - ((s * t).sum(axis) / norms).mean()


def test_the_relations_are_the_known_answers():
  assert _means(S, T, 4.0) == pytest.approx([0.279172, 0.268731], abs=1e-5)


def test_the_loss_is_cross_entropy_and_both_relations():
  given = bare.batch(S, [0, 1, 2], teacher=T)
  attack = bare.attack(dist, temperature=4.0, beta=2.0, gamma=3.0)
  metrics, _, _ = bare.take(attack, given)
  alone = losses.cross_entropy(S, np.array([0, 1, 2])).mean()
  expected = alone + 16 * (2 * 0.279172 + 3 * 0.268731)
  assert metrics['loss'] == pytest.approx(float(expected), abs=1e-3)
  assert metrics['inter'] == pytest.approx(0.279172, abs=1e-5)
  assert metrics['intra'] == pytest.approx(0.268731, abs=1e-5)


@pytest.mark.parametrize('part', [0, 1])
def test_the_gradient_is_that_of_the_whole_correlation(part):
  """Though none goes through the sums over the batch."""

  def found(z):
    return dist.relations(z, T, temperature=4.0)[part].mean()

  def expected(z):
    s, t = jax.nn.softmax(z / 4.0), jax.nn.softmax(T / 4.0)
    return _plain(s, t, axis=1 - part)

  gradients = [jax.jit(jax.grad(fn))(S) for fn in (found, expected)]
  np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)
  assert np.abs(gradients[0]).max() > 0.1


def test_halves_of_a_batch_add_up_to_the_whole():
  """As on two devices, one of which knows of the other by its sums alone."""
  student, teacher = np.stack([S, S[::-1] + 1]), np.stack([T, -T])

  def total(x):
    return jax.lax.psum(jax.lax.stop_gradient(x), 'half')

  def halves(z):
    fn = functools.partial(dist.relations, temperature=4.0, total=total)
    return jax.vmap(fn, axis_name='half')(z, teacher)

  def whole(z):
    z, t = (x.reshape(6, 3) for x in (z, teacher))
    return dist.relations(z, t, temperature=4.0)

  def mean(fn):
    def of(z):
      inter, intra = (part.mean() for part in fn(z))
      return inter + 3.0 * intra

    return jax.jit(jax.value_and_grad(of))(student)

  (value, gradient), (expected, expected_gradient) = mean(halves), mean(whole)
  assert value == pytest.approx(float(expected), rel=1e-5)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_relations_do_not_see_what_is_affine():
  """Of images of a class, what the teacher always mixes in; or how much."""
  t = jax.nn.softmax(T)
  fixed = np.float32([0.7, 0.2, 0.1])
  inter, intra = _means(S, T)

  def mixed(other, share):
    return _means(S, jnp.log((1 - share) * t + share * other))

  by_class = mixed(np.broadcast_to(fixed, t.shape), 0.4)
  assert by_class[1] == pytest.approx(intra, abs=1e-5)
  assert abs(by_class[0] - inter) > 0.01
  # Of the classes of an image, how much of the uniform answer.
  shares = np.float32([[0.1], [0.5], [0.8]])
  by_image = mixed(np.full_like(t, 1 / 3), shares)
  assert by_image[0] == pytest.approx(inter, abs=1e-5)
  assert abs(by_image[1] - intra) > 0.01


def test_relations_are_zero_of_itself_and_two_of_the_opposite():
  z = np.float32([[2.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])
  np.testing.assert_allclose(_means(z, z), 0.0, atol=1e-6)
  np.testing.assert_allclose(_means(z, -z), 2.0, rtol=1e-6)


@pytest.mark.parametrize('size', [0.0, 1.0, 300.0])
def test_what_is_constant_has_no_relation_and_no_gradient(size):
  """A student that starts with the same answer to all, whatever it is."""
  z = np.broadcast_to(np.float32([0.0, 0.0, 0.0]), (3, 3)) + size

  @functools.partial(jax.value_and_grad, has_aux=True)
  def total(z):
    inter, intra = dist.relations(z, T, temperature=4.0)
    return (inter + intra).sum(), (inter, intra)

  (_, parts), gradient = jax.jit(total)(z)
  np.testing.assert_array_equal(parts, 1.0)
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize('scale', [1.0, 1e4])
def test_withheld_classes_leave_everything_finite(scale):
  withheld = np.array(T * scale)
  withheld[:, 2] = losses.WITHHELD  # Of all.
  withheld[0, 1:] = losses.WITHHELD  # All but one.
  given = bare.batch(S * scale, [0, 1, 2], teacher=withheld)
  metrics, gradient, _ = bare.take(bare.attack(dist, temperature=20.0), given)
  assert np.isfinite(list(metrics.values())).all()
  assert np.isfinite(gradient).all()
  assert 0 <= metrics['inter'] <= 2
  assert 0 <= metrics['intra'] <= 2


def test_bad_settings_are_refused():
  for changes in ({'temperature': 0.0}, {'beta': -1.0}, {'gamma': -1.0}):
    with pytest.raises(ValueError, match=next(iter(changes))):
      dist.Settings(**changes)
