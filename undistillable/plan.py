"""From a config to the runs of a study, in order; nothing is trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import ml_collections

from undistillable import data, errors, models, programs, runs as runs_lib


def make(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The runs of the main job, in an order in which they can be trained.

  For every seed: the normal teacher (and an adversary, where that is another
  network), the protected teacher, and for every student the control, the one
  distilled from the normal and the one distilled from the protected teacher.

  Args:
    config: see configs/digits.py.

  Returns:
    Each run once; what a run depends on comes before it.

  Raises:
    errors.InputError: an unknown name or an impossible value.
  """
  try:
    _check(config)
    planned = [run for s in config.seeds for run in _plan_seed(config, s)]
    for run in planned:
      # Any number of classes and examples shows whether the parts fit.
      programs.build(run, 10, run.recipe['batch_size'])
  except ValueError as error:
    raise errors.InputError(f'config: {error}') from error
  return in_order(planned)


def vary(
  config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """A copy of a config in which some fields have other values.

  Args:
    config: left as it is.
    changes: {dotted name: value}.

  Example:
    >>> config = ml_collections.ConfigDict({'defense': {'omega': 0.004}})
    >>> vary(config, {'defense.omega': 0.1}).defense.omega
    0.1
  """
  varied = config.copy_and_resolve_references()
  varied.update_from_flattened_dict(dict(changes))
  return varied


def in_order(runs: Iterable[runs_lib.Run]) -> list[runs_lib.Run]:
  """Each run once: teachers, then what learns from them, seeds side by side.

  Parents come first. What is compiled for a run serves all its seeds; it is
  dropped again when many others come in between.
  """
  unique = list(dict.fromkeys(runs))
  first: dict[runs_lib.Run, int] = {}
  for index, run in enumerate(unique):
    first.setdefault(programs.anonymous(run), index)
  return sorted(
    unique,
    key=lambda run: (
      run.role != 'teacher',
      run.depth,
      first[programs.anonymous(run)],
    ),
  )


def _check(config: ml_collections.ConfigDict) -> None:
  """What no single run can see."""
  for field in ('seeds', 'students'):
    if not config[field]:
      raise ValueError(f'{field} is empty; name at least one')
  if any(seed < 0 for seed in config.seeds):
    raise ValueError(f'seeds={config.seeds}; expected numbers >= 0')
  for model in config.recipes:
    if model not in models.MODELS:
      raise ValueError(f'recipes: there is no model {model!r}')
  if config.dataset not in data.DATASETS:
    raise ValueError(
      f'unknown dataset {config.dataset!r}; known: {", ".join(data.DATASETS)}'
    )
  if config.normalization not in data.NORMALIZATIONS:
    raise ValueError(
      f'unknown normalization {config.normalization!r}; '
      f'known: {", ".join(data.NORMALIZATIONS)}'
    )
  if not 0 <= config.val_fraction < 1:
    raise ValueError(
      f'val_fraction={config.val_fraction}; expected 0 <= val_fraction < 1'
    )
  if not 0 < config.fraction <= 1:
    raise ValueError(
      f'fraction={config.fraction}; expected 0 < fraction <= 1, the share of '
      'the training set that the thief has'
    )
  for field in ('eval_batch_size', 'together'):
    if config[field] < 1:
      raise ValueError(f'{field}={config[field]}; expected at least 1')
  if config.limit is not None and config.limit < 1:
    raise ValueError(f'limit={config.limit}; expected at least 1, or None')


def _plan_seed(
  config: ml_collections.ConfigDict, seed: int
) -> Iterable[runs_lib.Run]:
  """The runs of one seed."""
  make = functools.partial(make_run, config, seed)
  name, settings = _method(config.defense)
  normal = _with_weights(
    make('teacher', config.teacher.model, 'none'), config.teacher.init_from
  )
  adversary = normal
  if config.adversary.model:
    adversary = _with_weights(
      make('teacher', config.adversary.model, 'none'),
      config.adversary.init_from,
    )
  protected = make(
    'teacher', config.teacher.model, name, settings, {'adversary': adversary}
  )
  yield from (normal, adversary, protected)
  name, settings = _method(config.attack)
  for student in config.students:
    yield make('student', student, 'scratch')
    for teacher in (normal, protected):
      yield make('student', student, name, settings, {'teacher': teacher})


def _method(config: ml_collections.ConfigDict) -> tuple[str, dict[str, Any]]:
  """A name and its settings."""
  settings = config.to_dict()
  return settings.pop('name'), settings


def make_run(
  config: ml_collections.ConfigDict,
  seed: int,
  role: str,
  model: str,
  method: str,
  settings: Mapping[str, Any] | None = None,
  parents: Mapping[str, runs_lib.Run] | None = None,
  changes: Mapping[str, Any] | None = None,
) -> runs_lib.Run:
  """A run of a config.

  Args:
    config: see configs/digits.py.
    seed: of the run.
    role: see `runs.Run`.
    model: see there.
    method: see there.
    settings: of the method.
    parents: of which it keeps those that its method reads, and 'images'.
    changes: to the recipe of the config for this model.

  Returns:
    The run.
  """
  run = runs_lib.Run(
    role=role,
    model=model,
    method=method,
    settings=settings or {},
    parents={},
    dataset={
      'name': config.dataset,
      'normalization': config.normalization,
      'val_fraction': config.val_fraction,
      'val_seed': 0,
      'limit': config.limit,
      # The owner has all of the training set, the thief a share of it.
      'fraction': config.fraction if role == 'student' else 1.0,
    },
    recipe=recipe(config, model) | dict(changes or {}),
    dtype=config.dtype or _default_dtype(),
    seed=seed,
  )
  parents = parents or {}
  kept = {k: parents[k] for k in run.module.PARENTS}
  if 'images' in parents:
    kept['images'] = parents['images']
  return dataclasses.replace(run, parents=kept)


def _with_weights(run: runs_lib.Run, path: str | None) -> runs_lib.Run:
  """The run, or one that takes its weights from a file instead of training."""
  if path is None:
    return run
  if not pathlib.Path(path).is_file():
    raise ValueError(f'init_from: there is no file {path}')
  # Whatever seed: the same file is the same network.
  return dataclasses.replace(run, init_from=path, seed=0)


def recipe(config: ml_collections.ConfigDict, model: str) -> dict[str, Any]:
  """How a model is trained: config.recipe, and what config.recipes changes."""
  changes = config.recipes.get(model, ml_collections.ConfigDict())
  return config.recipe.to_dict() | changes.to_dict()


def _default_dtype() -> str:
  """bfloat16 pays where there are matrix units for it."""
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
