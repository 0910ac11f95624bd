"""From the config of a run to the functions that are compiled for it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping

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
  networks = {
    role: parent.network(num_classes)
    for role, parent in run.parents.items()
    if parent.role != 'images'
  }
  parent_fns = {k: method_lib.frozen_fn(v) for k, v in networks.items()}
  network = run.network(num_classes)
  # Whoever has no data looks into the teacher; others see its answers alone.
  given = networks if run.data_free else parent_fns
  make = _checked(run, run.module.make)
  mean, std = data.NORMALIZATIONS[run.dataset['normalization']]
  dtype = jnp.dtype(run.dtype)
  prepare = functools.partial(batches.prepare_fn, mean, std, dtype=dtype)
  image_shape = data.get_source(run.dataset['name']).image_shape
  return Program(
    method=make(
      network, _optimizer(run, num_examples), **given, **run.settings
    ),
    prepare=batches.blank_fn(image_shape, dtype)
    if run.data_free
    else prepare(augment=recipe['augment']),
    prepare_test=prepare(),
    apply_fn=method_lib.frozen_fn(network),
    parent_fns=parent_fns,
  )


def _optimizer(
  run: runs.Run, num_examples: int
) -> optax.GradientTransformation:
  """The optimizer of a run, with its schedule."""
  recipe = run.recipe
  # Every image counts its own updates, one an epoch; a student that learns
  # several times a step counts them all.
  updates = num_examples // recipe['batch_size']
  updates = 1 if run.role == 'images' else updates
  updates *= run.settings.get('student_steps', 1)
  schedule = optimizers.get_schedule(
    recipe['schedule'],
    learning_rate=recipe['learning_rate'],
    epochs=recipe['epochs'],
    steps_per_epoch=updates,
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
