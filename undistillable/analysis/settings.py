"""The runs' configs as readable tables: what is common, what differs."""

import collections
from collections.abc import Sequence

from undistillable.analysis import records, runs as runs_lib

_MAX_VALUES = 4


def common(runs: Sequence[records.Run]) -> list[tuple[str, str]]:
  """[(setting, value)] of all settings that every run has alike."""
  values = _values(runs)
  num = len(runs)
  return [
    (key, next(iter(shown)))
    for key, shown in values.items()
    if len(shown) == 1 and sum(shown.values()) == num
  ]


def differing(
  runs: Sequence[records.Run],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
  """(head, rows): the other settings, a column for each kind of network."""
  shared = {key for key, _ in common(runs)}
  kinds = collections.defaultdict(list)
  for run in sorted(runs, key=_order):
    kinds[_kind(run)].append(run)
  columns = {kind: _values(members) for kind, members in kinds.items()}
  keys = sorted({key for values in columns.values() for key in values})
  rows = [
    (key, *(_cell(values.get(key)) for values in columns.values()))
    for key in keys
    if key not in shared
  ]
  return ('Setting', *columns), rows


def duration(secs: float | None) -> str:
  """'12 s', '3.4 min' or '2.1 h'."""
  if secs is None:
    return '–'
  if secs < 120:
    return f'{secs:.0f} s'
  return f'{secs / 60:.1f} min' if secs < 7200 else f'{secs / 3600:.1f} h'


def _values(runs: Sequence[records.Run]) -> dict[str, collections.Counter[str]]:
  """{setting: Counter of its values as shown}, settings in order."""
  values: dict[str, collections.Counter[str]] = collections.defaultdict(
    collections.Counter
  )
  for run in runs:
    for key, value in runs_lib.flatten(run.get('config')).items():
      values[key][runs_lib.show(value)] += 1
  return dict(sorted(values.items()))


def _cell(shown: collections.Counter[str] | None) -> str:
  if not shown:
    return '–'
  names = sorted(shown, key=runs_lib.natural)
  if len(names) > _MAX_VALUES:
    return f'{len(names)} values'
  return ' | '.join(names)


def _kind(run: records.Run) -> str:
  if run['role'] == 'teacher' and runs_lib.is_normal(run):
    return 'normal teacher'
  if run['role'] == 'teacher':
    return f'{run["method"]} teacher'
  if run['method'] == runs_lib.CONTROL:
    return 'student alone'
  return f'student by {run["method"]}'


def _order(run: records.Run) -> tuple[bool, bool, str, str]:
  """Teachers before students, the normal and the control first."""
  plain = run['method'] in (runs_lib.NORMAL, runs_lib.CONTROL)
  return run['role'] != 'teacher', not plain, run['method'], run['id']
