"""From the config of a run to the functions that are compiled for it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from undistillable import (
  data,
  method as method_lib,
  optimizers,
  parallel,
  runs,
)
from undistillable.data import batches


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled for a run; runs that differ in their seed share it.

  Attributes:
    method: how it learns.
    prepare: images for training, augmented.
    prepare_test: images for evaluation.
    apply_fn: the network in evaluation mode.
    parent_fns: its parents in evaluation mode, by role.
  """

  method: method_lib.Method
  prepare: parallel.PrepareFn
  prepare_test: parallel.PrepareFn
  apply_fn: method_lib.ApplyFn
  parent_fns: Mapping[str, method_lib.ApplyFn]


def build(run: runs.Run, num_classes: int, num_examples: int) -> Program:
  """Builds the functions of a run; compiles nothing.

  Args:
    run: the run.
    num_classes: of its data set.
    num_examples: in its training set.

  Returns:
    The program; the same object for runs that differ in their seed alone.

  Raises:
    ValueError: an unknown name or an impossible value in its config.
  """
  return _build(anonymous(run), num_classes, num_examples)


def anonymous(run: runs.Run) -> runs.Run:
  """The run, less what its program does not depend on."""
  parents = {
    role: dataclasses.replace(
      parent, method='none', settings={}, parents={}, recipe={}, seed=0
    )
    for role, parent in run.parents.items()
  }
  return dataclasses.replace(run, parents=parents, seed=0)


@functools.lru_cache(maxsize=16)
def _build(run: runs.Run, num_classes: int, num_examples: int) -> Program:
  """See `build`."""
  recipe = dict(run.recipe)
  parallel.check_batch_size(recipe['batch_size'], num_examples)
  for field in ('evaluate_every_epochs', 'checkpoint_every_epochs'):
    if recipe[field] < 1:
      raise ValueError(f'{field}={recipe[field]}; expected at least 1')
  parents = {
    role: method_lib.frozen_fn(parent.network(num_classes))
    for role, parent in run.parents.items()
  }
  network = run.network(num_classes)
  optimizer = _optimizer(recipe, num_examples)
  make = _checked(run, run.module.make)
  mean, std = data.NORMALIZATIONS[run.dataset['normalization']]
  prepare = functools.partial(
    batches.prepare_fn, mean, std, dtype=jnp.dtype(run.dtype)
  )
  return Program(
    method=make(network, optimizer, **parents, **run.settings),
    prepare=prepare(augment=recipe['augment']),
    prepare_test=prepare(),
    apply_fn=method_lib.frozen_fn(network),
    parent_fns=parents,
  )


def _optimizer(
  recipe: Mapping[str, Any], num_examples: int
) -> optax.GradientTransformation:
  """The optimizer of a recipe, with its schedule."""
  schedule = optimizers.get_schedule(
    recipe['schedule'],
    learning_rate=recipe['learning_rate'],
    epochs=recipe['epochs'],
    steps_per_epoch=num_examples // recipe['batch_size'],
    milestones=recipe['milestones'],
    gamma=recipe['gamma'],
    warmup_epochs=recipe['warmup_epochs'],
  )
  return optimizers.get_optimizer(
    recipe['optimizer'],
    schedule,
    momentum=recipe['momentum'],
    weight_decay=recipe['weight_decay'],
  )


def _checked(run: runs.Run, make: Callable) -> Callable:
  """`make`, if the settings of the run are those that it takes."""
  known = {
    name
    for name, parameter in inspect.signature(make).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  } - set(run.parents)
  if known != set(run.settings):
    raise ValueError(
      f'{run.method!r} takes the settings {sorted(known)}; '
      f'the config gives {sorted(run.settings)}'
    )
  return make
