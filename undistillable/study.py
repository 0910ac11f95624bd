"""A study: networks that depend on each other, trained in order, resumably."""

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from undistillable import data, errors, registry, status
from undistillable.graph import (
  execute,
  plan,
  runs as runs_lib,
  store as store_lib,
)
from undistillable.report import responses, summary, table, write
from undistillable.storage import disk, lease, paths
from undistillable.training import hosts, parallel

# Fields that say where and how often, not what: they may change in a workdir.
_FREE_FIELDS = (
  'arena',
  'data_dir',
  'eval_batch_size',
  'grid',
  'max_accuracy_drop',
  'num_devices',
  'progress',
  'resident',
  'seeds',
  'together',
)

# Settings of a method: steps until it begins, and until it has its full weight.
_WAITS = ('delay_steps', 'ramp_steps', 'warmup_steps')
_MOST_NAMED = 5  # Fields in a sentence.
# Of a result.json, what results.json would only swell by.
_KEPT_APART = ('environment', 'test_hits', 'val_hits')
# In the folder of a report, of who writes there.
_LEASE = '.lease'
# What a study left: results.json, of which `run` returns the content.
Results = dict[str, Any]


def _table_of(results: Results) -> str:
  return table.text(results['summary'])


@dataclasses.dataclass(frozen=True)
class Study:
  """A graph of runs, and a way to show them.

  Attributes:
    name: of its folder in the workdir; '' puts the report beside the runs.
      Studies of one workdir share their runs.
    plan_fn: `config -> runs`; see `plan.make`.
    measure_fn: `(config, runs, store, folder) -> numbers`, of what no single
      run can say; they enter the results as 'measurements'.
    report_fn: `(results, workdir, folder, command)`, which writes the report.
    go_on: what to do about a run that diverges: record it, leave out those
      that depend on it, and train the others; or stop at once.
    fixed_fields: of the config, which other studies do not depend on, and this
      one does.
    text_fn: `results -> str`, what a terminal shows at the end.
    question: that it answers, where `python -m experiments` lists it.
  """

  name: str
  plan_fn: Callable[[ml_collections.ConfigDict], list[runs_lib.Run]]
  measure_fn: Callable[..., Mapping[str, Any]]
  report_fn: Callable[..., None]
  go_on: bool
  fixed_fields: tuple[str, ...] = ()
  text_fn: Callable[[Results], str] = _table_of
  question: str = ''


