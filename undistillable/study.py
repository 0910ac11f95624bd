"""A study: networks that depend on each other, trained in order, resumably."""

import dataclasses
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from undistillable import (
  data,
  errors,
  evaluate,
  report,
  runs as runs_lib,
  writers,
)
from undistillable.analysis import summary

NUM_RESPONSES = 8  # Test images whose logits the report draws.
_PACKAGES = (
  'undistillable', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint',
  'tensorflow-datasets', 'numpy',
)  # fmt: skip
# Fields that say where and how often, not what: they may change in a workdir.
_FREE_FIELDS = ('data_dir', 'progress', 'seeds')


def plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
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
    planned = []
    for seed in config.seeds:
      planned += _plan_seed(config, seed)
    planned = list(dict.fromkeys(planned))
    for run in planned:
      # Any number of classes and examples shows whether the parts fit.
      runs_lib.program(run, 10, run.recipe['batch_size'])
  except ValueError as error:
    raise errors.InputError(f'config: {error}') from error
  return planned


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  reuse_workdir: bool = False,
  command: str = '',
) -> dict[str, Any]:
  """Trains what is missing, and reports.

  Args:
    config: see configs/digits.py.
    workdir: where the runs and the report go.
    reuse_workdir: whether the report of another config there may be replaced.
    command: what the report says was typed.

  Returns:
    The content of results.json: runs, summary, environment.

  Raises:
    errors.InputError: a config, workdir or data set that does not fit.
    errors.DivergedError: a training failed; the message says what to change.
  """
  planned = plan(config)
  _claim(config, workdir, reuse_workdir)
  dataset_fn = functools.cache(
    lambda: runs_lib.load_splits(planned[0].dataset, config.data_dir)
  )
  missing = [r for r in planned if runs_lib.result(r, workdir) is None]
  if missing:
    data.check(config.dataset, data_dir=config.data_dir)
  results = _train(planned, workdir, dataset_fn, config)
  content = {
    'runs': results,
    'summary': summary.summarize(results),
    'environment': environment(),
  }
  _write_responses(planned, workdir, dataset_fn)
  writers.write_json(workdir / 'results.json', content)
  report.write(content, workdir, command=command)
  return content


def environment() -> dict[str, str]:
  """Versions and hardware: what a result needs beside it."""
  device = jax.devices()[0]
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    **versions,
    'python': platform.python_version(),
    'platform': platform.platform(),
    'device': f'{device.platform}: {device.device_kind}',
    'devices': str(jax.device_count()),
    'cpus': str(os.cpu_count()),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
  }


def _check(config: ml_collections.ConfigDict) -> None:
  """What no single run can see."""
  for field in ('seeds', 'students'):
    if not config[field]:
      raise ValueError(f'{field} is empty; name at least one')
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


def _plan_seed(
  config: ml_collections.ConfigDict, seed: int
) -> Iterable[runs_lib.Run]:
  """The runs of one seed."""
  make = functools.partial(_make_run, config, seed)
  name, settings = _method(config.defense)
  normal = make('teacher', config.teacher, 'none')
  adversary = normal
  if config.adversary:
    adversary = make('teacher', config.adversary, 'none')
  protected = make(
    'teacher', config.teacher, name, settings, {'adversary': adversary}
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


def _make_run(
  config: ml_collections.ConfigDict,
  seed: int,
  role: str,
  model: str,
  method: str,
  settings: Mapping[str, Any] | None = None,
  parents: Mapping[str, runs_lib.Run] | None = None,
) -> runs_lib.Run:
  """A run of the config; it keeps those parents that its method reads."""
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
    },
    recipe=recipe(config, model),
    dtype=config.dtype or _default_dtype(),
    seed=seed,
  )
  kept = {k: parents[k] for k in run.module.PARENTS}
  return dataclasses.replace(run, parents=kept)


def recipe(config: ml_collections.ConfigDict, model: str) -> dict[str, Any]:
  """How a model is trained: config.recipe, and what config.recipes changes."""
  changes = config.recipes.get(model, ml_collections.ConfigDict())
  return config.recipe.to_dict() | changes.to_dict()


def _default_dtype() -> str:
  """bfloat16 pays where there are matrix units for it."""
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def _claim(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, reuse: bool
) -> None:
  """Keeps the report of one config from replacing that of another."""
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'config.json'
  content = {k: v for k, v in config.to_dict().items() if k not in _FREE_FIELDS}
  content = writers.as_json(content)
  if path.exists() and not reuse:
    found = writers.read_json(path)
    if found != content:
      raise errors.InputError(
        f'{workdir} holds the runs of another config '
        f'({"; ".join(_differences(found, content))}); choose another '
        '--workdir, or add --reuse_workdir to keep its finished runs and '
        'replace its report'
      )
  writers.write_json(path, content)


