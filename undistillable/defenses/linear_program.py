"""The cheapest scores within a budget: one linear program, solved exactly.

Several defenses serve, in place of the scores y, the q that solves

  min c.q   such that   q >= 0,   sum_k q_k = 1,   |q - y|_1 <= epsilon

for a cost c of their own; some of them with the top class kept by a margin m,
`q_k >= q_j + m` for all j but k = argmax y. A general solver would take a
program for each example; here a sort does, or a sort and a search over one
number, and so all examples of a batch are solved at once. No answer depends on
another example. Scores are moved in float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# What is left of a score that lost some is 0 below this: rounding would leave a
# millionth, and a student who softens the scores hears of that as of a half.
_DUST = 1e-6
_STEPS = 30  # Of the search: the bracket shrinks to 2e-9 of itself.
# Where it is cut. At the half, scores and budgets of few digits have corners,
# and what is computed as the slope in a corner may be none of either side.
_CUT = 0.4917
_ROUNDING = 2e-7  # By which a budget may be exceeded.


def cheapest(cost: jax.Array, scores: jax.Array, epsilon: float) -> jax.Array:
  """The scores of least expected cost within an L1 budget.

  `d = min(epsilon / 2, 1 - y_i)` goes to the cheapest class i; it is taken from
  the others, all that the dearest has first. Of equal costs the first class is
  taken for the cheaper.

  Why: q - y has gains and losses of equal sums, at most epsilon / 2. Whichever
  of them is exchanged for a gain of the cheapest or a loss of the dearest that
  has any left makes the cost no higher.

  Args:
    cost: float32[B, K], c.
    scores: float32[B, K], y: >= 0, of sum 1.
    epsilon: >= 0; from 2 on it allows everything.

  Returns:
    q, float32[B, K].

  Example:
    >>> q = cheapest(
    ...   jnp.array([[3.0, 1.0, 2.0]]), jnp.array([[0.5, 0.25, 0.25]]), 0.5)
    >>> q.tolist()
    [[0.25, 0.5, 0.25]]
  """

  def solve(c: jax.Array, y: jax.Array) -> jax.Array:
    receiver = jnp.argmin(c)
    givers = jnp.argsort(-c)
    # The first of equal costs receives, and is the last to give.
    room = jnp.where(givers == receiver, 0.0, y[givers])
    lost = _fill(room, jnp.minimum(epsilon / 2, room.sum()))
    left = _without_dust(y[givers] - lost, lost)
    q = jnp.zeros_like(y).at[givers].set(left)
    return q.at[receiver].add(jnp.sum(y[givers] - left))

  return jax.vmap(solve)(cost, scores)


def cheapest_with_top(
  cost: jax.Array, scores: jax.Array, epsilon: float, margin: float = 1e-4
) -> jax.Array:
  """The same, where the top class stays ahead of every other by a margin.

  For a given score t of the top class k the others are bounded, `0 <= q_j <=
  t - m`, and what they gain and lose is coupled through its sum alone. So the
  best q is found by prefix sums over the classes in the order of their cost:
  what is above the bound is taken away, what is then missing or too much is
  given to the cheapest or taken from the dearest, and as long as the budget
  lasts the dearest give to cheaper ones. The least cost is a convex function
  of t, as that of any linear program is of its right-hand side, and so is the
  least budget; where the slope of either changes its sign is found by
  bisection. (A slope is a sum of costs. To compare the values themselves would
  need more digits than float32 has.)

  Arguments are those of `cheapest`, and the margin m >= 0.

  Returns:
    q, float32[B, K]: y itself where no other scores satisfy all of this. Its
    cost is within 2e-5 of the least, in units of the largest difference of two
    costs.
  """
  solve = functools.partial(_cheapest_with_top, epsilon=epsilon, margin=margin)
  return jax.vmap(solve)(cost, scores)


def _fill(room: jax.Array, total: jax.Array) -> jax.Array:
  """What each takes of a total where the first take all they have room for."""
  before = jnp.cumsum(room) - room
  return jnp.clip(total - before, 0.0, room)


def _without_dust(q: jax.Array, lost: jax.Array) -> jax.Array:
  """What is left of scores that lost some."""
  return jnp.where((lost > 0) & (q < _DUST), 0.0, q)


class _Move(NamedTuple):
  """A solution for one score of the top class."""

  value: jax.Array  # Its cost less that of y.
  used: jax.Array  # Of the budget.
  others: jax.Array  # float[K - 1], q of the others in the order of their cost.


def _cheapest_with_top(
  c: jax.Array, y: jax.Array, epsilon: float, margin: float
) -> jax.Array:
  """See `cheapest_with_top`; c and y are float32[K]."""
  num_classes = len(y)
  top = jnp.argmax(y)
  others = jnp.argsort(jnp.where(jnp.arange(num_classes) == top, jnp.inf, c))
  others = others[:-1]
  # Relative to the top class, whose score then costs nothing.
  relative = c[others] - c[top]

  def move(t: jax.Array) -> _Move:
    return _move(relative, y[top], y[others], t, epsilon, margin)

  def halve(
    _: int, bracket: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    low, high = bracket
    middle = low + _CUT * (high - low)
    at, slope = jax.jvp(move, (middle,), (jnp.ones(()),))
    is_lower = jnp.where(_is_allowed(at, epsilon), slope.value, slope.used) > 0
    return jnp.where(is_lower, low, middle), jnp.where(is_lower, middle, high)

  # With less the others, each as high as it may be, would not make up the sum.
  lowest = (1 + (num_classes - 1) * margin) / num_classes
  low = jnp.maximum(lowest, y[top] - epsilon / 2)
  high = jnp.maximum(low, jnp.minimum(1.0, y[top] + epsilon / 2))
  start = jnp.maximum(low, y[top])
  ends = jax.lax.fori_loop(0, _STEPS, halve, (low, high))
  tried = jnp.stack([start, low, high, *ends])
  moves = jax.vmap(move)(tried)
  allowed = _is_allowed(moves, epsilon)
  best = jnp.argmin(jnp.where(allowed, moves.value, jnp.inf))
  q = y.at[others].set(moves.others[best]).at[top].set(tried[best])
  return jnp.where(allowed.any(), q, y)


def _is_allowed(move: _Move, epsilon: float) -> jax.Array:
  return move.used <= epsilon + _ROUNDING


def _move(
  c: jax.Array,
  y_top: jax.Array,
  y: jax.Array,
  t: jax.Array,
  epsilon: float,
  margin: float,
) -> _Move:
  """The best scores with t for the top class; c and y float[K-1] of others."""
  bound = t - margin
  kept = jnp.minimum(y, bound)
  forced = jnp.sum(y - kept)
  missing = (y_top - t) + forced  # Of a sum of 1; less than 0 is too much.
  used = jnp.abs(t - y_top) + forced + jnp.abs(missing)
  gain, loss = jnp.maximum(missing, 0.0), jnp.maximum(-missing, 0.0)
  room = bound - kept
  # For every cut, what the classes from there on can give to those before.
  none = jnp.zeros(1)
  can_gain = jnp.concatenate([none, jnp.cumsum(room)]) - gain
  can_lose = jnp.concatenate([jnp.cumsum(kept[::-1])[::-1], none]) - loss
  x = jnp.max(jnp.minimum(can_gain, can_lose))
  x = jnp.clip(x, 0.0, jnp.maximum(epsilon - used, 0.0) / 2)
  gained = _fill(room, gain + x)
  lost = _fill(kept[::-1], loss + x)[::-1]
  q = _without_dust(kept - lost + gained, lost)
  return _Move(jnp.sum(c * (q - y)), used, q)
