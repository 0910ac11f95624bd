"""The linear program: as SciPy solves it, and where nothing is to choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from undistillable.defenses import linear_program

free = jax.jit(linear_program.cheapest)
topped = jax.jit(linear_program.cheapest_with_top)


def _reference(c, y, epsilon, margin=None):
  """The least cost, by a general solver; q = y + gains - losses."""
  size = len(y)
  moves = np.concatenate([np.eye(size), -np.eye(size)], axis=1)
  rows, bounds = [np.ones((1, 2 * size)), -moves], [np.array([epsilon]), y]
  if margin is not None:
    others = np.arange(size) != y.argmax()
    rows.append((moves - moves[y.argmax()])[others])
    bounds.append((y.max() - y - margin)[others])
  found = scipy.optimize.linprog(
    c @ moves,
    A_ub=np.concatenate(rows),
    b_ub=np.concatenate(bounds),
    A_eq=moves.sum(0, keepdims=True),
    b_eq=[0.0],
  )
  return y + moves @ found.x if found.status == 0 else y


def _costs(rng, y):
  """Those of the defenses, in turn: of GRAD2, ModelGuard-W and MAD."""
  kinds = [rng.normal(size=y.shape), np.log(y + 1e-6), y - 1 / y.shape[-1]]
  which = np.arange(len(y)) % 3
  return np.choose(which[:, None], kinds)


@pytest.mark.parametrize('margin', [None, 1e-4])
@pytest.mark.parametrize('classes', [2, 10, 200])
def test_it_is_as_good_as_a_general_solver(classes, margin):
  rng = np.random.default_rng(classes)
  y = np.float32(rng.dirichlet([0.3] * classes, size=9 if classes < 99 else 3))
  c = np.float32(_costs(rng, y))
  for epsilon in (0.02, 0.4, 1.0, 2.0):
    q = np.asarray(
      free(c, y, epsilon) if margin is None else topped(c, y, epsilon, margin)
    )
    assert q.min() >= 0
    np.testing.assert_allclose(q.sum(-1), 1, atol=2e-6)
    assert np.abs(q - y).sum(-1).max() <= epsilon + 2e-6
    if margin is not None:
      assert (q.argmax(-1) == y.argmax(-1)).all()
      ahead = np.sort(q)[:, -1] - np.sort(q)[:, -2]
      unmoved = (q == y).all(-1)
      assert (ahead >= np.where(unmoved, 0, margin - 2e-7)).all()
    for one in range(len(y)):
      cost, scores = np.float64(c[one]), np.float64(y[one])
      best = _reference(cost, scores / scores.sum(), epsilon, margin)
      scale = np.ptp(cost)
      assert cost @ (q[one] - best) == pytest.approx(0, abs=4e-6 * scale)
      # What a softened answer would show of nothing.
      assert not q[one][(best < 1e-9) & (scores > 1e-6)].any()


@pytest.mark.parametrize(
  ('epsilon', 'freely', 'with_top'),
  [
    (0.4, [0.45, 0.45, 0.1, 0], [0.4501, 0.45, 0.0999, 0]),
    (1.0, [0.15, 0.75, 0.1, 0], [0.50005, 0.49995, 0, 0]),
  ],
)
def test_known_answers(epsilon, freely, with_top):
  c = jnp.array([[0.3, -1.0, 0.2, 0.9]])
  y = jnp.array([[0.6, 0.25, 0.1, 0.05]])
  np.testing.assert_allclose(free(c, y, epsilon), [freely], atol=1e-6)
  np.testing.assert_allclose(topped(c, y, epsilon), [with_top], atol=1e-6)


def test_scores_of_few_digits_are_no_exception():
  """Of these the search would meet corners of the cost and of the budget."""
  costs = np.float32(
    [[2, 1, 0, 0, 3, 0], [3, 1, 1, 3, 3, 3], [1, 3, 3, 1, 1, 2]]
  )
  y = np.float32(
    [
      [0.05, 0.6, 0.15, 0.1, 0.05, 0.05],
      [0.4, 0.1, 0.4, 0.1, 0.0, 0.0],
      [0.1, 0.4, 0.0, 0.1, 0.2, 0.2],
    ]
  )
  for epsilon, margin in ((0.4, 1e-4), (0.25, 0.0), (0.5, 0.1)):
    q = np.asarray(topped(costs, y, epsilon, margin))
    for one, cost in enumerate(costs):
      best = _reference(cost, np.float64(y[one]), epsilon, margin)
      assert cost @ (q[one] - best) == pytest.approx(0, abs=1e-5)


def test_what_the_free_form_moves_is_exact():
  rng = np.random.default_rng(0)
  y = np.float32(rng.dirichlet([0.3] * 10, size=16))
  c = np.float32(rng.normal(size=y.shape))
  costs = []
  for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0, 3.0):
    q = np.asarray(free(c, y, epsilon))
    cheapest = np.take_along_axis(y, c.argmin(-1)[:, None], axis=-1)[:, 0]
    moved = 2 * np.minimum(epsilon / 2, 1 - cheapest)
    np.testing.assert_allclose(np.abs(q - y).sum(-1), moved, atol=2e-6)
    costs.append((c * q).sum(-1))
  assert (np.diff(costs, axis=0) <= 1e-6).all()
  np.testing.assert_array_equal(q > 0, np.eye(10)[c.argmin(-1)])


def test_where_classes_are_equal_the_first_is_the_top():
  y = np.float32([[1, 0, 0, 0], [0.25] * 4, [0.4, 0.2, 0.4, 0.0]])
  for c in (y, -y, 0 * y):
    for epsilon in (0.0, 0.5, 2.0):
      freely, q = free(c, y, epsilon), topped(c, y, epsilon, 1e-4)
      for found in (freely, q):
        assert jnp.isfinite(found).all()
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
        assert jnp.abs(found - y).sum(-1).max() <= epsilon + 1e-6
        assert epsilon or (found == y).all()
      np.testing.assert_array_equal(q.argmax(-1), [0, 0, 0])
      # No margin can be made without a budget.
      assert not epsilon or (q[:, 0] >= q[:, 1:].max(-1) + 0.9e-4).all()


def test_an_answer_does_not_depend_on_its_batch():
  rng = np.random.default_rng(1)
  y = np.float32(rng.dirichlet([0.3] * 10, size=9))
  c = np.float32(_costs(rng, y))
  for solve, *margin in ((free,), (topped, 1e-4)):
    together = solve(c, y, 1.0, *margin)
    alone = [solve(c[i : i + 1], y[i : i + 1], 1.0, *margin) for i in range(9)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)
