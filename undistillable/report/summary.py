"""Entries of a study -> one tidy table of the numbers that answer it.

Every difference is taken between two networks with the same seed and averaged
afterwards: a seed that is lucky for a student alone is lucky for the distilled
one too, so the paired difference is far less noisy than that of the means.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undistillable.report import conclusion, entries as entries_lib, stats
from undistillable.report.stats import Entry

Row = dict[str, Any]
Summary = dict[str, Any]

NUM_COLORS = 4  # Of protected teachers, in report.css; then they come again.


def summarize(entries: Sequence[Entry]) -> Summary:
  """Summarises the entries of a study, finished or not, in any order.

  Args:
    entries: list of dicts with `id`, `role`, `model`, `method`, `dataset`,
      `seed`, `test_accuracy`, `config` and `status`; `parents` {role: id} and
      the ids `teacher`, `control` and `normal`, or None, of the networks that
      each is compared with, and `null` likewise where there is one;
      `test_examples` where it is known.

  Returns:
    A dict that `json.dump` accepts: `rows`, `seeds`, `num_networks`, `notes`
    (what is missing), `headline`, `sentence` and `tone`. A row is one kind of
    network over all its seeds, teachers first:
      role: 'teacher' or 'student'.
      kind: 'normal' or 'protected', by the teacher that it is or learned
        from; 'control' for a student who learned from none.
      dataset, model, method: as in the entries.
      name: of a teacher, as 'nasty cnn8 (omega 0.1)'; of a student, its model
        and the setting in which controls differ, if any.
      label: the shortest name of a teacher that is its own; else the name.
      teacher: the name of the teacher that a student learned from, or None.
      setting: of the method, where it was varied, or ''.
      color: 'control', 'normal' or 'defense-0', ...: a custom property of the
        page, the same for a teacher and who learned from it.
      ids: of the entries.
      accuracy: see `stats.stat`, in percent.
      best: the same of the best epoch on the test set, or None; nothing is
        judged by it.
      difference: of a protected teacher to the normal one, of a student to
        the same student alone; its `verdict` is 'gain', 'even' or 'loss'.
      effect: of a student to the same attack on the normal teacher.
      excess: of a student to the same attack on nobody: what was stolen.
      failed: whether a protection took nothing away from this thief.
    Where nothing is to be compared with, these are None.
  """
  usable, notes = entries_lib.usable(entries)
  found = _Table(usable, entries_lib.models_of(entries), notes)
  summary: Summary = {
    'rows': found.rows,
    'seeds': sorted({entry['seed'] for entry in _trained(usable) or usable}),
    'num_networks': len(usable),
    'notes': notes + _missing(found.rows, usable),
  }
  return summary | conclusion.judge(summary)


def teachers(summary: Summary) -> list[Row]:
  """The rows of teachers."""
  return [row for row in summary['rows'] if row['role'] == 'teacher']


def students(summary: Summary) -> dict[str, list[Row]]:
  """{student network: its rows}, by name, and by data set where many."""
  many = len({row['dataset'] for row in summary['rows']}) > 1
  found: dict[str, list[Row]] = {}
  for row in summary['rows']:
    if row['role'] == 'student':
      where = f' on {row["dataset"]}' if many else ''
      found.setdefault(f'{row["name"]}{where}', []).append(row)
  return found


class _Table:
  """The rows, while they are made."""

  def __init__(
    self,
    usable: Sequence[Entry],
    models: Mapping[str, str],
    notes: list[str],
  ):
    self.rows: list[Row] = []
    self._by_id = {entry['id']: entry for entry in usable}
    self._models = models
    self._notes = notes
    self._teacher_rows: dict[str, Row] = {}  # By the id of a teacher.
    self._add_teachers([e for e in usable if e['role'] == 'teacher'])
    self._add_students([e for e in usable if e['role'] == 'student'])

  def _add_teachers(self, teachers: Sequence[Entry]) -> None:
    kinds = _grouped(teachers, 'dataset', 'model', 'method')
    datasets = {entry['dataset'] for entry in teachers}
    networks = {entry['model'] for entry in teachers}
    num_protected = 0
    for (dataset, model, method), kind in kinds:
      for setting, group in self._by_setting(kind):
        word = 'normal' if method == entries_lib.NORMAL else method
        where = f' ({setting})' if setting else ''
        where += f' on {dataset}' if len(datasets) > 1 else ''
        name = f'{word} {model}{where}'
        label = name if len(networks) > 1 else f'{word}{where}'
        color = 'normal'
        if method != entries_lib.NORMAL:
          color = f'defense-{num_protected % NUM_COLORS}'
          num_protected += 1
        first = self._one_per_seed(group, name)
        row = self._row(first, name, setting) | {'label': label, 'color': color}
        self.rows.append(row)
        self._teacher_rows |= {entry['id']: row for entry in group}

  def _add_students(self, students: Sequence[Entry]) -> None:
    for _, kind in _grouped(students, 'dataset', 'model'):
      alone = [e for e in kind if e['method'] == entries_lib.CONTROL]
      swept = entries_lib.differing(alone, self._models)
      networks = collections.defaultdict(list)
      for entry in kind:
        control = self._by_id.get(entry['control'], entry)
        found = entries_lib.setting_of(control, swept, self._models)
        networks[found].append(entry)
      for setting, network in sorted(networks.items(), key=_order):
        model = network[0]['model']
        name = f'{model} ({setting})' if setting else model
        controls = [e for e in network if e['method'] == entries_lib.CONTROL]
        if controls:
          first = self._one_per_seed(controls, f'{name} trained alone')
          self.rows.append(self._row(first, name, ''))
        self._add_attacks(name, [e for e in network if e not in controls])

  def _add_attacks(self, name: str, attacks: Sequence[Entry]) -> None:
    kinds = collections.defaultdict(list)
    for entry in attacks:
      teacher = self._teacher_rows.get(entry['teacher'], {})
      protected = teacher.get('kind') == 'protected'
      teacher_name = teacher.get('name') or ''
      key = bool(teacher), entry['method'], protected, teacher_name
      kinds[key].append(entry)
    for key, kind in sorted(kinds.items(), key=_order):
      _, method, _, teacher_name = key
      for setting, group in self._by_setting(kind):
        what = f'{name} by {method} from {teacher_name or "nobody"}'
        what += f' ({setting})' if setting else ''
        first = self._one_per_seed(group, what)
        self.rows.append(self._row(first, name, setting))

  def _one_per_seed(self, group: Sequence[Entry], what: str) -> list[Entry]:
    """The first of each seed: networks that differ in nothing are no seeds."""
    first: dict[int, Entry] = {}
    for entry in group:
      if first.setdefault(entry['seed'], entry) is not entry:
        self._notes.append(
          f'{what}: two runs with seed {entry["seed"]}; {entry["id"]} is left '
          'out.'
        )
    return list(first.values())

  def _row(self, group: Sequence[Entry], name: str, setting: str) -> Row:
    """What is known of some networks that differ in their seeds."""
    entry = group[0]
    student = entry['role'] == 'student'
    owner = self._teacher_rows.get(entry['teacher'])
    difference = self._difference(group, 'control' if student else 'normal')
    row = {
      'role': entry['role'],
      'kind': entries_lib.kind_of(entry, self._by_id),
      'dataset': entry['dataset'],
      'model': entry['model'],
      'method': entry['method'],
      'name': name,
      'label': name,
      'teacher': owner['name'] if owner else None,
      'setting': setting,
      'color': owner['color'] if owner else 'control',
      'ids': [entry['id'] for entry in group],
      'accuracy': stats.accuracy(group),
      'best': _best(group),
      'difference': difference,
      'verdict': stats.verdict(difference),
      'effect': self._difference(group, 'normal') if student else None,
      'excess': self._difference(group, 'null'),
    }
    return row | {'failed': _failed(row)}

  def _difference(self, group: Sequence[Entry], key: str) -> stats.Stat | None:
    return stats.difference(entries_lib.pairs(group, key, self._by_id))

  def _by_setting(self, kind: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Networks of one kind by what was swept; '' where nothing was."""
    keys = entries_lib.differing(kind, self._models)
    groups = collections.defaultdict(list)
    for entry in kind:
      found = entries_lib.setting_of(entry, keys, self._models)
      groups[found].append(entry)
    return sorted(groups.items(), key=_order)


