"""How a study was done: its settings, environment and every network."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undistillable.report import document, entries as entries_lib, words
from undistillable.report.stats import Entry

_MAX_VALUES = 4
_ENTRY_HEAD = ('Run', 'Method', 'Seed', 'Accuracy %', 'NLL', 'Epochs', 'Time')


def blocks(results: Mapping[str, Any], command: str) -> list[document.Block]:
  """How it was done, and what it does not show.

  Args:
    results: the study's `{"runs", "environment"}`.
    command: what was typed to run the study, or ''.
  """
  entries = results.get('runs', [])
  environment = results.get('environment') or {}
  parts: list[document.Block] = [document.Heading('How it was done')]
  if command:
    parts += [document.Heading('Command', 3), document.Code(command)]
  alike = common(entries)
  if alike:
    parts.append(document.Heading('Settings', 3))
    parts.append(document.Table(('Setting', 'Value'), alike, words.COMMON))
  head, rows = differing(entries)
  if rows:
    parts.append(document.Table(head, rows, words.DIFFERING))
  if environment:
    rows = [(str(key), str(value)) for key, value in environment.items()]
    parts.append(document.Heading('Environment', 3))
    parts.append(document.Table(('Item', 'Value'), rows, words.ENVIRONMENT))
  if entries:
    parts += [document.Heading('Runs', 3), _table(entries)]
  head, rows = measured(entries)
  if rows:
    aligned = tuple(range(1, len(head)))
    parts.append(document.Heading('Protected teachers in training', 3))
    parts.append(
      document.Table(head, rows, words.MEASURED, aligned, kind='entries')
    )
  parts += [document.Heading('Limits'), document.Text(words.LIMITS)]
  return [*parts, document.Link(words.SOURCE, words.SOURCE_URL)]


def common(entries: Sequence[Entry]) -> list[tuple[str, str]]:
  """[(setting, value)] of all settings that every network has alike."""
  return [
    (key, next(iter(shown)))
    for key, shown in _values(entries, entries_lib.models_of(entries)).items()
    if len(shown) == 1 and shown.total() == len(entries)
  ]


def differing(
  entries: Sequence[Entry],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
  """(head, rows): the other settings, a column for each kind of network."""
  shared = {key for key, _ in common(entries)}
  models = entries_lib.models_of(entries)
  kinds = collections.defaultdict(list)
  for entry in sorted(entries, key=_order):
    kinds[_kind(entry)].append(entry)
  columns = {kind: _values(found, models) for kind, found in kinds.items()}
  keys = sorted({key for values in columns.values() for key in values})
  rows = [
    (key, *(_cell(values.get(key)) for values in columns.values()))
    for key in keys
    if key not in shared
  ]
  return ('Setting', *columns), rows


def measured(
  entries: Sequence[Entry],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
  """(head, rows): what the methods of teachers measured in the last epoch."""
  found = {
    entry['id']: {
      key: value
      for key, value in entry.get('training', {}).items()
      if key not in ('loss', 'accuracy')
    }
    for entry in sorted(entries, key=lambda e: e['id'])
    if entry['role'] == 'teacher'
  }
  found = {name: metrics for name, metrics in found.items() if metrics}
  keys = list(
    dict.fromkeys(key for metrics in found.values() for key in metrics)
  )
  rows = [
    (name, *(_number(metrics.get(key), '.3g') for key in keys))
    for name, metrics in found.items()
  ]
  return ('Run', *(key.replace('_', ' ') for key in keys)), rows


def duration(secs: float | None) -> str:
  """'12 s', '3.4 min' or '2.1 h'."""
  if secs is None:
    return '–'
  if secs < 120:
    return f'{secs:.0f} s'
  return f'{secs / 60:.1f} min' if secs < 7200 else f'{secs / 3600:.1f} h'


def _table(entries: Sequence[Entry]) -> document.Table:
  """Every network, finished or not."""
  rows = [
    (
      entry['id'],
      entry['method'],
      str(entry['seed']),
      _number(entry.get('test_accuracy'), '.2f'),
      _number(entry.get('test_nll'), '.3f'),
      str(entry.get('epochs', '–')),
      duration(entry.get('seconds')),
    )
    for entry in sorted(
      entries, key=lambda e: (e['role'] != 'teacher', e['id'])
    )
  ]
  total = duration(sum(entry.get('seconds') or 0.0 for entry in entries))
  caption = words.ENTRIES.format(number=len(rows), total=total)
  return document.Table(
    _ENTRY_HEAD, rows, caption, (2, 3, 4, 5, 6), kind='entries'
  )


def _number(value: float | None, spec: str) -> str:
  return '–' if value is None else format(value, spec)


def _values(
  entries: Iterable[Entry], models: Mapping[str, str]
) -> dict[str, collections.Counter[str]]:
  """{setting: Counter of its values as shown}, settings in order."""
  values: dict[str, collections.Counter[str]] = collections.defaultdict(
    collections.Counter
  )
  for entry in entries:
    for key, value in entries_lib.settings(entry, models).items():
      values[key][entries_lib.show(value)] += 1
  return dict(sorted(values.items()))


def _cell(shown: collections.Counter[str] | None) -> str:
  if not shown:
    return '–'
  names = sorted(shown, key=entries_lib.natural)
  if len(names) > _MAX_VALUES:
    return f'{len(names)} values'
  return ' | '.join(names)


def _kind(entry: Entry) -> str:
  if entry['role'] == 'teacher':
    normal = entry['method'] == entries_lib.NORMAL
    return 'normal teacher' if normal else f'{entry["method"]} teacher'
  if entry['method'] == entries_lib.CONTROL:
    return 'student alone'
  return f'{entry["role"]} by {entry["method"]}'


def _order(entry: Entry) -> tuple[bool, bool, str, str]:
  """Teachers before students, the normal and the control first."""
  plain = entry['method'] in (entries_lib.NORMAL, entries_lib.CONTROL)
  return entry['role'] != 'teacher', not plain, entry['method'], entry['id']
