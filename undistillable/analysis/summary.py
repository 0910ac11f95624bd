"""Runs of a study -> the numbers that answer its question.

Every difference is taken between two runs with the same seed and averaged
afterwards: a seed that is lucky for a student alone is lucky for the distilled
one too, so the paired difference is far less noisy than that of the means.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from undistillable.analysis import (
  gaps,
  records,
  runs as runs_lib,
  sentence as sentence_lib,
  stats,
)


def summarize(runs: Sequence[records.Run]) -> records.Summary:
  """Summarises the runs of a study, finished or not, in any order.

  Args:
    runs: list of dicts with `id`, `role`, `model`, `method`, `parents`,
      `dataset`, `seed`, `test_accuracy`, `config` and `status`, and
      `test_examples` where it is known.

  Returns:
    A dict that `json.dump` accepts:
      teachers: list of {name, dataset, model, method, setting, protected,
        accuracy, ids, cost, verdict}; `cost` is the normal teacher's accuracy
        minus this one's, `verdict` judges this one's against the normal one's.
      students: list of {dataset, model, name, control, control_ids, attacks};
        `name` is the model, and the setting in which controls differ; an
        attack is {method, setting, teacher, protected, accuracy, ids,
        difference, verdict, effect, failed}: `difference` is taken to the
        control, `effect` to the same attack on the normal teacher, `failed`
        says that the protection took nothing away from this thief.
      `best` and `control_best` are the accuracies of the best epoch on the
        test set, or None; nothing is judged by them.
      seeds, num_runs, notes (what is missing), headline, sentence.
    Accuracies are `{mean, std, num_seeds, sampling_error, by_seed}` in percent,
    see `stats.stat`, or None altogether where no run has finished.
  """
  finished, notes = runs_lib.usable(runs)
  by_id = {run['id']: run for run in finished}
  names, teachers = _teachers(finished, by_id, notes)
  students = _students(finished, by_id, names, notes)
  summary = {
    'teachers': teachers,
    'students': students,
    'seeds': sorted({run['seed'] for run in finished}),
    'num_runs': len(finished),
    'notes': notes + gaps.missing(teachers, students, finished),
  }
  summary['headline'] = sentence_lib.headline(summary)
  summary['sentence'] = sentence_lib.sentence(summary)
  return summary


def _teachers(
  runs: list[records.Run], by_id: records.RunsById, notes: list[str]
) -> tuple[dict[str, str], list[records.Entry]]:
  """Names of the teachers by run id, and the entries of the summary."""
  kinds = collections.defaultdict(list)
  for run in runs:
    if run['role'] == 'teacher':
      kinds[run['dataset'], run['model'], run['method']].append(run)
  many = len({dataset for dataset, _, _ in kinds}) > 1
  names: dict[str, str] = {}
  entries: list[records.Entry] = []
  for (dataset, model, method), kind in sorted(kinds.items(), key=_order):
    for setting, group in runs_lib.split_by_setting(kind).items():
      name = f'{"normal" if method == runs_lib.NORMAL else method} {model}'
      name += f' ({setting})' if setting else ''
      name += f' on {dataset}' if many else ''
      names.update({run['id']: name for run in group})
      group = _one_per_seed(group, name, notes)
      entry = {
        'name': name,
        'dataset': dataset,
        'model': model,
        'method': method,
        'setting': setting,
        'protected': method != runs_lib.NORMAL,
        'accuracy': stats.accuracy(group),
        'best': _best(group),
        'ids': [run['id'] for run in group],
      }
      entries.append(entry | _cost(group, runs, by_id))
  return names, entries


def _cost(
  teachers: list[records.Run], runs: list[records.Run], by_id: records.RunsById
) -> records.Entry:
  """What protecting cost, seed by seed; nothing for a normal teacher."""
  pairs = []
  for teacher in teachers:
    normal = runs_lib.normal_of(teacher, runs, by_id)
    if normal is not None and not runs_lib.is_normal(teacher):
      pairs.append((normal, teacher))
  gain = stats.difference((teacher, normal) for normal, teacher in pairs)
  return {'cost': stats.difference(pairs), 'verdict': stats.verdict(gain)}


def _students(
  runs: list[records.Run],
  by_id: records.RunsById,
  names: Mapping[str, str],
  notes: list[str],
) -> list[records.Entry]:
  """One entry for each student network, with its control and attacks."""
  kinds = collections.defaultdict(list)
  for run in runs:
    if run['role'] == 'student':
      kinds[run['dataset'], run['model']].append(run)
  entries = []
  for (dataset, model), kind in sorted(kinds.items(), key=_order):
    for setting, group in _by_control(kind).items():
      name = f'{model} ({setting})' if setting else model
      alone = [run for run in group if run['method'] == runs_lib.CONTROL]
      alone = _one_per_seed(alone, f'{name} trained alone', notes)
      entries.append(
        {
          'dataset': dataset,
          'model': model,
          'name': name,
          'control': stats.accuracy(alone),
          'control_best': _best(alone),
          'control_ids': [run['id'] for run in alone],
          'attacks': _attacks(group, runs, by_id, names, notes),
        }
      )
  return entries


def _by_control(
  students: list[records.Run],
) -> dict[str, list[records.Run]]:
  """{setting: students}, where even those trained alone differ in one.

  As in how many samples they have; '' where they do not.
  """
  alone = [run for run in students if run['method'] == runs_lib.CONTROL]
  swept = runs_lib.swept(alone)
  groups = collections.defaultdict(list)
  for run in students:
    groups[runs_lib.setting_of(run, swept)].append(run)
  return dict(
    sorted(groups.items(), key=lambda item: runs_lib.natural(item[0]))
  )


def _attacks(
  students: list[records.Run],
  runs: list[records.Run],
  by_id: records.RunsById,
  names: Mapping[str, str],
  notes: list[str],
) -> list[records.Entry]:
  """Entries for one student network, by method, teacher and setting."""
  kinds = collections.defaultdict(list)
  for run in students:
    teacher = runs_lib.teacher_of(run, by_id)
    if run['method'] == runs_lib.CONTROL:
      continue
    if teacher is None and run.get('parents'):
      notes.append(f'The teacher of {run["id"]} has no result: left out.')
      continue
    protected = teacher and not runs_lib.is_normal(teacher)
    name = teacher and names[teacher['id']]
    kinds[run['method'], bool(protected), name or ''].append(run)
  entries = []
  for (method, protected, name), kind in sorted(kinds.items(), key=_order):
    for setting, group in runs_lib.split_by_setting(kind).items():
      what = f'{group[0]["model"]} by {method} from {name or "nobody"}'
      what += f' ({setting})' if setting else ''
      group = _one_per_seed(group, what, notes)
      entry = {
        'method': method,
        'setting': setting,
        'teacher': name or None,
        'protected': protected,
        'accuracy': stats.accuracy(group),
        'best': _best(group),
        'ids': [run['id'] for run in group],
      }
      entries.append(entry | _differences(group, protected, runs, by_id))
  return entries


def _differences(
  group: list[records.Run],
  protected: bool,
  runs: list[records.Run],
  by_id: records.RunsById,
) -> records.Entry:
  """To the control, and to the same attack on the normal teacher."""
  controlled, matched = [], []
  for run in group:
    control = runs_lib.control_of(run, runs)
    if control is not None:
      controlled.append((run, control))
    other = None
    teacher = runs_lib.teacher_of(run, by_id)
    if protected and teacher is not None:
      other = runs_lib.counterpart_of(run, teacher, runs, by_id)
    if other is not None:
      matched.append((run, other))
  entry: records.Entry = {
    'difference': stats.difference(controlled),
    'effect': stats.difference(matched),
  }
  entry['verdict'] = stats.verdict(entry['difference'])
  entry['failed'] = _failed(entry) if protected else None
  return entry


def _failed(attack: records.Entry) -> bool | None:
  """Whether a thief gains, or does as well as from the normal teacher."""
  if attack['difference'] is None and attack['effect'] is None:
    return None
  helped = stats.verdict(attack['effect']) in ('even', 'gain')
  return helped or attack['verdict'] == 'gain'


def _one_per_seed(
  group: list[records.Run], name: str, notes: list[str]
) -> list[records.Run]:
  """The first run of each seed: runs that differ in nothing are no seeds."""
  first: dict[int, records.Run] = {}
  for run in group:
    kept = first.setdefault(run['seed'], run)
    if kept is not run:
      notes.append(
        f'{name}: two runs with seed {run["seed"]}; {run["id"]} is left out.'
      )
  return list(first.values())


def _best(runs: list[records.Run]) -> records.Stat | None:
  """The article's way of counting: each run's best epoch on the test set."""
  if any(run.get('best_test_accuracy') is None for run in runs):
    return None
  return stats.stat({run['seed']: run['best_test_accuracy'] for run in runs})


def _order(item: tuple[tuple[Any, ...], Any]) -> list[Any]:
  """Registry order for people: natural, and normal before any defence."""
  return [
    (str(part) != runs_lib.NORMAL, runs_lib.natural(part)) for part in item[0]
  ]
