"""Optimizers and schedules, against PyTorch's definitions by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable import optimizers


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
    if name == 'sgd':  # torch.optim.SGD, without dampening.
      first = momentum * first + decayed
      expected = expected - rate * first
    else:  # torch.optim.Adam.
      first = momentum * first + (1 - momentum) * decayed
      second = 0.999 * second + 0.001 * decayed**2
      mean, variance = first / (1 - momentum**t), second / (1 - 0.999**t)
      expected = expected - rate * mean / (np.sqrt(variance) + 1e-8)
  np.testing.assert_allclose(params, expected, rtol=1e-5)
