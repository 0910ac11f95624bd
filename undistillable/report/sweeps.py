"""What becomes of teachers and students while one setting is varied."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from undistillable.report import entries as entries_lib, stats
from undistillable.report.stats import Entry

# (an entry, all of them by id) -> the value of what is varied; None where it
# does not depend on it.
ValueFn = Callable[[Entry, Mapping[str, Entry]], Any]
Cell = dict[str, Any]

_KINDS = ('control', 'normal', 'protected')


def collect(entries: Sequence[Entry], value_fn: ValueFn) -> list[Cell]:
  """Groups networks by what they learned from, and by the value.

  Args:
    entries: of a study, finished or not.
    value_fn: the value of what is varied, for an entry.

  Returns:
    One cell a group: {role, model, kind, defense, x, accuracy, difference,
    effect}. `kind` is 'normal' or 'protected', by the teacher that it is or
    learned from, whose method is `defense`; or 'control'. `difference` is that
    to the student alone (of a protected teacher: to the normal one), `effect`
    that to the same attack on the normal teacher; both seed by seed, as
    `stats.stat` makes it, or None.
  """
  finished, _ = entries_lib.usable(entries)
  by_id = {entry['id']: entry for entry in finished}
  groups = collections.defaultdict(list)
  for entry in finished:
    owner = by_id.get(entry['teacher'])
    if entry['role'] == 'teacher':
      owner = entry
    groups[
      entry['role'],
      entry['model'],
      entries_lib.kind_of(entry, by_id),
      entry['method'] if entry['role'] == 'student' else None,
      owner['method'] if owner else None,
      value_fn(entry, by_id),
    ].append(entry)

  def compare(group: Sequence[Entry], key: str) -> stats.Stat | None:
    return stats.difference(entries_lib.pairs(group, key, by_id))

  cells = []
  for key, group in sorted(groups.items(), key=_order):
    student = key[0] == 'student'
    found = dict(
      zip(('role', 'model', 'kind', 'attack', 'defense', 'x'), key, strict=True)
    )
    found['accuracy'] = stats.accuracy(group)
    found['difference'] = compare(group, 'control' if student else 'normal')
    found['effect'] = compare(group, 'normal') if student else None
    cells.append(found)
  return cells


def _order(item: tuple[tuple[Any, ...], Any]) -> Any:
  """Teachers, then students; what learns alone first; rising values."""
  role, model, kind, attack, defense, x = item[0]
  return (
    role != 'teacher',
    entries_lib.natural(model),
    _KINDS.index(kind),
    # The control before others who ask nobody.
    attack != entries_lib.CONTROL,
    entries_lib.natural(attack),
    entries_lib.natural(defense),
    (x is not None, isinstance(x, str), entries_lib.natural(x)),
    x if isinstance(x, float | int) else 0,
  )
