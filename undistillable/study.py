"""A study: networks that depend on each other, trained in order, resumably."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from undistillable import (
  data,
  errors,
  execute,
  plan,
  report,
  runs as runs_lib,
  writers,
)
from undistillable.analysis import responses, summary

# Fields that say where and how often, not what: they may change in a workdir.
_FREE_FIELDS = ('data_dir', 'eval_batch_size', 'grid', 'progress', 'seeds')


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
  planned = plan.make(config)
  _claim(config, workdir, reuse_workdir)
  store = execute.Store(
    workdir, planned[0].dataset, config.data_dir, config.eval_batch_size
  )
  results = _train(planned, store, config)
  # Versions and hardware are those of the last run, not of who looks at it.
  content = {
    'runs': [
      {k: v for k, v in r.items() if k != 'environment'} for r in results
    ],
    'summary': summary.summarize(results),
    'environment': results[-1]['environment'],
  }
  writers.write_json(workdir / 'results.json', content)
  responses.write(planned, store)
  report.write(content, workdir, command=command)
  return content


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
  store: execute.Store,
  config: ml_collections.ConfigDict,
) -> list[dict[str, Any]]:
  """The results of all runs, trained where they are missing."""
  found = {run.id: store.result(run) for run in planned}
  results = {name: result for name, result in found.items() if result}
  missing = [run for run in planned if run.id not in results]
  if missing:
    data.check(config.dataset, data_dir=config.data_dir)
  steps = sum(_num_steps(run, store) for run in missing)
  progress = writers.Progress(
    steps, len(planned), show=bool(missing) and config.progress
  )
  with progress:
    for index, run in enumerate(planned, start=1):
      if run.id not in results:
        progress.start(index, run.label)
        results[run.id] = execute.run_one(run, store, progress.advance)
      _check_accuracy(run, results, config.max_accuracy_drop)
  return [results[run.id] for run in planned]


def _num_steps(run: runs_lib.Run, store: execute.Store) -> int:
  """Steps of the whole training of a run."""
  if run.init_from:
    return 0
  per_epoch = len(store.examples(run)['label']) // run.recipe['batch_size']
  return run.recipe['epochs'] * per_epoch


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
