"""From the config of a run to the functions that are compiled for it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from undistillable import (
  data,
  defenses,
  errors,
  method as method_lib,
  models,
  null_teacher,
  oracle,
  serving,
  state as state_lib,
)
from undistillable.data import batches
from undistillable.graph import runs
from undistillable.training import evaluate, optimizers, parallel


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled for a run; runs that differ in their seed share it.

  Attributes:
    network: the untrained module.
    parents: what its method gets of others, by role: modules, or an oracle.
    method: how it learns.
    prepare: images for training, augmented.
    prepare_test: images for evaluation.
  """

  network: nn.Module
  parents: Mapping[str, Any]
  method: method_lib.Method
  prepare: parallel.PrepareFn
  prepare_test: parallel.PrepareFn


def build(run: runs.Run, num_examples: int) -> Program:
  """Builds the functions of a run; compiles nothing.

  Of so many examples in its training set. It is the same program for runs that
  differ in their seed alone.

  Raises:
    ValueError: an unknown name or an impossible value in its config.
  """
  return _build(run.as_built, num_examples)


def answer_fn(run: runs.Run) -> method_lib.ApplyFn:
  """What a client of a network is answered, `(variables, images) -> [B, K]`."""
  return _answer_fn(run.as_asked)


def answers(
  run: runs.Run,
  variables: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  batch_size: int,
) -> np.ndarray:
  """What a client of a network is answered about images, float32[N, K]."""
  answer, prepare = answer_fn(run), _prepare(run)
  return evaluate.predict(
    answer, variables, arrays, prepare, batch_size=batch_size
  )


@functools.lru_cache(maxsize=64)
def _answer_fn(run: runs.Run) -> method_lib.ApplyFn:
  """The same function for runs that are asked alike."""
  serve = getattr(run.module, 'serve', None)
  return serving.answer_fn(
    _network(run),
    serve,
    run.method_settings if serve else None,
    {k: _network(parent) for k, parent in run.parents.items()},
  )


def asked(
  run: runs.Run, variables: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
  """What its answers depend on beside the weights of the network itself.

  Its variables are as `store.Store.variables` gives them.

  Returns:
    The roles of other networks, and the names of what was trained beside it.
  """
  shape = data.get_source(run.judged_on['name']).image_shape
  images = jax.ShapeDtypeStruct((1, *shape), jnp.dtype(run.dtype))
  traced = jax.make_jaxpr(answer_fn(run))(variables, images).jaxpr
  used = {id(one) for one in traced.outvars}
  # From the answers backwards: what is read and leads to none is not asked.
  for step in reversed(traced.eqns):
    if any(id(one) in used for one in step.outvars):
      used |= {id(one) for one in step.invars}
  found = [
    path
    for (path, _), one in zip(
      jax.tree_util.tree_leaves_with_path(variables),
      traced.invars,
      strict=False,  # The images come last.
    )
    if id(one) in used
  ]
  roles = {path[1].key for path in found if path[0].key == serving.PARENTS}
  names = {path[0].key for path in found}
  beside = names - {serving.PARENTS, *serving.COLLECTIONS}
  return sorted(roles), sorted(beside)


def bare(run: runs.Run) -> runs.Run:
  """Whose network an owner serves: the normal one's, or the run's own.

  It is the normal one's where nothing is trained, or only beside it, see
  `method.beside`; so whoever has the weights has these.
  """
  if run.only_serves:
    return run.parents['normal']
  beside = isinstance(initial_shapes(run), state_lib.BesideState)
  return run.parents['normal'] if beside else run


@functools.lru_cache(maxsize=64)
def initial_shapes(run: runs.Run) -> Any:
  """The initial state of a network of the owner, in shapes and types."""
  size = run.recipe['batch_size']
  image_shape = data.get_source(run.judged_on['name']).image_shape
  images = jax.ShapeDtypeStruct((size, *image_shape), jnp.dtype(run.dtype))
  batch = {'image': images, 'label': jax.ShapeDtypeStruct((size,), jnp.int32)}
  if 'outliers' in run.learns_from:
    batch['outlier'] = images
  frozen = {
    role: initial_shapes(parent).variables
    for role, parent in run.parents.items()
  }
  method = build(run, size).method
  return jax.eval_shape(method.init, jax.random.key(0), batch, frozen)


@functools.lru_cache(maxsize=16)
def _build(run: runs.Run, num_examples: int) -> Program:
  """See `build`."""
  parents: dict[str, Any] = {
    # An oracle of whom it robs, all of any other.
    role: _oracle(parent.as_asked, run.access)
    if run.robs(role)
    else _network(parent)
    for role, parent in run.parents.items()
    if role != 'images'
  }
  network = _network(run)
  prepare = _prepare(run, run.recipe['augment'])
  if run.access_to_data == 'none':
    image_shape = data.get_source(run.judged_on['name']).image_shape
    prepare = batches.blank_fn(image_shape, run.dtype)
  settings = run.method_settings
  updates = num_examples // run.recipe['batch_size']
  if hasattr(run.module, 'updates_per_epoch'):
    updates = run.module.updates_per_epoch(settings, updates)
  optimizer = optimizers.of_recipe(run.recipe, updates)
  if run.robs_nobody:
    parents['teacher'] = null_teacher.nobody(
      data.get_source(run.judged_on['name']).num_classes,
      labels_only=run.access == 'labels',
    )
  # Where nothing is trained: how the network learned that is served.
  make = run.module.make or defenses.none.make
  method = make(network, optimizer, settings, parents)
  if not isinstance(method, method_lib.Method):
    raise errors.InputError(
      f'make of {run.method!r} returned {type(method).__name__}; expected a '
      'method.Method, or the line `make = None` where nothing is trained'
    )
  return Program(
    network=network,
    parents=parents,
    method=null_teacher.on_nobody(method) if run.robs_nobody else method,
    prepare=prepare,
    prepare_test=_prepare(run),
  )


def _prepare(run: runs.Run, augment: str = 'none') -> parallel.PrepareFn:
  """What makes images fit for its network; equal ones for equal arguments."""
  mean, std = data.NORMALIZATIONS[run.normalization]
  return batches.prepare_fn(mean, std, augment=augment, dtype=run.dtype)


def _network(run: runs.Run) -> nn.Module:
  """The untrained module."""
  num_classes = data.get_source(run.judged_on['name']).num_classes
  return models.get_model(run.model, num_classes, dtype=jnp.dtype(run.dtype))


@functools.lru_cache(maxsize=64)
def _oracle(teacher: runs.Run, access: str) -> oracle.Oracle:
  """The same for all who ask alike: methods of equal oracles are not equal."""
  return oracle.Oracle(
    _answer_fn(teacher),
    _network(teacher) if access == 'weights' else None,
    labels_only=access == 'labels',
  )