def _differences(old: Any, new: Any, name: str = '') -> list[str]:
  """The fields in which two configs differ, as `name: old -> new`."""
  if isinstance(old, dict) and isinstance(new, dict):
    return [
      difference
      for key in dict.fromkeys([*old, *new])
      for difference in _differences(
        old.get(key), new.get(key), f'{name}.{key}'.strip('.')
      )
    ]
  return [] if old == new else [f'{name}: {old} there, {new} here']


def _train(
  planned: Sequence[runs_lib.Run],
  workdir: pathlib.Path,
  dataset_fn,
  config: ml_collections.ConfigDict,
) -> list[dict[str, Any]]:
  """The results of all runs, trained where they are missing."""
  results = {run.id: runs_lib.result(run, workdir) for run in planned}
  missing = [run for run in planned if results[run.id] is None]
  steps = {run.id: _num_steps(run, dataset_fn()) for run in missing}
  progress = writers.Progress(
    sum(steps.values()), len(planned), show=bool(missing) and config.progress
  )
  variables_of = _variables_fn(workdir, dataset_fn)
  with progress:
    for index, run in enumerate(planned, start=1):
      if results[run.id] is None:
        progress.start(index, run.label)
        frozen = {k: variables_of(p) for k, p in run.parents.items()}
        results[run.id] = runs_lib.execute(
          run, dataset_fn(), frozen, workdir, progress.advance
        )
      _check_accuracy(run, results, config.max_accuracy_drop)
  return [results[run.id] for run in planned]


def _num_steps(run: runs_lib.Run, dataset: runs_lib.Splits) -> int:
  per_epoch = len(dataset.train['label']) // run.recipe['batch_size']
  return per_epoch * run.recipe['epochs']


def _variables_fn(workdir: pathlib.Path, dataset_fn):
  """Variables of finished runs; those last used stay in memory."""

  @functools.lru_cache(maxsize=4)
  def variables(run: runs_lib.Run):
    return runs_lib.variables(run, workdir, dataset_fn())

  return variables


def _check_accuracy(
  run: runs_lib.Run, results: Mapping[str, Any], max_drop: float
) -> None:
  """Stops before students are trained against a teacher that is no use."""
  if 'adversary' not in run.parents:
    return
  adversary = results[run.parents['adversary'].id]
  key = 'val_accuracy'
  if adversary[key] is None:
    key = 'test_accuracy'
  accuracy = results[run.id][key]
  drop = adversary[key] - accuracy
  if drop > max_drop:
    raise errors.DivergedError(
      f'{run.label} ({run.id}): its accuracy collapsed to {accuracy:.1f} %, '
      f'{drop:.1f} points below its adversary; lower defense.omega (now '
      f'{run.settings.get("omega")}), or raise max_accuracy_drop (now '
      f'{max_drop}) to go on with it'
    )


def _write_responses(
  planned: Sequence[runs_lib.Run], workdir: pathlib.Path, dataset_fn
) -> None:
  """responses.npz: what both teachers answer on the same test images."""
  protected = next(
    (run for run in planned if run.role == 'teacher' and run.method != 'none'),
    None,
  )
  if protected is None:
    return
  normal = next(
    run
    for run in planned
    if run.method == 'none' and run.model == protected.model
  )
  path = workdir / 'responses.npz'
  ids = np.array([normal.id, protected.id])
  if path.exists():
    with np.load(path) as found:
      if 'ids' in found and (found['ids'] == ids).all():
        return
  dataset = dataset_fn()
  variables_of = _variables_fn(workdir, dataset_fn)
  images = first_of_each_class(dataset.test, NUM_RESPONSES)
  answers = {}
  for name, teacher in (('normal', normal), ('protected', protected)):
    parts = runs_lib.program(
      teacher, dataset.num_classes, len(dataset.train['label'])
    )
    answers[f'{name}_logits'] = evaluate.predict(
      parts.apply_fn, variables_of(teacher), images, parts.prepare_test
    )
  np.savez(
    path,
    ids=ids,
    **images,
    **answers,
    class_names=np.array(dataset.class_names),
  )


def first_of_each_class(
  arrays: Mapping[str, np.ndarray], number: int
) -> dict[str, np.ndarray]:
  """The first example of each of the first `number` classes."""
  _, first = np.unique(arrays['label'], return_index=True)
  return {key: value[first[:number]] for key, value in arrays.items()}
