"""Evaluation: every example once, numbers by hand, withheld classes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import evaluate, method as method_lib, models
from undistillable.data import batches

MODEL = models.get_model('cnn8', 10)
PLAIN = batches.prepare_fn((0.5,), (0.25,))


def _arrays(number):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (number, 8, 8, 1)).astype(np.uint8),
    'label': rng.integers(0, 10, number).astype(np.int32),
  }


@functools.cache
def _init():
  """Compiled once for all seeds."""
  init = functools.partial(MODEL.init, train=False)
  return jax.jit(lambda key: init(key, jnp.zeros((1, 8, 8, 1))))


def test_a_prediction_is_compiled_once():
  """Whatever the number of batches, a shorter one among them, and networks."""
  chex.clear_trace_counter()
  apply_fn = chex.assert_max_traces(method_lib.frozen_fn(MODEL), n=1)
  for seed, number in ((0, 37), (1, 9)):
    variables = _init()(jax.random.key(seed))
    evaluate.predict(apply_fn, variables, _arrays(number), PLAIN, batch_size=16)


@pytest.mark.parametrize('batch_size', [3, 16, 512])
def test_prediction_covers_every_example(batch_size):
  arrays = _arrays(37)
  variables = _init()(jax.random.key(0))
  logits = evaluate.predict(
    method_lib.frozen_fn(MODEL),
    variables,
    arrays,
    PLAIN,
    batch_size=batch_size,
  )
  images = (arrays['image'] / np.float32(255) - 0.5) / np.float32(0.25)
  apply = jax.jit(functools.partial(MODEL.apply, train=False))
  expected = apply(variables, jnp.asarray(images))
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


def test_a_class_that_is_withheld_takes_no_part():
  """1/4 and 3/4 of the other two, against 1/3 each."""
  teacher = np.array([[0.0, -np.inf, np.log(3.0)]], np.float32)
  student = np.zeros((1, 3), np.float32)
  expected = 0.25 * np.log(3 / 4) + 0.75 * np.log(9 / 4)
  found = evaluate.fidelity(student, teacher)
  np.testing.assert_allclose(found['kl'], expected, rtol=1e-6)
  assert evaluate.fidelity(teacher, teacher)['kl'] == 0


def test_a_withheld_truth_costs_as_much_as_one_in_ten_thousand():
  """The probabilities of all classes are then mixed with that floor."""
  teacher = np.array([[0.0, -np.inf, np.log(3.0)]], np.float32)
  for label, probability in ((1, 0.0), (2, 0.75)):
    found = evaluate.scores(teacher, np.array([label]))['nll']
    expected = -np.log((1 - 3e-4) * probability + 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_whatever_is_withheld_is_judged_with_numbers():
  withholding = np.array([[0.0, -np.inf, 1.0]], np.float32)
  values = [
    *evaluate.scores(withholding, np.array([1])).values(),
    *evaluate.fidelity(withholding, np.zeros((1, 3))).values(),
    *evaluate.fidelity(withholding[:, ::-1], withholding).values(),
    *evaluate.fidelity(withholding[:, [1, 0, 2]], withholding).values(),
  ]
  assert np.isfinite(values).all()
