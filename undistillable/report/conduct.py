"""How a study was done: its settings, environment and every network."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undistillable.report import document, entries as entries_lib
from undistillable.report.stats import Entry

LIMITS = (
  'A protection is known to hold only against the attacks, students and data '
  'named here. A thief with another attack, more queries or other images may '
  'do better. Differences within one standard error are called level.'
)
_MEASURED = (
  'Means over the last epoch, of training images as they were augmented; what '
  'each is stands with the method, as in conditions() of nasty. Where hold '
  'exceeds push, cross entropy holds a teacher beside its adversary.'
)
_SOURCE = document.Link(
  'Ma et al. (2021). Undistillable: making a nasty teacher that cannot teach '
  'students. ICLR 2021, arXiv:2105.07381.',
  'https://arxiv.org/abs/2105.07381',
)
_MAX_VALUES = 4


def blocks(results: Mapping[str, Any], command: str) -> list[document.Block]:
  """How it was done, and what it does not show; the command may be ''."""
  entries = results.get('runs', [])
  parts = [document.Heading('How it was done'), *shared(command, entries)]
  head, rows = differing(entries)
  if rows:
    caption = 'What differs between the kinds of network.'
    parts.append(document.Table(head, rows, caption))
  parts += environment(results.get('environment'), 'Versions and hardware.')
  parts += _part('Runs', _table(entries))
  head, rows = measured(entries)
  aligned = tuple(range(1, len(head)))
  parts += _part(
    'Protected teachers in training',
    document.Table(head, rows, _MEASURED, aligned, kind='entries'),
  )
  return [*parts, document.Heading('Limits'), document.Text(LIMITS), _SOURCE]


def shared(command: str, entries: Sequence[Entry]) -> list[document.Block]:
  """What was typed, and the settings that all networks have alike."""
  parts: list[document.Block] = []
  if command:
    parts += [document.Heading('Command', 3), document.Code(command)]
  head, caption = ('Setting', 'Value'), 'The same in every run.'
  table = document.Table(head, common(entries), caption)
  return [*parts, *_part('Settings', table)]


def environment(
  found: Mapping[str, Any] | None, caption: str
) -> list[document.Block]:
  """Where it ran, if that is known."""
  rows = [(str(key), str(value)) for key, value in (found or {}).items()]
  table = document.Table(('Item', 'Value'), rows, caption)
  return _part('Environment', table)


def _part(title: str, table: document.Table) -> list[document.Block]:
  """A table below its heading; nothing where it is empty."""
  return [document.Heading(title, 3), table] if table.rows else []


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
  kinds = entries_lib.grouped(sorted(entries, key=_order), _kind)
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
    entry['id']: entry.get('training', {})
    for entry in sorted(entries, key=lambda e: e['id'])
    if entry['role'] == 'teacher'
  }
  every = dict.fromkeys(key for metrics in found.values() for key in metrics)
  keys = [key for key in every if key not in ('loss', 'accuracy')]
  rows = [
    (name, *(_number(metrics.get(key), '.3g') for key in keys))
    for name, metrics in found.items()
    if any(key in metrics for key in keys)
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
  head = ('Run', 'Method', 'Seed', 'Accuracy %', 'NLL', 'Epochs', 'Time')
  caption = (
    f'All {len(rows)} runs, {total} in all. Accuracy and NLL (negative log '
    'likelihood, nats) on every test image.'
  )
  return document.Table(head, rows, caption, (2, 3, 4, 5, 6), kind='entries')


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
