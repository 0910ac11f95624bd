"""All that a thief can do with a teacher: ask it, as any of its clients."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import errors, losses, method, state as state_lib

# The counts of all `counting` blocks that are open.
_COUNTS: list[list[int]] = []


@dataclasses.dataclass(frozen=True)
class Oracle:
  """A teacher behind its door.

  Attributes:
    answer_fn: `(variables, images) -> float[B, K]`, what a client is answered:
      logits, or the logarithms of scores.
    module: the network itself, for a thief who has stolen the weights; None
      for any other.
    labels_only: whether a client is told the top class and nothing else.
  """

  answer_fn: method.ApplyFn
  module: nn.Module | None = None
  labels_only: bool = False

  def scores(self, variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    """The answers to images float[B, H, W, C], each of which is a query.

    Returns:
      float32[B, K], finite: a class that the teacher withholds has
      `losses.WITHHELD`. No gradient leads back to images or variables.

    Raises:
      errors.InputError: this oracle tells the top classes alone.
    """
    if self.labels_only:
      raise errors.InputError(
        "this attack declares ACCESS = 'labels'; declare 'scores' to read them"
      )
    return self._ask(variables, images)

  def labels(self, variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    """int32[B], the top classes alone; of equal scores the first."""
    return jnp.argmax(self._ask(variables, images), axis=-1)

  def _ask(self, variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    for count in _COUNTS:
      count.append(len(images))
    answers = self.answer_fn(
      jax.lax.stop_gradient(variables), jax.lax.stop_gradient(images)
    )
    return jax.lax.stop_gradient(losses.finite(answers))


# Whom an attack reads, by role: oracles, or what `as_oracle` takes.
Parents = Mapping[str, Oracle | method.ApplyFn | nn.Module]


def as_oracle(teacher: Oracle | method.ApplyFn | nn.Module) -> Oracle:
  """An oracle; of a module, which is then open, or of an answer function.

  Example:
    >>> as_oracle(lambda variables, images: images).module is None
    True
  """
  if isinstance(teacher, Oracle):
    return teacher
  module = teacher if isinstance(teacher, nn.Module) else None
  return Oracle(method.as_frozen_fn(teacher), module)


def open_module(teacher: Oracle | method.ApplyFn | nn.Module) -> nn.Module:
  """The network of a teacher whose weights are known; `ACCESS = 'weights'`.

  Raises:
    errors.InputError: they are not.
  """
  module = teacher.module if isinstance(teacher, Oracle) else teacher
  if not isinstance(module, nn.Module):
    raise errors.InputError(
      f'this attack reads the weights of the teacher; {teacher!r} does not '
      'give them away'
    )
  return module


def student(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  loss_fn: method.LossFn,
  parents: Parents,
  **options: Any,
) -> method.Method:
  """`method.supervised`, of a loss that reads what the teacher answers.

  His scores, of which each is a query, are in the loss's answers['teacher'].
  """
  scores = as_oracle(parents['teacher']).scores
  return method.supervised(
    model, optimizer, loss_fn, answer_fns={'teacher': scores}, **options
  )


@contextlib.contextmanager
def counting() -> Iterator[list[int]]:
  """Counts the queries of what is traced within, or computed without `jit`.

  A loop counts once, whatever its length: a step that asks in a loop writes it
  out.

  Yields:
    The number of images of each call so far.

  Example:
    >>> ask = as_oracle(lambda variables, images: images)
    >>> with counting() as count:
    ...   _ = ask.scores({}, jnp.zeros((5, 10)))
    >>> sum(count)
    5
  """
  count: list[int] = []
  _COUNTS.append(count)
  try:
    yield count
  finally:
    # By identity: an equal count of another block stays.
    _COUNTS[:] = [one for one in _COUNTS if one is not count]


def queries(fn: Any, *args: Any) -> int:
  """How many images a function asks about, found by tracing it."""
  with counting() as count:
    # A function of its own each time: what JAX has traced before it would not
    # trace again, and nothing would be counted.
    jax.eval_shape(lambda *given: fn(*given), *args)
  return sum(count)
