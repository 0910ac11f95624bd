"""What becomes of teachers and students while one setting is varied."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from undistillable.report import entries as entries_lib
from undistillable.report.stats import Entry

# (an entry, all of them by id) -> the value of what is varied; None where it
# does not depend on it.
ValueFn = Callable[[Entry, Mapping[str, Entry]], Any]
Cell = dict[str, Any]

_KINDS = ('control', 'normal', 'protected')


def collect(entries: Sequence[Entry], value_fn: ValueFn) -> list[Cell]:
  """Groups networks by what they learned from, and by the value.

  Returns:
    One cell a group: {role, model, kind, attack, defense, x}, and its
    `entries.numbers`. `kind` is that of `entries.kind_of`, `attack` the method
    of a student, `defense` that of the teacher that it is or learned from, and
    `x` the value of what is varied.
  """
  finished, _ = entries_lib.usable(entries)
  by_id = {entry['id']: entry for entry in finished}

  def key(entry: Entry) -> tuple[Any, ...]:
    student = entry['role'] == 'student'
    owner = by_id.get(entry['teacher']) if student else entry
    return (
      entry['role'],
      entry['model'],
      entries_lib.kind_of(entry, by_id),
      entry['method'] if student else None,
      owner['method'] if owner else None,
      value_fn(entry, by_id),
    )

  names = ('role', 'model', 'kind', 'attack', 'defense', 'x')
  return [
    dict(zip(names, found, strict=True)) | entries_lib.numbers(group, by_id)
    for found, group in sorted(
      entries_lib.grouped(finished, key).items(),
      key=lambda item: _order(*item[0]),
    )
  ]


def _order(
  role: str, model: str, kind: str, attack: str, defense: str, x: Any
) -> tuple[Any, ...]:
  """Teachers, then students; what learns alone first; rising values."""
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
