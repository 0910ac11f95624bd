"""Which runs belong together, and which run another is compared with.

A run is a dict as the study writes it; see `summary.summarize`. Runs are never
matched by their position: whatever order they finished in, the same runs give
the same groups.
"""

import collections
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undistillable.analysis import records

CONTROL = 'scratch'
NORMAL = 'none'


def usable(runs: Iterable[records.Run]) -> tuple[list[records.Run], list[str]]:
  """Splits runs into those with a result, sorted, and notes on the others."""
  kept: dict[str, records.Run] = {}
  notes: list[str] = []
  for run in sorted(runs, key=lambda run: run['id']):
    if run['role'] == 'images':
      continue  # No network, and so without an accuracy.
    accuracy = run.get('test_accuracy')
    status = run.get('status', 'finished')
    if status != 'finished':
      notes.append(f'{run["id"]} is {status}, not finished: left out.')
    elif accuracy is None or not math.isfinite(accuracy):
      notes.append(f'{run["id"]} has no finite test accuracy: left out.')
    else:
      kept[run['id']] = run
      if run.get('warning'):
        notes.append(f'{run["id"]}: {run["warning"]}.')
  return sorted(kept.values(), key=lambda r: (r['seed'], r['id'])), notes


def natural(text: object) -> list[tuple[bool, float, str]]:
  """Sort key that puts resnet8 before resnet20, and omega 0.05 before 0.1."""
  parts = re.split(r'(\d+(?:\.\d+)?)', str(text).lower())
  # Every second part is a number.
  return [
    (i % 2 == 1, float(p) if i % 2 else 0, p) for i, p in enumerate(parts)
  ]


def flatten(
  config: Mapping[str, Any] | None, prefix: str = ''
) -> dict[str, Any]:
  """Nested config -> {'a.b': value}, without the seed."""
  flat: dict[str, Any] = {}
  for key, value in (config or {}).items():
    if isinstance(value, dict) and value:
      flat.update(flatten(value, f'{prefix}{key}.'))
    elif str(key) != 'seed':
      flat[f'{prefix}{key}'] = value
  return flat


def show(value: object) -> str:
  """A setting as a reader would write it."""
  if isinstance(value, list | tuple):
    return ', '.join(show(v) for v in value)
  if isinstance(value, float):
    return f'{value:g}'
  return str(value)


def is_normal(teacher: records.Run) -> bool:
  """Whether this teacher was trained without any defence."""
  return teacher['method'] == NORMAL


def teacher_of(run: records.Run, by_id: records.RunsById) -> records.Run | None:
  """The teacher that a student learned from, or None."""
  for parent in run.get('parents') or ():
    if parent in by_id and by_id[parent]['role'] == 'teacher':
      return by_id[parent]
  return None


def closest(
  run: records.Run, candidates: Sequence[records.Run]
) -> records.Run | None:
  """The candidate with the most settings in common with `run`, or None."""
  mine = flatten(run.get('config'))

  def rank(candidate: records.Run) -> int:
    theirs = flatten(candidate.get('config'))
    return sum(theirs.get(key, math.nan) == mine[key] for key in mine)

  # max keeps the first of equals, and runs come sorted: order independent.
  return max(candidates, key=rank, default=None)


def control_of(
  student: records.Run, runs: Sequence[records.Run]
) -> records.Run | None:
  """The same student network, trained alone with the same seed."""
  return closest(
    student,
    [
      run
      for run in runs
      if run['role'] == 'student'
      and run['method'] == CONTROL
      and _same(run, student, 'dataset', 'model', 'seed')
    ],
  )


def normal_of(
  teacher: records.Run, runs: Sequence[records.Run], by_id: records.RunsById
) -> records.Run | None:
  """The normal teacher that a protected one is compared with.

  Its own parent if that has the same architecture, otherwise the one trained
  with the same seed: a nasty teacher's adversary may be another network.
  """
  parents = [
    by_id[parent]
    for parent in teacher.get('parents') or ()
    if parent in by_id
    and is_normal(by_id[parent])
    and _same(by_id[parent], teacher, 'dataset', 'model')
  ]
  return closest(teacher, parents) or closest(
    teacher,
    [
      run
      for run in runs
      if run['role'] == 'teacher'
      and is_normal(run)
      and _same(run, teacher, 'dataset', 'model', 'seed')
    ],
  )


def counterpart_of(
  student: records.Run,
  teacher: records.Run,
  runs: Sequence[records.Run],
  by_id: records.RunsById,
) -> records.Run | None:
  """The same attack by the same student on the normal teacher, or None."""
  normal = normal_of(teacher, runs, by_id)
  if normal is None:
    return None
  return closest(
    student,
    [
      run
      for run in runs
      if run['role'] == 'student'
      and normal['id'] in (run.get('parents') or ())
      and _same(run, student, 'dataset', 'model', 'method', 'seed')
    ],
  )


def split_by_setting(
  runs: Sequence[records.Run],
) -> dict[str, list[records.Run]]:
  """Runs of one kind -> {setting: runs}, one entry for each swept setting.

  Seeds of one setting belong together. The setting reads 'omega 0.04', or ''
  if nothing was swept.
  """
  keys = swept(runs)
  settings = collections.defaultdict(list)
  for run in runs:
    settings[setting_of(run, keys)].append(run)
  return dict(sorted(settings.items(), key=lambda item: natural(item[0])))


def swept(runs: Sequence[records.Run]) -> list[str]:
  """The settings in which two runs with one seed differ."""
  by_seed = collections.defaultdict(list)
  for run in runs:
    by_seed[run['seed']].append(_named(flatten(run.get('config'))))
  keys = {key for configs in by_seed.values() for c in configs for key in c}
  return sorted(
    key
    for key in keys
    if any(
      len({json.dumps(config.get(key), default=str) for config in configs}) > 1
      for configs in by_seed.values()
    )
  )


def setting_of(run: records.Run, keys: Sequence[str]) -> str:
  """'omega 0.04, temperature 4': the values of some settings of a run."""
  flat = _named(flatten(run.get('config')))
  return ', '.join(f'{k.rsplit(".", 1)[-1]} {show(flat.get(k))}' for k in keys)


def _named(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Parents by their network: their ids, role-model-hash, differ by seed."""
  return {
    key: str(value).split('-')[1] if key.startswith('parents.') else value
    for key, value in flat.items()
  }


def _same(run: records.Run, other: records.Run, *keys: str) -> bool:
  return all(run.get(key) == other.get(key) for key in keys)
