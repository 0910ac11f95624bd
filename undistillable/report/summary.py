"""Entries of a study -> one tidy table of the numbers that answer it.

Every difference is taken between two networks with the same seed and averaged
afterwards: a seed that is lucky for a student alone is lucky for the distilled
one too, so the paired difference is far less noisy than that of the means.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
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
      kind: see `entries.kind_of`.
      dataset, model, method: as in the entries.
      name: of a teacher, as 'nasty cnn8 (omega 0.1)'; of a student, its model
        and the setting in which controls differ, if any.
      label: the shortest name of a teacher that is its own; else the name.
      teacher: the name of the teacher that a student learned from, or None.
      setting: of the method, where it was varied, or ''.
      color: 'control', 'normal' or 'defense-0', ...: a custom property of the
        page, the same for a teacher and who learned from it.
      ids: of the entries.
      accuracy, difference, effect, excess: see `entries.numbers`.
      best: accuracy of the best epoch on the test set, or None; nothing is
        judged by it.
      verdict: of the difference: 'gain', 'even', 'loss' or None.
      failed: whether a protection took nothing away from this thief, or None.
  """
  usable, notes = entries_lib.usable(entries)
  rows = _Table(usable, entries_lib.models_of(entries), notes).rows
  summary: Summary = {
    'rows': rows,
    'seeds': sorted({entry['seed'] for entry in _trained(usable) or usable}),
    'num_networks': len(usable),
    'notes': notes + _missing(rows, usable),
  }
  return summary | conclusion.judge(rows)


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
    datasets = {entry['dataset'] for entry in teachers}
    networks = {entry['model'] for entry in teachers}
    num_protected = 0
    kinds = _grouped(
      teachers, lambda e: (e['dataset'], e['model'], e['method'])
    )
    for (dataset, model, method), kind in kinds:
      for setting, group in self._by_setting(kind, kind, {}):
        word = 'normal' if method == entries_lib.NORMAL else method
        where = f' ({setting})' if setting else ''
        where += f' on {dataset}' if len(datasets) > 1 else ''
        name = f'{word} {model}{where}'
        row = self._add(group, name, setting, name)
        row['label'] = name if len(networks) > 1 else f'{word}{where}'
        row['color'] = 'normal'
        if method != entries_lib.NORMAL:
          row['color'] = f'defense-{num_protected % NUM_COLORS}'
          num_protected += 1
        self._teacher_rows |= {entry['id']: row for entry in group}

  def _add_students(self, students: Sequence[Entry]) -> None:
    kinds = _grouped(students, lambda e: (e['dataset'], e['model']))
    for (_, model), kind in kinds:
      alone = [e for e in kind if e['method'] == entries_lib.CONTROL]
      # A student belongs to its control, whatever its own settings are.
      controls = {e['id']: self._by_id.get(e['control'], e) for e in kind}
      for setting, network in self._by_setting(kind, alone, controls):
        name = f'{model} ({setting})' if setting else model
        plain = [e for e in network if e['method'] == entries_lib.CONTROL]
        if plain:
          self._add(plain, name, '', f'{name} trained alone')
        self._add_attacks(name, [e for e in network if e not in plain])

  def _add_attacks(self, name: str, attacks: Sequence[Entry]) -> None:
    def key(entry: Entry) -> tuple[bool, str, bool, str]:
      teacher = self._teacher_rows.get(entry['teacher'], {})
      protected = teacher.get('kind') == 'protected'
      return bool(teacher), entry['method'], protected, teacher.get('name', '')

    for (_, method, _, teacher_name), kind in _grouped(attacks, key):
      for setting, group in self._by_setting(kind, kind, {}):
        what = f'{name} by {method} from {teacher_name or "nobody"}'
        what += f' ({setting})' if setting else ''
        self._add(group, name, setting, what)

  def _by_setting(
    self,
    kind: Sequence[Entry],
    alike: Sequence[Entry],
    stand_ins: Mapping[str, Entry],
  ) -> list[tuple[str, list[Entry]]]:
    """Networks of one kind by what differs among those alike, or by ''."""
    keys = entries_lib.differing(alike, self._models)
    return _grouped(
      kind,
      lambda e: entries_lib.setting_of(
        stand_ins.get(e['id'], e), keys, self._models
      ),
    )

  def _add(
    self, group: Sequence[Entry], name: str, setting: str, what: str
  ) -> Row:
    """A row of networks that differ in their seeds, the first of each."""
    first: dict[int, Entry] = {}
    for entry in group:
      # Networks that differ in nothing are no seeds.
      if first.setdefault(entry['seed'], entry) is not entry:
        self._notes.append(
          f'{what}: two runs with seed {entry["seed"]}; {entry["id"]} is left '
          'out.'
        )
    group, entry = list(first.values()), group[0]
    numbers = entries_lib.numbers(group, self._by_id)
    best: dict[int, Any] = {
      e['seed']: e.get('best_test_accuracy') for e in group
    }
    owner = self._teacher_rows.get(entry['teacher'])
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
      'accuracy': numbers['accuracy'],
      'best': None if None in best.values() else stats.stat(best),
      'difference': numbers['difference'],
      'verdict': stats.verdict(numbers['difference']),
      'effect': numbers['effect'],
      'excess': numbers['excess'],
    }
    self.rows.append(row | {'failed': _failed(row)})
    return self.rows[-1]


def _failed(row: Row) -> bool | None:
  """Whether a thief gains, or does as well as from the normal teacher."""
  if row['role'] == 'teacher' or row['kind'] != 'protected':
    return None
  if row['difference'] is None and row['effect'] is None:
    return None
  helped = stats.verdict(row['effect']) in ('even', 'gain')
  return helped or row['verdict'] == 'gain'


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
  trained = entries_lib.grouped(_trained(usable), lambda e: e['dataset'])
  notes = []
  for row in rows:
    found = trained[row['dataset']]
    seeds = {str(entry['seed']) for entry in found}
    lacking = seeds - set(row['accuracy']['by_seed'])
    # What was not trained here has no seeds.
    if lacking and {entry['id'] for entry in found}.issuperset(row['ids']):
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
  entries: Sequence[Entry], key_fn: Callable[[Entry], Hashable]
) -> list[tuple[Any, list[Entry]]]:
  return sorted(entries_lib.grouped(entries, key_fn).items(), key=_order)


def _order(item: tuple[Any, Any]) -> list[Any]:
  """Order for people: natural, and normal before any defence."""
  parts = item[0] if isinstance(item[0], tuple) else item[:1]
  return [
    (str(part) != entries_lib.NORMAL, entries_lib.natural(part))
    for part in parts
  ]
