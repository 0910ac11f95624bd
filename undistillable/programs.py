"""From the config of a run to the functions that are compiled for it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from undistillable import (
  data,
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
    method: how it learns; None where nothing is trained.
    prepare: images for training, augmented.
    prepare_test: images for evaluation.
  """

  method: method_lib.Method | None
  prepare: parallel.PrepareFn
  prepare_test: parallel.PrepareFn

  def trained(self) -> method_lib.Method:
    """The method of a run that is known to have one."""
    assert self.method, 'nothing is trained'
    return self.method


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
  return _build(anonymous(run), num_examples)


def anonymous(run: runs.Run) -> runs.Run:
  """The run, less what its program does not depend on."""
  parents = {role: _as_asked(parent) for role, parent in run.parents.items()}
  return dataclasses.replace(run, parents=parents, seed=0, compared_with={})


def answer_fn(run: runs.Run) -> method_lib.ApplyFn:
  """What a client of a network is answered, `(variables, images) -> [B, K]`."""
  return _answer_fn(_as_asked(run))


def _as_asked(run: runs.Run) -> runs.Run:
  """A run, less what its answers do not depend on, but for its weights."""
  if hasattr(run.module, 'serve'):
    parents = {k: _as_asked(parent) for k, parent in run.parents.items()}
  else:
    plain = 'none' if run.role == 'teacher' else 'scratch'
    run = dataclasses.replace(run, method=plain, settings={})
    parents = {}
  return dataclasses.replace(
    run,
    parents=parents,
    recipe={},
    learns_from={},
    queries='',
    seed=0,
    init_from=None,
    compared_with={},
  )


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
  parallel.check_batch_size(recipe['batch_size'], num_examples)
  for field in ('evaluate_every_epochs', 'checkpoint_every_epochs'):
    if recipe[field] < 1:
      raise ValueError(f'{field}={recipe[field]}; expected at least 1')
  network = run.network()
  method = run.module.make(
    network,
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
  return _oracle(_as_asked(parent), run.access)


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
