"""From the config of a run to the functions that are compiled for it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from undistillable import (
  data,
  defenses,
  method as method_lib,
  optimizers,
  oracle,
  parallel,
  runs,
  serving,
)
from undistillable.data import batches


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled for a run; runs that differ in their seed share it.

  Attributes:
    method: how it learns.
    prepare: images for training, augmented.
    prepare_test: images for evaluation.
  """

  method: method_lib.Method
  prepare: parallel.PrepareFn
  prepare_test: parallel.PrepareFn


def build(run: runs.Run, num_examples: int) -> Program:
  """Builds the functions of a run; compiles nothing.

  Args:
    run: the run.
    num_examples: in its training set.

  Returns:
    The program; the same object for runs that differ in their seed alone.

  Raises:
    ValueError: an unknown name or an impossible value in its config.
  """
  return _build(run.as_built, num_examples)


def answer_fn(run: runs.Run) -> method_lib.ApplyFn:
  """What a client of a network is answered, `(variables, images) -> [B, K]`."""
  return _answer_fn(run.as_asked)


@functools.lru_cache(maxsize=64)
def _answer_fn(run: runs.Run) -> method_lib.ApplyFn:
  """The same function for runs that are asked alike."""
  serve = getattr(run.module, 'serve', None)
  return serving.answer_fn(
    run.network(),
    serve,
    run.method_settings if serve else None,
    {k: parent.network() for k, parent in run.parents.items()},
  )


@functools.lru_cache(maxsize=16)
def _build(run: runs.Run, num_examples: int) -> Program:
  """See `build`."""
  recipe = dict(run.recipe)
  # Where nothing is trained: how the network learned that is served.
  make = run.module.make or defenses.none.make
  method = make(
    run.network(),
    _optimizer(run, num_examples),
    run.method_settings,
    {
      role: _given(run, role, parent)
      for role, parent in run.parents.items()
      if role != 'images'
    },
  )
  mean, std = data.NORMALIZATIONS[run.normalization]
  dtype = jnp.dtype(run.dtype)
  prepare = functools.partial(batches.prepare_fn, mean, std, dtype=dtype)
  image_shape = data.get_source(run.judged_on['name']).image_shape
  return Program(
    method=method,
    prepare=batches.blank_fn(image_shape, dtype)
    if run.access_to_data == 'none'
    else prepare(augment=recipe['augment']),
    prepare_test=prepare(),
  )


def _given(run: runs.Run, role: str, parent: runs.Run) -> Any:
  """What a method gets of a parent: an oracle of whom it robs, else all."""
  module = parent.network()
  if run.role == 'teacher' or role != 'teacher':
    return module
  return _oracle(parent.as_asked, run.access)


@functools.lru_cache(maxsize=64)
def _oracle(teacher: runs.Run, access: str) -> oracle.Oracle:
  """The same for all who ask alike: methods of equal oracles are not equal."""
  return oracle.Oracle(
    _answer_fn(teacher),
    teacher.network() if access == 'weights' else None,
    labels_only=access == 'labels',
  )


def _optimizer(
  run: runs.Run, num_examples: int
) -> optax.GradientTransformation:
  """The optimizer of a run, with its schedule."""
  recipe = run.recipe
  updates_fn: Callable[..., int] = getattr(
    run.module, 'updates_per_epoch', lambda settings, steps: steps
  )
  schedule = optimizers.get_schedule(
    recipe['schedule'],
    learning_rate=recipe['learning_rate'],
    epochs=recipe['epochs'],
    steps_per_epoch=updates_fn(
      run.method_settings, num_examples // recipe['batch_size']
    ),
    milestones=recipe['milestones'],
    gamma=recipe['gamma'],
    warmup_epochs=recipe['warmup_epochs'],
  )
  return optimizers.get_optimizer(
    recipe['optimizer'],
    schedule,
    momentum=recipe['momentum'],
    weight_decay=recipe['weight_decay'],
    groups=recipe['groups'],
  )
