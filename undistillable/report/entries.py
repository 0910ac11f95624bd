"""Entries of results.json: which count, what they are, how settings differ.

An entry is the dict that a study writes of one trained network. It names the
networks that it is compared with (`parents`, `teacher`, `control`, `normal`),
so that nothing here matches one with another: the same entries give the same
report in whatever order they were finished.
"""

import collections
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from undistillable.report import stats
from undistillable.report.stats import Entry

CONTROL = 'scratch'
NORMAL = 'none'

ById = Mapping[str, Entry]


def usable(entries: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
  """Splits entries into those with a result, sorted, and notes on others."""
  kept: dict[str, Entry] = {}
  notes: list[str] = []
  for entry in sorted(entries, key=lambda entry: entry['id']):
    # No network, and so without an accuracy; or none that is anybody's aim.
    if entry['role'] in ('images', 'helper', 'partner'):
      continue
    accuracy = entry.get('test_accuracy')
    status = entry.get('status', 'finished')
    if status != 'finished':
      notes.append(f'{entry["id"]} is {status}, not finished: left out.')
    elif accuracy is None or not math.isfinite(accuracy):
      notes.append(f'{entry["id"]} has no finite test accuracy: left out.')
    else:
      kept[entry['id']] = entry
      if entry.get('warning'):
        notes.append(f'{entry["id"]}: {entry["warning"]}.')
  for entry in list(kept.values()):
    if entry['teacher'] and entry['teacher'] not in kept:
      notes.append(f'The teacher of {entry["id"]} has no result: left out.')
      del kept[entry['id']]
  return sorted(kept.values(), key=lambda e: (e['seed'], e['id'])), notes


def kind_of(entry: Entry, by_id: ById) -> str:
  """'normal' or 'protected', by the teacher that it is or learned from.

  'control' for a student who learned from none.
  """
  owner = entry if entry['role'] == 'teacher' else by_id.get(entry['teacher'])
  if owner is None:
    return 'control'
  return 'normal' if owner['method'] == NORMAL else 'protected'


def numbers(
  group: Sequence[Entry], by_id: ById
) -> dict[str, stats.Stat | None]:
  """What is known of some networks that differ in their seeds.

  Returns:
    `accuracy`, in percent; `difference` of a protected teacher to the normal
    one, of a student to the same student alone; `effect`, of a student to the
    same attack on the normal teacher; `excess`, of an attack to the same
    attack on nobody. Seed by seed, as `stats.stat` makes them; None where
    nothing is to be compared with.
  """

  def to(key: str) -> stats.Stat | None:
    return stats.difference(
      [(entry, by_id[entry[key]]) for entry in group if entry.get(key) in by_id]
    )

  student = group[0]['role'] == 'student'
  return {
    'accuracy': stats.accuracy(group),
    'difference': to('control' if student else 'normal'),
    'effect': to('normal') if student else None,
    'excess': to('null'),
  }


def grouped(
  entries: Iterable[Entry], key_fn: Callable[[Entry], Hashable]
) -> dict[Any, list[Entry]]:
  """{key: its entries}, in the order in which they come."""
  groups = collections.defaultdict(list)
  for entry in entries:
    groups[key_fn(entry)].append(entry)
  return groups


def settings(entry: Entry, models: Mapping[str, str]) -> dict[str, Any]:
  """{'recipe.epochs': 30, ...}: the config without the seed.

  Parents are shown as their models, {id: model}: ids differ by seed.
  """
  config = dict(entry.get('config') or {})
  config['parents'] = {
    role: models.get(parent, parent)
    for role, parent in entry['parents'].items()
  }
  if not config['parents']:
    del config['parents']
  return _flatten(config)


def models_of(entries: Iterable[Entry]) -> dict[str, str]:
  """{id: model}, for `settings`."""
  return {entry['id']: entry['model'] for entry in entries}


def differing(entries: Sequence[Entry], models: Mapping[str, str]) -> list[str]:
  """The settings in which two entries with one seed differ."""
  configs_of = [
    [settings(entry, models) for entry in group]
    for group in grouped(entries, lambda entry: entry['seed']).values()
  ]
  keys = {key for configs in configs_of for c in configs for key in c}
  return sorted(
    key
    for key in keys
    if any(
      len({json.dumps(config.get(key), default=str) for config in configs}) > 1
      for configs in configs_of
    )
  )


def setting_of(
  entry: Entry, keys: Sequence[str], models: Mapping[str, str]
) -> str:
  """'omega 0.04, temperature 4': the values of some settings."""
  flat = settings(entry, models)
  return ', '.join(f'{k.rsplit(".", 1)[-1]} {show(flat.get(k))}' for k in keys)


def natural(text: object) -> list[tuple[bool, float, str]]:
  """Sort key that puts resnet8 before resnet20, and omega 0.05 before 0.1."""
  parts = re.split(r'(\d+(?:\.\d+)?)', str(text).lower())
  # Every second part is a number.
  return [
    (i % 2 == 1, float(p) if i % 2 else 0, p) for i, p in enumerate(parts)
  ]


def show(value: object) -> str:
  """A setting as a reader would write it."""
  if isinstance(value, list | tuple):
    return ', '.join(show(v) for v in value)
  return f'{value:g}' if isinstance(value, float) else str(value)


def _flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, dict) and value:
      flat.update(_flatten(value, f'{prefix}{key}.'))
    elif str(key) != 'seed':
      flat[f'{prefix}{key}'] = value
  return flat