def _measure_main(
  config: ml_collections.ConfigDict,
  planned: Sequence[runs_lib.Run],
  store: store_lib.Store,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """The main job measures nothing more; it keeps answers for its figure."""
  del config
  responses.write(planned, store, folder)
  return {}


MAIN = Study('', plan.make, _measure_main, write.write, go_on=False)


def run(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  study: Study = MAIN,
  reuse_workdir: bool = False,
  command: str = '',
) -> Results:
  """Trains what is missing, and reports.

  Args:
    config: see configs/digits.py.
    workdir: where the runs go, and the report into its folder `study.name`;
      may begin with ~.
    study: the main job, or one of `experiments`.
    reuse_workdir: whether the report of another config there may be replaced.
    command: what the report says was typed.

  Returns:
    The content of results.json: runs, summary, measurements, environment.

  Raises:
    errors.InputError: a config, workdir or data set that does not fit.
    errors.DivergedError: a training failed; the message says what to change.
  """
  parallel.use(config.num_devices)
  workdir = paths.local(workdir, 'workdir')
  planned = study.plan_fn(config)
  folder = workdir / study.name
  own_config = _own_config(config, study, folder, reuse_workdir)
  store = store_lib.Store(
    workdir, config.data_dir, config.eval_batch_size, config.resident
  )
  _check_data(planned, store, config.data_dir)
  # From here on, what there is to mend is found, and something is written.
  _write_plan(planned, folder, own_config, study)
  results = execute.train_all(
    planned,
    store,
    together=config.together,
    max_accuracy_drop=None if study.go_on else config.max_accuracy_drop,
    show_progress=config.progress,
  )
  return _report(results, planned, store, config, study, workdir, command)


@hosts.by_main
def _report(
  results: dict[str, dict[str, Any]],
  planned: Sequence[runs_lib.Run],
  store: store_lib.Store,
  config: ml_collections.ConfigDict,
  study: Study,
  workdir: pathlib.Path,
  command: str,
) -> Results:
  """Writes what all runs came to; see `run`.

  Two commands may share the work of one study, each with seeds of its own:
  whichever ends last reports the seeds of both.
  """
  folder = workdir / study.name
  own = list(planned)

  @functools.cache
  def plan_fn(seed: int) -> list[runs_lib.Run]:
    return study.plan_fn(plan.vary(config, {'seeds': (seed,)}))

  while True:
    others = _of_other_seeds(own, plan_fn, config, store, folder)
    planned = list(dict.fromkeys([*own, *others]))
    results |= {run.id: result for run, result in others.items()}
    content = _content(planned, results, store, config, study, folder)
    with lease.wait(folder / _LEASE):
      # Measuring may have taken longer than another command needed.
      if others == _of_other_seeds(own, plan_fn, config, store, folder):
        written = disk.json_bytes(content)
        if broken := disk.damaged(folder, ['results.json']):
          disk.say(folder, broken, 'written again')
        disk.sign(folder, ['config.json'], {'results.json': written})
        disk.replace(folder / 'results.json', written)
        study.report_fn(content, workdir, folder=folder, command=command)
        return content


def _content(
  planned: Sequence[runs_lib.Run],
  results: Mapping[str, Mapping[str, Any]],
  store: store_lib.Store,
  config: ml_collections.ConfigDict,
  study: Study,
  folder: pathlib.Path,
) -> Results:
  """What results.json holds, measured."""
  finished = [run for run in planned if results[run.id]['status'] == 'finished']
  if not finished:
    raise errors.DivergedError(results[planned[0].id]['reason'])
  content = {
    'study': study.name or 'main',
    'runs': [_entry(run, results[run.id]) for run in planned],
    'measurements': study.measure_fn(config, finished, store, folder),
    # Versions and hardware are those of the last run, not of who looks at it.
    'environment': results[finished[-1].id]['environment'],
  }
  content['summary'] = summary.summarize(content['runs'])
  return content


def _entry(run: runs_lib.Run, result: Mapping[str, Any]) -> dict[str, Any]:
  """What a run came to, and which runs tables compare it with."""
  teacher = run.parents.get('teacher')
  others = {k: run.compared_with.get(k) for k in ('control', 'normal', 'null')}
  others['teacher'] = teacher if run.role != 'teacher' else None
  return {k: v for k, v in result.items() if k not in _KEPT_APART} | {
    name: other and other.id for name, other in others.items()
  }


@hosts.by_main
def _own_config(
  config: ml_collections.ConfigDict,
  study: Study,
  folder: pathlib.Path,
  reuse: bool,
) -> Any:
  """What says whose report this is; one config must not replace another's."""
  path = folder / 'config.json'
  content = disk.as_json(_not_free(config.to_dict(), study))
  kept = disk.restored(path, disk.json_bytes(content))
  if not kept and not reuse and path.exists():
    found = _not_free(disk.read_json(path), study)
    if found != content:
      differences = _differences(found, content)
      more = len(differences) - _MOST_NAMED
      if more > 1:  # As where another version was at work.
        differences[_MOST_NAMED:] = [f'and {more} more']
      raise errors.InputError(
        f'{folder} holds the runs of another config '
        f'({"; ".join(differences)}); choose another --workdir, or add '
        '--reuse_workdir to keep its finished runs and replace its report'
      )
  paths.check_folder(folder, 'workdir')
  return content


def _not_free(config: Any, study: Study) -> Any:
  """What of a config may not change; in earlier files more was written."""
  if not isinstance(config, dict):
    return config
  free = set(_FREE_FIELDS) - set(study.fixed_fields)
  return {k: v for k, v in config.items() if k not in free}


@hosts.by_main
def _write_plan(
  planned: Sequence[runs_lib.Run],
  folder: pathlib.Path,
  own_config: Any,
  study: Study,
) -> None:
  """Writes the config, and lists the runs for `status`.

  Those of other seeds of the config remain.
  """
  folder.mkdir(parents=True, exist_ok=True)
  listed = {
    run.id: {
      'id': run.id,
      'label': run.label,
      'epochs': run.epochs,
      # A partner has one of its own, which is none of the config's.
      'seed': None if run.role == 'partner' else run.seed,
    }
    for run in planned
  }
  path, config_path = folder / status.PLAN, folder / 'config.json'
  with lease.wait(folder / _LEASE):
    there = path.exists() and config_path.exists()
    if there and _not_free(disk.read_json(config_path), study) == own_config:
      try:
        listed = {run['id']: run for run in disk.read_json(path)} | listed
      except (errors.InputError, KeyError, TypeError):
        disk.say(folder, [path.name], 'written again, with these seeds alone')
    disk.write_json(path, list(listed.values()))
    disk.write_json(config_path, own_config)


def _check_data(
  planned: Sequence[runs_lib.Run],
  store: store_lib.Store,
  data_dir: str | None,
) -> None:
  """Checks that the data of all runs to train are there, and fill a batch.

  On every host, and that all of them plan the same.
  """
  ids = [run.id for run in planned]
  found, wanted = store.results(planned), hosts.of_main(ids)
  missing = [run for run in planned if run.id not in found]

  def check() -> None:
    if ids != wanted:
      raise errors.InputError(
        'it plans other runs than host 0; start the same command, of the same '
        'version, on every host'
      )
    used = [one for run in missing for one in (run.judged_on, run.learns_from)]
    keys = ('name', 'outliers', 'transfer')
    names = {one.get(key) for one in used for key in keys}
    for name in filter(None, names):
      data.check(name, data_dir=data_dir)
    for run in missing:
      _check_delay(run, store.num_steps(run))
      if run.init_from:
        execute.weights_of_file(run, store, only_try=True)

  hosts.agree(check)


def _check_delay(run: runs_lib.Run, num_steps: int) -> None:
  """Who waits for as long as he learns would do nothing, and not say so."""
  waits = {k: run.settings[k] for k in _WAITS if run.settings.get(k)}
  if num_steps and sum(waits.values()) >= num_steps:
    name = registry.short(run.method)
    said = ' + '.join(f'{name}.{k}={v}' for k, v in waits.items())
    raise errors.InputError(
      f'config: {said}, but {run.label} is trained for {num_steps} steps in '
      f'all, and {name} would do nothing, or little; expected fewer'
    )


def _differences(old: Any, new: Any, name: str = '') -> list[str]:
  """The fields in which two configs differ, as `name: old there, new here`."""
  if not isinstance(old, dict) or not isinstance(new, dict):
    return [] if old == new else [f'{name}: {old} there, {new} here']
  found = []
  for key in dict.fromkeys([*old, *new]):
    field = f'{name}.{key}'.strip('.')
    if key in old and key in new:
      found += _differences(old[key], new[key], field)
    else:
      found.append(f'{field}: only {"there" if key in old else "here"}')
  return found


def _of_other_seeds(
  own: Sequence[runs_lib.Run],
  plan_fn: Callable[[int], list[runs_lib.Run]],
  config: ml_collections.ConfigDict,
  store: store_lib.Store,
  folder: pathlib.Path,
) -> dict[runs_lib.Run, dict[str, Any]]:
  """The results of other seeds of this config, of which all are finished."""
  listed = {run.get('seed') for run in disk.read_json(folder / status.PLAN)}
  path = folder / 'results.json'
  if path.exists() and not disk.damaged(folder, [path.name]):
    # Plans of earlier versions tell no seeds.
    reported = disk.read_json(path)['runs']
    listed |= {run['seed'] for run in reported if run['role'] != 'partner'}
  found: dict[runs_lib.Run, dict[str, Any]] = {}
  for seed in sorted(listed - set(config.seeds) - {None}):
    planned = plan_fn(seed)
    if set(planned) <= set(own):
      break  # The seeds are those of `config.arena`.
    results = {run: store.result(run) for run in planned}
    finished = {run: result for run, result in results.items() if result}
    found |= finished if len(finished) == len(results) else {}
  return found


if __name__ == '__main__':
  if sys.argv[1:2] != ['status']:
    sys.exit('usage: python -m undistillable.study status --workdir=...')
  status.main(sys.argv[2:])