def _failed(row: Row) -> bool | None:
  """Whether a thief gains, or does as well as from the normal teacher."""
  if row['role'] == 'teacher' or row['kind'] != 'protected':
    return None
  if row['difference'] is None and row['effect'] is None:
    return None
  helped = stats.verdict(row['effect']) in ('even', 'gain')
  return helped or row['verdict'] == 'gain'


def _best(group: Sequence[Entry]) -> stats.Stat | None:
  """The article's way of counting: the best epoch on the test set."""
  if any(entry.get('best_test_accuracy') is None for entry in group):
    return None
  return stats.stat({e['seed']: e['best_test_accuracy'] for e in group})


def _missing(rows: Sequence[Row], usable: Sequence[Entry]) -> list[str]:
  """Sentences on the comparisons that could not be made."""
  summary = {'rows': rows}
  notes = [
    f'No normal teacher to compare the {row["name"]} with.'
    for row in teachers(summary)
    if row['kind'] == 'protected' and row['difference'] is None
  ]
  protected = any(row['kind'] == 'protected' for row in teachers(summary))
  for name, network in students(summary).items():
    attacks = [row for row in network if row['method'] != entries_lib.CONTROL]
    if attacks and len(attacks) == len(network):
      notes.append(f'{name} was not trained alone: it has no control.')
    if protected and not any(row['kind'] == 'protected' for row in network):
      notes.append(f'{name} was not distilled from a protected teacher.')
  return notes + _missing_seeds(rows, usable) + _one_seed(usable)


