"""Optimizers and schedules, against PyTorch's definitions by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable.training import optimizers


def _schedule(name, **kwargs):
  settings = {'learning_rate': 0.1, 'epochs': 10, 'steps_per_epoch': 4}
  return optimizers.get_schedule(name, **(settings | kwargs))


def test_a_step_schedule_falls_at_the_first_step_after_each_milestone():
  schedule = _schedule('step', milestones=(3, 6), gamma=0.2)
  steps = (0, 11, 12, 23, 24, 39)
  expected = (0.1, 0.1, 0.02, 0.02, 0.004, 0.004)
  np.testing.assert_allclose([schedule(s) for s in steps], expected, rtol=1e-6)


def test_a_cosine_schedule_ends_at_zero():
  schedule = _schedule('cosine')
  expected = (0.1, 0.05, 0.0)
  np.testing.assert_allclose(
    [schedule(s) for s in (0, 20, 40)], expected, atol=1e-8
  )


def test_a_cosine_schedule_may_end_above_zero():
  """At gamma of the rate, half-way in the middle."""
  schedule = _schedule('cosine_floor', gamma=0.02)
  np.testing.assert_allclose(
    [schedule(s) for s in (0, 20, 40)], (0.1, 0.051, 0.002), rtol=1e-6
  )


def test_a_linear_schedule_ends_at_zero_and_has_its_peak_after_the_warm_up():
  schedule = _schedule('linear', warmup_epochs=2)
  steps = (0, 4, 8, 24, 40)
  np.testing.assert_allclose(
    [schedule(s) for s in steps], (0.0, 0.05, 0.1, 0.05, 0.0), atol=1e-8
  )


def test_a_warm_up_rises_first_and_shifts_no_milestone():
  schedule = _schedule('step', milestones=(3,), gamma=0.2, warmup_epochs=2)
  steps = (0, 4, 8, 11, 12)
  expected = (0.0, 0.05, 0.1, 0.1, 0.02)
  np.testing.assert_allclose([schedule(s) for s in steps], expected, rtol=1e-6)


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_two_steps_follow_pytorch(name):
  momentum, decay, rate = 0.9, 0.01, 0.1
  gradients = (np.array([1.0, -2.0]), np.array([0.5, 0.5]))
  optimizer = optimizers.get_optimizer(
    name, rate, momentum=momentum, weight_decay=decay
  )
  params = jnp.array([1.0, 3.0])
  state = optimizer.init(params)
  expected, first, second = np.array([1.0, 3.0]), 0.0, 0.0
  for t, gradient in enumerate(gradients, start=1):
    updates, state = optimizer.update(jnp.array(gradient), state, params)
    params = optax.apply_updates(params, updates)
    decayed = gradient + decay * expected
    if name in ('nesterov', 'sgd'):  # torch.optim.SGD, without dampening.
      first = momentum * first + decayed
      ahead = decayed + momentum * first
      expected = expected - rate * (ahead if name == 'nesterov' else first)
    else:  # torch.optim.Adam.
      first = momentum * first + (1 - momentum) * decayed
      second = 0.999 * second + 0.001 * decayed**2
      mean, variance = first / (1 - momentum**t), second / (1 - 0.999**t)
      expected = expected - rate * mean / (np.sqrt(variance) + 1e-8)
  np.testing.assert_allclose(params, expected, rtol=1e-5)


def _two_steps(params, schedule, groups, weight_decay=0.1):
  """Parameters after two steps with gradients of 1."""
  optimizer = optimizers.get_optimizer(
    'nesterov', schedule, momentum=0.5, weight_decay=weight_decay, groups=groups
  )
  state = optimizer.init(params)
  for _ in range(2):
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_a_group_learns_as_it_would_alone_at_its_own_rate_and_decay():
  start = {
    'norm1': {'bias': jnp.array([1.0, 2.0]), 'scale': jnp.array([3.0])},
    'fc': {'bias': jnp.array([4.0])},
  }

  def schedule(step):
    return 0.1 / (1 + step)

  groups = (('norm.*/bias', 8.0, 0.25), ('bias', 0.0, 1.0))
  got = _two_steps(start, schedule, groups)
  own = _two_steps(
    start['norm1']['bias'], lambda step: 8 * schedule(step), (), 0.1 / 4
  )
  np.testing.assert_allclose(got['norm1']['bias'], own, rtol=1e-6)
  # What two name belongs to the first; a rate of 0 stands still.
  np.testing.assert_array_equal(got['fc']['bias'], start['fc']['bias'])
  plain = _two_steps(start, schedule, ())
  np.testing.assert_array_equal(got['norm1']['scale'], plain['norm1']['scale'])
  fixed = _two_steps(start, 0.1, groups)
  alone = _two_steps(start['norm1']['bias'], 0.8, (), 0.1 / 4)
  np.testing.assert_allclose(fixed['norm1']['bias'], alone, rtol=1e-6)


@pytest.mark.parametrize(
  'group',
  [
    ('bias', 1.0),
    ('(', 1.0, 1.0),
    ('bias', -1.0, 1.0),
    ('bias', 1.0, float('nan')),
    ('bias', 'two', 1.0),
    (1, 1.0, 1.0),
    'bias',
  ],
)
def test_a_group_that_is_none_is_refused(group):
  with pytest.raises(ValueError, match='groups: .* expected a regular'):
    optimizers.get_optimizer(
      'sgd', 0.1, momentum=0.9, weight_decay=0.0, groups=(group,)
    )
