"""What becomes of teachers and students while one setting is varied."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

from undistillable.analysis import records, runs as runs_lib, stats

# A run and its teacher (None for one without) -> the value of what is varied;
# None where it does not depend on it.
ValueFn = Callable[[records.Run, records.Run | None], Any]
Cell = dict[str, Any]

SOURCES = ('alone', 'normal', 'protected')


def collect(runs: Sequence[records.Run], value_fn: ValueFn) -> list[Cell]:
  """Groups runs by network, by what they learned from, and by the value.

  Args:
    runs: of a study, finished or not.
    value_fn: the value of what is varied, for a run.

  Returns:
    One cell a group: {role, model, source, x, accuracy, difference, effect}.
    `source` says whether a student learned alone, from a normal or a protected
    teacher, and of a teacher whether it is normal or protected. `difference`
    is that to the student alone (of a protected teacher: to the normal one),
    `effect` that to the same attack on the normal teacher; both seed by seed,
    as `stats.stat` makes it, or None.
  """
  finished, _ = runs_lib.usable(runs)
  by_id = {run['id']: run for run in finished}
  groups = collections.defaultdict(list)
  for run in finished:
    teacher = runs_lib.teacher_of(run, by_id)
    if run['role'] == 'student' and run.get('parents') and teacher is None:
      continue  # Its teacher came to nothing.
    student = run['role'] == 'student'
    source = _source(run if not student else teacher)
    x = value_fn(run, teacher if student else None)
    groups[run['role'], run['model'], source, x].append(run)
  return [
    {
      'role': role,
      'model': model,
      'source': source,
      'x': x,
      'accuracy': stats.accuracy(group),
      'difference': _compare(group, _reference, finished, by_id),
      'effect': _compare(group, _counterpart, finished, by_id),
    }
    for (role, model, source, x), group in sorted(groups.items(), key=_order)
  ]


def series(cells: Sequence[Cell]) -> list[dict[str, Any]]:
  """The lines of `sweep_figure.sweep`: a panel for teachers and each student.

  Args:
    cells: see `collect`.
  """
  names = {
    'alone': ('student alone', 'control'),
    'normal': ('normal teacher, and its students', 'normal'),
    'protected': ('protected teacher, and its students', 'protected'),
  }
  protected = {
    cell['model']
    for cell in cells
    if (cell['role'], cell['source']) == ('teacher', 'protected')
  }
  lines: dict[tuple[str, str], dict[str, Any]] = {}
  for cell in cells:
    if cell['role'] == 'teacher' and cell['model'] not in protected:
      continue  # An adversary of another kind, which nobody learns from.
    name, kind = names[cell['source']]
    student = cell['role'] == 'student'
    panel = f'Student {cell["model"]}' if student else 'Teachers'
    line = lines.setdefault(
      (panel, name), {'panel': panel, 'name': name, 'kind': kind, 'points': []}
    )
    line['points'].append({'x': cell['x'], 'accuracy': cell['accuracy']})
  return list(lines.values())


def _source(teacher: records.Run | None) -> str:
  if teacher is None:
    return 'alone'
  return 'normal' if runs_lib.is_normal(teacher) else 'protected'


def _reference(
  run: records.Run, runs: Sequence[records.Run], by_id: records.RunsById
) -> records.Run | None:
  """The student alone, or the normal teacher."""
  if run['role'] == 'teacher':
    return runs_lib.normal_of(run, runs, by_id)
  return runs_lib.control_of(run, runs)


def _counterpart(
  run: records.Run, runs: Sequence[records.Run], by_id: records.RunsById
) -> records.Run | None:
  """The same attack on the normal teacher."""
  teacher = runs_lib.teacher_of(run, by_id)
  if run['role'] == 'teacher' or teacher is None:
    return None
  return runs_lib.counterpart_of(run, teacher, runs, by_id)


def _compare(
  group: Sequence[records.Run],
  other_fn: Callable[..., records.Run | None],
  runs: Sequence[records.Run],
  by_id: records.RunsById,
) -> records.Stat | None:
  """Differences to another run each, seed by seed; None where there is none."""
  pairs = []
  for run in group:
    other = other_fn(run, runs, by_id)
    if other is not None and other['id'] != run['id']:
      pairs.append((run, other))
  return stats.difference(pairs)


def _order(item: tuple[tuple[str, str, str, Any], Any]) -> Any:
  """Teachers, then students; what learns alone first; rising values."""
  role, model, source, x = item[0]
  return (
    role != 'teacher',
    runs_lib.natural(model),
    SOURCES.index(source),
    (x is not None, isinstance(x, str), runs_lib.natural(x)),
    x if isinstance(x, float | int) else 0,
  )