def _missing_seeds(rows: Sequence[Row], usable: Sequence[Entry]) -> list[str]:
  """Which row lacks which seed of its data set."""
  trained = _trained(usable)
  given = {e['id'] for e in usable} - {e['id'] for e in trained}
  seeds = collections.defaultdict(set)
  for entry in trained:
    seeds[entry['dataset']].add(str(entry['seed']))
  notes = []
  for row in rows:
    lacking = seeds[row['dataset']] - set(row['accuracy']['by_seed'])
    if lacking and not given.intersection(row['ids']):
      shown = ', '.join(sorted(lacking, key=entries_lib.natural))
      name = row['name']
      if row['method'] == entries_lib.CONTROL:
        name += ' alone'
      elif row['role'] == 'student':
        name += f' by {row["method"]} from {row["teacher"] or "nobody"}'
      notes.append(f'{name} has no result yet for seed {shown}.')
  return notes


def _trained(usable: Sequence[Entry]) -> list[Entry]:
  """Less what was not trained here: that is one network for all seeds."""
  return [
    entry for entry in usable if not entry.get('config', {}).get('init_from')
  ]


def _one_seed(usable: Sequence[Entry]) -> list[str]:
  """How sure an accuracy is that no other seed confirms."""
  errors = [stats.sampling_error(entry) for entry in usable]
  known = [error for error in errors if error is not None]
  if len({entry['seed'] for entry in usable}) != 1 or not known:
    return []
  return [
    'One seed: the number of test images alone leaves an accuracy uncertain by '
    f'{max(known):.1f} points (one standard error).'
  ]


def _grouped(
  entries: Iterable[Entry], *keys: str
) -> list[tuple[tuple[str, ...], list[Entry]]]:
  groups = collections.defaultdict(list)
  for entry in entries:
    groups[tuple(entry[key] for key in keys)].append(entry)
  return sorted(groups.items(), key=_order)


def _order(item: tuple[Any, Any]) -> list[Any]:
  """Order for people: natural, and normal before any defence."""
  parts = item[0] if isinstance(item[0], tuple) else item[:1]
  return [
    (str(part) != entries_lib.NORMAL, entries_lib.natural(part))
    for part in parts
  ]
