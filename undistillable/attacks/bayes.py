"""Bayes: the scores behind an answer, as the mean of all that look like it."""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import recovery

PARENTS = ('teacher',)
DATA = 'foreign'

_RADIUS = 0.01  # Of what looks like an answer, in L1.
_APART = 3.0  # More than any L1 distance of scores.
_TOGETHER = 8  # Answers that are looked up at once; bounds the memory only.

plan = functools.partial(recovery.plan, 'bayes')
is_bound = recovery.is_bound
warning = recovery.warning


@dataclasses.dataclass(frozen=True)
class Settings(recovery.Settings):
  """Of 500 images a table of 100,000 pairs; the authors' code has a million."""


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Trains a student on the mean of all scores that are served alike.

  Equation: of an answer q the estimate is the mean of y over the pairs (y,
  q(y)) of `recovery.pairs` with `|q(y) - q|_1 <= max(0.01, d)`, where d is the
  distance of the nearest: under the prior of the pairs the posterior mean,
  which has the least expected squared error. Where every pair keeps its top
  class, those of another one than q do not count, if there are others. The
  student learns it as `knockoff` learns answers. See `recovery.attack` for
  parents and metrics.

  Source: Tang et al. (2024), "ModelGuard", USENIX Security, and its code, whose
  prior is the oracle.
  """

  def learn(rng: jax.Array, y: jax.Array, q: jax.Array) -> dict[str, jax.Array]:
    del rng
    return {'y': y, 'q': q}

  def restore(table: Mapping[str, jax.Array], q: jax.Array) -> jax.Array:
    mean = posterior_mean(table['y'], table['q'], q)
    return losses.finite(jnp.log(mean))

  return recovery.attack(model, optimizer, settings, parents, learn, restore)


def posterior_mean(
  table_y: jax.Array, table_q: jax.Array, q: jax.Array
) -> jax.Array:
  """The mean of scores whose answers are near q, float32[B, K]; see `make`.

  The table has scores and the answers to them, float32[N, K] each.
  """
  top = table_q.argmax(-1)
  apart = jnp.where((top == table_y.argmax(-1)).all(), _APART, 0.0)

  def one(q: jax.Array) -> jax.Array:
    distance = jnp.abs(table_q - q[None]).sum(-1)
    distance += apart * (top != q.argmax())
    near = distance <= jnp.maximum(_RADIUS, distance.min())
    return near.astype(jnp.float32) @ table_y / near.sum()

  return jax.lax.map(one, q, batch_size=_TOGETHER)
