"""The losses: values, gradients, invariances, extremes, errors."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import losses

Y = jnp.array([2, 0])
Z = jnp.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
W = jnp.array([[0.0, 1.0, 0.5], [-1.0, 0.0, 3.0]])
# (first, second, temperature), of the labels above.
TEMPERED = {
  'distillation': lambda first, second, tau: losses.distillation(
    first, second, Y, temperature=tau, alpha=0.9
  ),
  'js': lambda first, second, tau: losses.jensen_shannon(
    first, second, temperature=tau
  ),
  'kl': lambda first, second, tau: losses.kl_divergence(
    first, second, temperature=tau
  ),
  'self_undermining': lambda first, second, tau: losses.self_undermining(
    first, second, Y, temperature=tau, omega=0.04
  ),
}


def _cases(shared):
  content = (shared / 'fixtures' / 'losses_and_training.json').read_text()
  return json.loads(content)['losses']


def test_distillation_equals_the_released_loss(shared):
  for case in _cases(shared):

    def mean(student, case=case):
      return losses.distillation(
        student,
        jnp.array(case['teacher_logits']),
        jnp.array(case['labels']),
        temperature=case['temperature'],
        alpha=case['alpha'],
      ).mean()

    value, grad = jax.value_and_grad(mean)(jnp.array(case['student_logits']))
    np.testing.assert_allclose(value, case['kd_loss'], rtol=1e-5)
    np.testing.assert_allclose(
      grad, case['kd_grad_student'], rtol=1e-4, atol=1e-6
    )


def test_self_undermining_equals_the_released_loss(shared):
  for case in _cases(shared):

    def mean(logits, case=case):
      return losses.self_undermining(
        logits,
        jnp.array(case['student_logits']),
        jnp.array(case['labels']),
        temperature=case['temperature'],
        omega=case['omega'],
      ).mean()

    value, grad = jax.value_and_grad(mean)(jnp.array(case['teacher_logits']))
    np.testing.assert_allclose(value, case['self_undermining_loss'], rtol=1e-5)
    np.testing.assert_allclose(
      grad, case['self_undermining_grad_teacher'], rtol=1e-4, atol=1e-6
    )


def test_cross_entropy_by_hand():
  expected = [
    np.log(np.e + 1 + 1 / np.e) + 1,
    np.log(np.exp(0.5) + np.exp(2) + 1) - 0.5,
  ]
  np.testing.assert_allclose(losses.cross_entropy(Z, Y), expected, rtol=1e-6)


def test_kl_divergence_by_hand():
  p = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
  q = jnp.log(jnp.array([[0.25, 0.5, 0.25]]))
  expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
  np.testing.assert_allclose(losses.kl_divergence(p, q), [expected], rtol=1e-6)
  # At temperature tau both are softened first: p^(1/2), normalised.
  np.testing.assert_allclose(
    losses.kl_divergence(2 * p, 2 * q, temperature=2.0), [expected], rtol=1e-6
  )


def test_jensen_shannon_by_hand():
  p = jnp.log(jnp.array([[0.5, 0.5]]))
  q = jnp.log(jnp.array([[0.75, 0.25]]))
  log_m = np.log([0.625, 0.375])
  expected = 0.5 * np.sum(0.5 * (np.log(0.5) - log_m))
  expected += 0.5 * (
    0.75 * (np.log(0.75) - log_m[0]) + 0.25 * (np.log(0.25) - log_m[1])
  )
  for first, second in ((p, q), (q, p)):
    np.testing.assert_allclose(
      losses.jensen_shannon(first, second), [expected], rtol=1e-5
    )
  np.testing.assert_allclose(
    losses.jensen_shannon(3 * p, 3 * q, temperature=3.0), [expected], rtol=1e-5
  )
  assert losses.jensen_shannon(Z, Z).max() == 0
  apart = losses.jensen_shannon(1e4 * Z, -1e4 * Z)
  np.testing.assert_allclose(apart, [np.log(2)] * 2, rtol=1e-6)


def test_equal_logits_teach_nothing():
  def kd(student):
    return losses.distillation(student, Z, Y, temperature=4.0, alpha=1.0).sum()

  value, grad = jax.value_and_grad(kd)(Z)
  assert value == 0
  np.testing.assert_allclose(grad, jnp.zeros_like(Z), atol=1e-6)


def test_without_weight_both_losses_are_cross_entropy():
  expected = losses.cross_entropy(Z, Y)
  nasty = losses.self_undermining(Z, W, Y, temperature=4.0, omega=0.0)
  kd = losses.distillation(Z, W, Y, temperature=4.0, alpha=0.0)
  np.testing.assert_array_equal(nasty, expected)
  np.testing.assert_array_equal(kd, expected)


def test_self_undermining_rewards_distance_to_the_adversary():
  near = losses.self_undermining(Z, Z, Y, temperature=4.0, omega=0.1)
  far = losses.self_undermining(Z, W, Y, temperature=4.0, omega=0.1)
  assert (far < near).all()


def test_logits_are_shift_invariant():
  for loss_fn in LOSS_FNS.values():
    np.testing.assert_allclose(
      loss_fn(Z + 7.0, W), loss_fn(Z, W - 3.0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('name', ['distillation', 'self_undermining'])
def test_no_gradient_reaches_the_frozen_network(name):
  grad = jax.grad(lambda frozen: LOSS_FNS[name](Z, frozen).sum())(W)
  np.testing.assert_array_equal(grad, jnp.zeros_like(W))
  grad = jax.grad(lambda trained: LOSS_FNS[name](trained, W).sum())(Z)
  assert (jnp.abs(grad) > 0).all()


@pytest.mark.parametrize('gap', [1e2, 1e4])
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
  'name',
  ['ce', 'js', 'kl', 'distillation', 'label_smoothing', 'self_undermining'],
)
def test_finite_in_value_and_gradient_at_large_gaps(name, dtype, gap):
  first = jnp.array([[gap, 0.0, -gap], [0.0, gap, 0.0]], dtype)
  second = jnp.array([[-gap, 0.0, gap], [gap, 0.0, 0.0]], dtype)
  loss_fn = LOSS_FNS[name]
  values = loss_fn(first, second)
  assert values.dtype == jnp.float32
  assert values.shape == (2,)
  assert jnp.isfinite(values).all()
  for argnum in (0, 1):
    grad = jax.grad(lambda *z: loss_fn(*z).sum(), argnum)(first, second)
    assert jnp.isfinite(grad).all()


# What a teacher that suppresses its second class answers, and its student.
SUPPRESSED = jnp.array([[0.0, -jnp.inf, jnp.log(3.0)], [1.0, -jnp.inf, 0.0]])


def test_a_suppressed_class_takes_no_part():
  """By hand, of the classes that are left: 1/4 and 3/4 against 1/3 each."""
  p, q = SUPPRESSED[:1], jnp.zeros((1, 3))
  kl = 0.25 * np.log(3 / 4) + 0.75 * np.log(9 / 4)
  np.testing.assert_allclose(losses.kl_divergence(p, q), [kl], rtol=1e-6)
  m = np.array([0.25 + 1 / 3, 1 / 3, 0.75 + 1 / 3]) / 2
  q_terms = np.log(1 / 3 / m).sum() / 3
  p_terms = 0.25 * np.log(0.25 / m[0]) + 0.75 * np.log(0.75 / m[2])
  js = (p_terms + q_terms) / 2
  np.testing.assert_allclose(losses.jensen_shannon(p, q), [js], rtol=1e-5)
  # Both suppress it: they agree on a class that neither has.
  assert losses.kl_divergence(p, p) == losses.jensen_shannon(p, p) == 0


@pytest.mark.parametrize('temperature', [1.0, 20.0, 1000.0, 1e6])
def test_a_suppressed_class_has_a_probability_of_exactly_0(temperature):
  log_p = losses.log_scores(SUPPRESSED, temperature)
  assert jnp.isfinite(log_p).all()
  assert (jnp.exp(log_p)[:, 1] == 0).all()
  np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize('temperature', [1.0, 20.0, 1000.0])
@pytest.mark.parametrize('name', ['ce', *TEMPERED])
def test_suppressed_classes_leave_everything_finite(name, temperature):
  def loss_fn(*logits):
    if name == 'ce':
      return losses.cross_entropy(logits[0], Y)
    return TEMPERED[name](*logits, temperature)

  other = jnp.roll(SUPPRESSED, -1, axis=1)  # With it a label.
  for pair in (
    (SUPPRESSED, Z),
    (Z, SUPPRESSED),
    (SUPPRESSED, SUPPRESSED),
    (SUPPRESSED, other),
    (other, SUPPRESSED),
  ):
    values = loss_fn(*pair)
    grads = jax.grad(lambda *z: loss_fn(*z).sum(), (0, 1))(*pair)
    assert np.isfinite([values, *(grad.sum(-1) for grad in grads)]).all()
    # A logit of minus infinity stays where it is.
    for grad, logits in zip(grads, pair, strict=True):
      assert (grad[jnp.isinf(logits)] == 0).all()


def test_what_is_no_number_stays_none():
  found = losses.finite(jnp.array([jnp.nan, -jnp.inf, 2.0], jnp.bfloat16))
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, [np.nan, losses.WITHHELD, 2.0])


def test_any_leading_shape():
  for loss_fn in LOSS_FNS.values():
    flat = loss_fn(Z, W)
    stacked = loss_fn(Z[None, :, None], W[None, :, None], Y[None, :, None])
    assert stacked.shape == (1, 2, 1)
    np.testing.assert_allclose(stacked.ravel(), flat, rtol=1e-6)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: losses.kl_divergence(Z, W, temperature=0.0), 'temperature=0.0'),
    (lambda: losses.kl_divergence(Z, W[:1]), 'shapes'),
    (lambda: losses.jensen_shannon(Z, W[:1]), 'shapes'),
    (lambda: losses.jensen_shannon(Z, W, temperature=0.0), 'temperature=0.0'),
    (
      lambda: losses.distillation(Z, W, Y, temperature=4.0, alpha=1.5),
      'alpha=1.5',
    ),
    (
      lambda: losses.self_undermining(Z, W, Y, temperature=4.0, omega=-1.0),
      'omega=-1.0',
    ),
    (
      lambda: losses.self_undermining(Z, W, Y, temperature=-4.0, omega=1.0),
      'temperature=-4.0',
    ),
    (lambda: losses.label_smoothing(Z, Y, epsilon=1.5), 'epsilon=1.5'),
    (lambda: losses.label_smoothing(Z, Y[:1], epsilon=0.1), 'labels of shape'),
    (lambda: losses.cross_entropy(Z, Y[:1]), 'labels of shape'),
    (lambda: losses.cross_entropy(Z, Z[:, 0]), 'integers'),
  ],
)
def test_impossible_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@jax.numpy_rank_promotion('allow')  # As it is outside of these tests.
@pytest.mark.parametrize('shape', [(2, 1), (1, 1)])
def test_a_weight_that_would_be_broadcast_is_refused(shape):
  weight = jnp.ones(shape)
  with pytest.raises(AssertionError, match='shape'):
    losses.distillation(Z, W, Y, temperature=4.0, alpha=weight)
  with pytest.raises(AssertionError, match='shape'):
    losses.self_undermining(Z, W, Y, temperature=4.0, omega=weight)
  with pytest.raises(AssertionError, match='shape'):
    losses.label_smoothing(Z, Y, epsilon=weight)


def test_hyper_parameters_may_be_traced():
  def loss(omega):
    return losses.self_undermining(Z, W, Y, temperature=4.0, omega=omega).sum()

  assert jax.jit(jax.grad(loss))(0.1) < 0


def test_the_import_is_light():
  code = (
    'import sys; from undistillable import losses; '
    'heavy = {"tensorflow_datasets", "orbax", "tensorflow", "flax", '
    '"matplotlib", "sklearn"}; print(sorted(heavy & set(sys.modules)))'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'


LOSS_FNS = {
  'ce': lambda first, second, y=Y: losses.cross_entropy(first, y),
  'js': lambda first, second, y=Y: losses.jensen_shannon(
    first, second, temperature=3.0
  ),
  'kl': lambda first, second, y=Y: losses.kl_divergence(
    first, second, temperature=4.0
  ),
  'distillation': lambda first, second, y=Y: losses.distillation(
    first, second, y, temperature=4.0, alpha=0.9
  ),
  'label_smoothing': lambda first, second, y=Y: losses.label_smoothing(
    first, y, epsilon=0.1
  ),
  'self_undermining': lambda first, second, y=Y: losses.self_undermining(
    first, second, y, temperature=4.0, omega=0.04
  ),
}


def test_decoupled_distillation_of_a_certain_answer_is_that_of_the_label():
  """Where all classes but the label are withheld, the others say nothing."""
  teacher = jnp.array([[0.0] + 9 * [-jnp.inf]])
  student, labels = jnp.zeros((1, 10)), jnp.array([0])
  loss = losses.decoupled_distillation(
    student, teacher, labels, temperature=4.0, alpha=0.0, beta=1.0
  )
  assert float(loss[0]) == pytest.approx(0.0, abs=1e-5)
