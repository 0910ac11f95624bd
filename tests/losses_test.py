"""The losses: values, gradients, invariances, extremes, errors."""

import functools
import itertools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from undistillable import losses

Y = np.array([2, 0])
Z = np.float32([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
W = np.float32([[0.0, 1.0, 0.5], [-1.0, 0.0, 3.0]])
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


def _both(loss_fn, first, second):
  """The loss of every example, and the gradients of their sum."""

  def total(*logits):
    loss = loss_fn(*logits)
    return loss.sum(), loss

  grads, loss = jax.grad(total, (0, 1), has_aux=True)(first, second)
  return loss, grads


@jax.jit
def _all(first, second):
  """`_both` of every one of LOSS_FNS, by name."""
  return {name: _both(fn, first, second) for name, fn in LOSS_FNS.items()}


@jax.jit
def _all_tempered(first, second, temperature):
  """`_both` of every one of TEMPERED, and of cross entropy, by name."""
  found = {
    name: _both(lambda *z, fn=fn: fn(*z, temperature), first, second)
    for name, fn in TEMPERED.items()
  }
  ce = lambda first, second: losses.cross_entropy(first, Y)  # noqa: E731
  return {**found, 'ce': _both(ce, first, second)}


_jensen_shannon = jax.jit(losses.jensen_shannon)
_kl_divergence = jax.jit(losses.kl_divergence)
_cross_entropy = jax.jit(losses.cross_entropy)
_decoupled = jax.jit(losses.decoupled_distillation)
_distillation = jax.jit(losses.distillation)


@functools.partial(jax.jit, static_argnums=0)
def _mean(loss_fn, trained, frozen, labels, **settings):
  """The mean of a loss, and its gradient."""

  def mean(trained):
    return loss_fn(trained, frozen, labels, **settings).mean()

  return jax.value_and_grad(mean)(trained)


def _cases(shared):
  content = (shared / 'fixtures' / 'losses_and_training.json').read_text()
  return json.loads(content)['losses']


def test_distillation_equals_the_released_loss(shared):
  for case in _cases(shared):
    value, grad = _mean(
      losses.distillation,
      np.float32(case['student_logits']),
      np.float32(case['teacher_logits']),
      np.array(case['labels']),
      temperature=case['temperature'],
      alpha=case['alpha'],
    )
    np.testing.assert_allclose(value, case['kd_loss'], rtol=1e-5)
    np.testing.assert_allclose(
      grad, case['kd_grad_student'], rtol=1e-4, atol=1e-6
    )


def test_self_undermining_equals_the_released_loss(shared):
  for case in _cases(shared):
    value, grad = _mean(
      losses.self_undermining,
      np.float32(case['teacher_logits']),
      np.float32(case['student_logits']),
      np.array(case['labels']),
      temperature=case['temperature'],
      omega=case['omega'],
    )
    np.testing.assert_allclose(value, case['self_undermining_loss'], rtol=1e-5)
    np.testing.assert_allclose(
      grad, case['self_undermining_grad_teacher'], rtol=1e-4, atol=1e-6
    )


def test_cross_entropy_by_hand():
  expected = [
    np.log(np.e + 1 + 1 / np.e) + 1,
    np.log(np.exp(0.5) + np.exp(2) + 1) - 0.5,
  ]
  found = jax.jit(losses.cross_entropy)(Z, Y)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_kl_divergence_by_hand():
  p = np.log(np.float32([[0.5, 0.25, 0.25]]))
  q = np.log(np.float32([[0.25, 0.5, 0.25]]))
  expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
  np.testing.assert_allclose(_kl_divergence(p, q), [expected], rtol=1e-6)
  # At temperature tau both are softened first: p^(1/2), normalised.
  np.testing.assert_allclose(
    _kl_divergence(2 * p, 2 * q, temperature=2.0), [expected], rtol=1e-6
  )


def test_a_temperature_without_end_leaves_half_a_squared_distance():
  """tau^2 KL, which rounding must not be multiplied by."""
  teacher, student = (np.float32([z]) for z in ((3, 1, -1), (1, 0, 0.5)))
  apart = teacher - student
  apart -= apart.mean()
  expected = np.mean(apart**2) / 2
  for tau, rtol in ((1e2, 1e-2), (1e3, 1e-3)):
    loss = tau**2 * _kl_divergence(teacher, student, temperature=tau)
    np.testing.assert_allclose(loss, [expected], rtol=rtol)
    # With these weights it is the same in two parts.
    p = jax.nn.softmax(teacher / tau)[0, 0]
    parts = _decoupled(
      student, teacher, np.array([0]), temperature=tau, alpha=1.0, beta=1 - p
    )
    np.testing.assert_allclose(parts, [expected], rtol=rtol)
    slope = jax.grad(
      lambda z, t: t**2 * _kl_divergence(teacher, z, temperature=t)[0]
    )(student, tau)
    q, p = (
      scipy.special.softmax(np.float64(z) / tau) for z in (student, teacher)
    )
    np.testing.assert_allclose(slope, tau * (q - p), rtol=1e-3)


def test_the_known_answers_of_distillation_and_of_a_nasty_teacher():
  """Teacher (3, 1, -1), student and adversary (1, 0, .5), label 0, tau 4."""
  teacher, student = np.float32([[3, 1, -1]]), np.float32([[1, 0, 0.5]])
  label = np.array([0])
  found = {
    'ce': _cross_entropy(student, label),
    'kl': 16 * _kl_divergence(teacher, student, temperature=4.0),
    'limit': 1e6 * _kl_divergence(teacher, student, temperature=1e3),
    'kd': _mean(
      losses.distillation, student, teacher, label, temperature=4.0, alpha=0.9
    )[0],
    'nasty': _cross_entropy(teacher, label)
    - _mean(
      losses.self_undermining,
      teacher,
      student,
      label,
      temperature=4.0,
      omega=1.0,
    )[0],
  }
  expected = {
    'ce': 0.680270,
    'kl': 0.939391,
    'limit': 1.083333,
    'kd': 0.913479,
    'nasty': 0.939391,
  }
  for name, value in expected.items():
    # That limit is reached as 1 / tau.
    tolerance = 1e-3 if name == 'limit' else 1e-5
    np.testing.assert_allclose(found[name], value, atol=tolerance, rtol=0)


def test_what_a_nasty_teacher_gains_has_a_bound():
  """`-tau^2 log min_k q_k`, of the adversary; of a certain teacher it is that.

  Who says for certain what the adversary believes the least has all of it.
  """
  label, adversary = np.array([0]), np.float32([[1, 0, 0.5]])

  @jax.jit
  def gain(teacher):
    """What is taken off the cross entropy at omega 1 and tau 4, [B]."""
    same = jnp.broadcast_to(adversary, teacher.shape)
    labels = jnp.broadcast_to(label, teacher.shape[:1])
    total = losses.self_undermining(
      teacher, same, labels, temperature=4.0, omega=1.0
    )
    return losses.cross_entropy(teacher, labels) - total

  bound = 19.661022
  certain = np.float32(1e3 * np.eye(3))
  gains = np.asarray(gain(certain))
  assert gains.argmax() == 1
  # Of a difference of 2000 nats, rounding.
  assert gains[1] == pytest.approx(bound, abs=1e-3)
  rng = np.random.default_rng(0)
  scales = np.float32(10.0 ** rng.uniform(-1, 2, (4096, 1)))
  anyone = scales * rng.normal(size=(4096, 3)).astype(np.float32)
  gains = np.asarray(gain(anyone))
  assert bound - 1.0 < gains.max() <= bound + 1e-3


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('temperature', [1.0, 20.0])
def test_no_divergence_of_answers_almost_alike_is_below_0(dtype, temperature):
  """The sum of its terms as they are written is, by up to 4e-7."""
  rng = np.random.default_rng(0)
  labels = np.arange(2000) % 10
  for scale, gap in itertools.product((1, 10), (0.0, 1e-7, 1e-5, 1e-3)):
    p = jnp.asarray(scale * rng.normal(size=(2000, 10)), dtype)
    # In half precision what is nearest; it is further than those.
    q = (p + gap * rng.normal(size=p.shape)).astype(dtype)
    if dtype == jnp.bfloat16:
      q = jnp.nextafter(p, q) if gap else p
    log_p, log_q = (
      scipy.special.log_softmax(np.float64(z) / temperature, axis=-1)
      for z in (p, q)
    )
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    found = {
      'kl': _kl_divergence(p, q, temperature=temperature),
      'kd': _distillation(q, p, labels, temperature=temperature, alpha=1.0)
      / temperature**2,
      'dkd': _decoupled(
        q, p, labels, temperature=temperature, alpha=1.0, beta=1.0
      )
      / temperature**2,
    }
    for name, values in found.items():
      assert values.dtype == jnp.float32
      assert np.min(values) >= -1e-12, name
    for name in ('kl', 'kd'):
      np.testing.assert_allclose(
        found[name], expected, rtol=0.01, atol=1e-5 * max(gap, 1e-6)
      )


def test_jensen_shannon_by_hand():
  p = np.log(np.float32([[0.5, 0.5]]))
  q = np.log(np.float32([[0.75, 0.25]]))
  log_m = np.log([0.625, 0.375])
  expected = 0.5 * np.sum(0.5 * (np.log(0.5) - log_m))
  expected += 0.5 * (
    0.75 * (np.log(0.75) - log_m[0]) + 0.25 * (np.log(0.25) - log_m[1])
  )
  for first, second in ((p, q), (q, p)):
    np.testing.assert_allclose(
      _jensen_shannon(first, second), [expected], rtol=1e-5
    )
  np.testing.assert_allclose(
    _jensen_shannon(3 * p, 3 * q, temperature=3.0), [expected], rtol=1e-5
  )
  np.testing.assert_array_equal(_jensen_shannon(Z, Z), 0)
  apart = _jensen_shannon(1e4 * Z, -1e4 * Z)
  np.testing.assert_allclose(apart, [np.log(2)] * 2, rtol=1e-6)


def test_equal_logits_teach_nothing():
  def kd(student):
    return losses.distillation(student, Z, Y, temperature=4.0, alpha=1.0).sum()

  value, grad = jax.jit(jax.value_and_grad(kd))(Z)
  assert float(value) == 0
  np.testing.assert_allclose(grad, np.zeros_like(Z), atol=1e-6)


def test_without_weight_both_losses_are_cross_entropy():
  @jax.jit
  def found(z, w):
    nasty = losses.self_undermining(z, w, Y, temperature=4.0, omega=0.0)
    kd = losses.distillation(z, w, Y, temperature=4.0, alpha=0.0)
    return losses.cross_entropy(z, Y), nasty, kd

  expected, nasty, kd = found(Z, W)
  np.testing.assert_array_equal(nasty, expected)
  np.testing.assert_array_equal(kd, expected)


def test_self_undermining_rewards_distance_to_the_adversary():
  near, far = (
    np.asarray(_all(Z, adversary)['self_undermining'][0])
    for adversary in (Z, W)
  )
  assert (far < near).all()


def test_logits_are_shift_invariant():
  one, other = _all(Z + 7, W), _all(Z, W - 3)
  for name in LOSS_FNS:
    np.testing.assert_allclose(
      one[name][0], other[name][0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('name', ['distillation', 'self_undermining'])
def test_no_gradient_reaches_the_frozen_network(name):
  _, (trained, frozen) = _all(Z, W)[name]
  np.testing.assert_array_equal(frozen, np.zeros_like(W))
  assert np.asarray(trained).all()


@pytest.mark.parametrize('gap', [1e2, 1e4])
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
  'name',
  ['ce', 'js', 'kl', 'distillation', 'label_smoothing', 'self_undermining'],
)
def test_finite_in_value_and_gradient_at_large_gaps(name, dtype, gap):
  first = np.array([[gap, 0.0, -gap], [0.0, gap, 0.0]], dtype)
  second = np.array([[-gap, 0.0, gap], [gap, 0.0, 0.0]], dtype)
  values, grads = _all(first, second)[name]
  assert values.dtype == jnp.float32
  assert values.shape == (2,)
  assert np.isfinite(values).all()
  for grad in grads:
    assert np.isfinite(np.float32(grad)).all()


# What a teacher that suppresses its second class answers, and its student.
SUPPRESSED = np.float32([[0.0, -np.inf, np.log(3.0)], [1.0, -np.inf, 0.0]])


def test_a_suppressed_class_takes_no_part():
  """By hand, of the classes that are left: 1/4 and 3/4 against 1/3 each."""
  p, q = SUPPRESSED[:1], np.zeros((1, 3), np.float32)
  kl = 0.25 * np.log(3 / 4) + 0.75 * np.log(9 / 4)
  np.testing.assert_allclose(_kl_divergence(p, q), [kl], rtol=1e-6)
  m = np.array([0.25 + 1 / 3, 1 / 3, 0.75 + 1 / 3]) / 2
  q_terms = np.log(1 / 3 / m).sum() / 3
  p_terms = 0.25 * np.log(0.25 / m[0]) + 0.75 * np.log(0.75 / m[2])
  js = (p_terms + q_terms) / 2
  np.testing.assert_allclose(_jensen_shannon(p, q), [js], rtol=1e-5)
  # Both suppress it: they agree on a class that neither has.
  assert float(_kl_divergence(p, p)[0]) == float(_jensen_shannon(p, p)[0]) == 0


@pytest.mark.parametrize('temperature', [1.0, 20.0, 1000.0, 1e6])
def test_a_suppressed_class_has_a_probability_of_exactly_0(temperature):
  log_p = np.asarray(jax.jit(losses.log_scores)(SUPPRESSED, temperature))
  assert np.isfinite(log_p).all()
  assert (np.exp(log_p)[:, 1] == 0).all()
  np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize('temperature', [1.0, 20.0, 1000.0])
@pytest.mark.parametrize('name', ['ce', *TEMPERED])
def test_suppressed_classes_leave_everything_finite(name, temperature):
  other = np.roll(SUPPRESSED, -1, axis=1)  # With it a label.
  for pair in (
    (SUPPRESSED, Z),
    (Z, SUPPRESSED),
    (SUPPRESSED, SUPPRESSED),
    (SUPPRESSED, other),
    (other, SUPPRESSED),
  ):
    values, grads = jax.device_get(_all_tempered(*pair, temperature)[name])
    assert np.isfinite([values, *(grad.sum(-1) for grad in grads)]).all()
    # A logit of minus infinity stays where it is.
    for grad, logits in zip(grads, pair, strict=True):
      assert (grad[np.isinf(logits)] == 0).all()


def test_what_is_no_number_stays_none():
  given = np.array([np.nan, -np.inf, 2.0], jnp.bfloat16)
  found = jax.jit(losses.finite)(given)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, [np.nan, losses.WITHHELD, 2.0])


def test_any_leading_shape():
  @jax.jit
  def found(*args):
    return [loss_fn(*args) for loss_fn in LOSS_FNS.values()]

  flat = found(Z, W, Y)
  stacked = found(*(x[None, :, None] for x in (Z, W, Y)))
  for one, other in zip(stacked, flat, strict=True):
    assert one.shape == (1, 2, 1)
    np.testing.assert_allclose(np.ravel(one), other, rtol=1e-6)


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
  weight = np.ones(shape, np.float32)
  for call in (
    lambda: losses.distillation(Z, W, Y, temperature=4.0, alpha=weight),
    lambda: losses.self_undermining(Z, W, Y, temperature=4.0, omega=weight),
    lambda: losses.label_smoothing(Z, Y, epsilon=weight),
  ):
    with pytest.raises(AssertionError, match='shape'):
      jax.eval_shape(call)


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


def test_classes_that_are_all_withheld_count_as_equal_ones():
  """As those count that are about to vanish, all alike."""
  student = np.float32(np.random.default_rng(0).normal(size=(1, 10)))
  last = [
    _decoupled(
      student,
      np.float32([[0.0] + 9 * [others]]),
      np.array([0]),
      temperature=4.0,
      alpha=0.0,
      beta=1.0,
    )
    for others in (-60.0, -np.inf)
  ]
  np.testing.assert_allclose(*last, rtol=1e-4)
  assert float(last[0][0]) > 0.1
