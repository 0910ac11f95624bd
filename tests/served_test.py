"""What defenses serve: known answers, and what holds for every one of them.

A defense that serves has its neutral settings in `NEUTRAL`; whether it keeps
the top class stands in `KEEPS_TOP`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import defenses, losses, serving
from undistillable.defenses import reverse_sigmoid, rounding, stingy, top_k

Y = np.float32([[0.6, 0.25, 0.1, 0.05]])
# Settings with which each is no defense.
NEUTRAL = {
  'reverse_sigmoid': [{'beta': 0.0}, {'gamma': 0.0}],
  'rounding': [{'decimals': None}],
  'stingy': [{'ratio': 1.0}],
  'top_k': [{'k': 10}, {'k': 1000}],
}
# Settings with which the top class is the same for every answer.
KEEPS_TOP = {
  'reverse_sigmoid': [{}],
  'rounding': [],
  'stingy': [{}, {'ratio': 0.7}],
  'top_k': [{}, {'k': 3}],
}
IMPOSSIBLE = [
  (reverse_sigmoid, {'beta': -0.1}),
  (reverse_sigmoid, {'gamma': float('inf')}),
  (rounding, {'decimals': -1}),
  (rounding, {'decimals': 0.5}),
  (stingy, {'ratio': 1.5}),
  (top_k, {'k': 0}),
  (top_k, {'k': True}),
]


def _logits(rows=64, classes=10, scale=3.0):
  rng = np.random.default_rng(0)
  return jnp.float32(scale * rng.normal(size=(rows, classes)))


@functools.cache
def _serve_fn(module, settings):
  """Compiled once for all answers of a shape."""

  def serve(logits):
    images = jnp.zeros((len(logits), 8, 8, 1))
    return module.serve(serving.Query(images, logits, {}), settings)

  return jax.jit(serve)


def _serve(module, logits, **settings):
  return _serve_fn(module, module.Settings(**settings))(logits)


def _served(module, y, **settings):
  """What is served in place of scores."""
  return jnp.exp(_serve(module, jnp.log(jnp.float32(y)), **settings))


SERVED = list(NEUTRAL)


def test_no_defense_is_forgotten():
  serving_ones = {
    n for n, m in defenses.DEFENSES.items() if hasattr(m, 'serve')
  }
  assert set(NEUTRAL) == set(KEEPS_TOP) == serving_ones


@pytest.mark.parametrize(
  ('module', 'settings', 'expected'),
  [
    (
      reverse_sigmoid,
      {'beta': 0.21, 'gamma': 0.2},
      [0.562027, 0.246689, 0.115762, 0.075522],
    ),
    (rounding, {'decimals': 1}, [0.666667, 0.222222, 0.111111, 0]),
    (rounding, {'decimals': 0}, [1, 0, 0, 0]),
    (stingy, {'ratio': 0.5}, [0.705882, 0.294118, 0, 0]),
    (stingy, {'ratio': 0.1}, [1, 0, 0, 0]),
    (top_k, {'k': 2}, [0.705882, 0.294118, 0, 0]),
    (top_k, {}, [1, 0, 0, 0]),
  ],
)
def test_known_answers(module, settings, expected):
  served = jax.nn.softmax(_serve(module, jnp.log(Y), **settings))
  np.testing.assert_allclose(served, [expected], atol=1e-5)
  np.testing.assert_array_equal(served == 0, np.equal([expected], 0))


@pytest.mark.parametrize('name', SERVED)
def test_neutral_settings_serve_what_nobody_defends(name):
  module, logits = defenses.get(name), _logits()
  expected = jax.nn.log_softmax(logits)
  for settings in NEUTRAL[name]:
    served = jax.nn.log_softmax(_serve(module, logits, **settings))
    np.testing.assert_allclose(served, expected, atol=1e-5)
  other = jax.nn.log_softmax(_serve(module, logits))
  assert jnp.abs(other - expected).max() > 0.01


@pytest.mark.parametrize('name', SERVED)
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_answers_are_finite_scores_even_where_a_score_is_zero_or_one(
  name, dtype
):
  extreme = [[1e4, 0, 0, 0, 0], [0, -jnp.inf, 1, 2, 3], [0, 0, 0, 0, 0]]
  served = _serve(defenses.get(name), jnp.array(extreme, dtype))
  assert served.dtype == jnp.float32
  assert jnp.isfinite(served).all()
  assert served.min() >= losses.WITHHELD
  np.testing.assert_allclose(jax.nn.softmax(served).sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize('name', SERVED)
def test_the_top_class_is_kept_where_that_is_promised(name):
  for settings in KEEPS_TOP[name]:
    for scale in (0.1, 3.0):
      logits = _logits(scale=scale)
      served = _serve(defenses.get(name), logits, **settings)
      np.testing.assert_array_equal(served.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize('name', SERVED)
def test_an_answer_does_not_depend_on_its_batch(name):
  module, logits = defenses.get(name), _logits()
  alone = [_serve(module, logits[i : i + 1]) for i in range(len(logits))]
  np.testing.assert_allclose(
    jnp.exp(_serve(module, logits)), jnp.exp(jnp.concatenate(alone)), atol=2e-6
  )


@pytest.mark.parametrize('name', SERVED)
def test_a_student_of_what_is_served_has_finite_losses(name):
  teacher, student = 10 * _logits(), _logits()[::-1]
  served = _serve(defenses.get(name), teacher)
  labels = jnp.argmax(teacher, axis=-1)
  for temperature in (1.0, 20.0, 1000.0):

    def kd(student, temperature=temperature):
      return losses.distillation(
        student, served, labels, temperature=temperature, alpha=1.0
      ).sum()

    loss, grad = jax.value_and_grad(kd)(student)
    assert jnp.isfinite(loss)
    assert jnp.isfinite(grad).all()


@pytest.mark.parametrize(('module', 'settings'), IMPOSSIBLE)
def test_impossible_settings_are_named(module, settings):
  (name,) = settings
  with pytest.raises(ValueError, match=f'{name}='):
    module.Settings(**settings)


def test_scores_that_are_left_keep_their_logarithms():
  """Also where they are too small for float32."""
  logits = jnp.array([[0.0, -200.0, -1.0]])
  query = serving.Query(None, logits, {})
  y = serving.scores(query)
  np.testing.assert_array_equal(
    serving.log_scores(y, query), losses.log_scores(logits)
  )
  half = serving.log_scores(y * jnp.array([[0.5, 1.0, 0.0]]), query)
  expected = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(half[0, 0], expected[0, 0] - np.log(2), rtol=1e-5)
  assert half[0, 1] == expected[0, 1]
  assert half[0, 2] == losses.WITHHELD


@pytest.mark.parametrize('classes', [2, 10, 100])
@pytest.mark.parametrize('decimals', [0, 1, 3])
def test_rounding_rounds_to_decimals_and_normalises(classes, decimals):
  logits = _logits(32, classes)
  y = np.float64(jax.nn.softmax(logits))
  served = np.asarray(jnp.exp(_serve(rounding, logits, decimals=decimals)))
  rounded = np.round(y, decimals)
  assert np.abs(rounded - y).max() <= 0.5 * 10.0**-decimals + 1e-6
  total = rounded.sum(-1, keepdims=True)
  top = np.eye(classes)[y.argmax(-1)]
  expected = np.where(total > 0, rounded, top) / np.where(total > 0, total, 1)
  np.testing.assert_allclose(served, expected, atol=1e-6)


def test_rounding_leaves_the_top_class_where_nothing_else_is_left():
  flat = jnp.zeros((1, 100)).at[0, 7].set(0.1)
  served = _serve(rounding, flat)
  assert served[0, 7] == 0
  assert (served == losses.WITHHELD).sum() == 99


def test_rounding_is_idempotent_but_for_the_sum():
  even = np.float32([[0.5, 0.3, 0.2, 0.0]])
  np.testing.assert_allclose(_served(rounding, even), even, atol=1e-6)
  # Halves go to the even neighbour.
  halves = np.float32([[0.25, 0.75]])
  np.testing.assert_allclose(_served(rounding, halves), [[0.2, 0.8]], atol=1e-6)


def test_top_k_is_stingy_with_a_number():
  logits = _logits(16).at[0].set(1.0)
  for k in (1, 3, 10):
    np.testing.assert_allclose(
      jax.nn.softmax(_serve(top_k, logits, k=k)),
      jax.nn.softmax(_serve(stingy, logits, ratio=k / 10)),
      atol=1e-6,
    )
  served = _serve(top_k, logits)
  assert ((served == 0).sum(-1) == 1).all()
  assert served[0].argmax() == 0
