"""What a study lacks: the comparisons that could not be made."""

import collections

from undistillable.analysis import records, runs as runs_lib, stats


def missing(
  teachers: list[records.Entry],
  students: list[records.Entry],
  runs: list[records.Run],
) -> list[str]:
  """Sentences on the comparisons that could not be made."""
  notes = []
  protected = [t['name'] for t in teachers if t['protected']]
  notes += [
    f'No normal teacher to compare the {t["name"]} with.'
    for t in teachers
    if t['protected'] and t['cost'] is None
  ]
  for student in students:
    model, attacks = student['name'], student['attacks']
    if attacks and student['control'] is None:
      notes.append(f'{model} was not trained alone: it has no control.')
    if protected and not any(a['protected'] for a in attacks):
      notes.append(f'{model} was not distilled from a protected teacher.')
  return notes + _missing_seeds(teachers, students, runs) + _one_seed(runs)


def _one_seed(runs: list[records.Run]) -> list[str]:
  """How sure an accuracy is that no other seed confirms."""
  seeds = {run['seed'] for run in runs}
  errors = [stats.sampling_error(run) for run in runs]
  known = [error for error in errors if error is not None]
  if len(seeds) != 1 or not known:
    return []
  return [
    'One seed: the number of test images alone leaves an accuracy uncertain by '
    f'{max(known):.1f} points (one standard error).'
  ]


def _missing_seeds(
  teachers: list[records.Entry],
  students: list[records.Entry],
  runs: list[records.Run],
) -> list[str]:
  """Which group lacks which seed of its data set."""
  # A network whose weights came from a file is one for all seeds.
  given = {run['id'] for run in runs if run['config'].get('init_from')}
  groups = [
    (t['dataset'], t['name'], t['accuracy'])
    for t in teachers
    if not given.intersection(t['ids'])
  ]
  for s in students:
    groups.append((s['dataset'], f'{s["name"]} alone', s['control']))
    groups += [
      (s['dataset'], f'{s["name"]} by {a["method"]} from {a["teacher"]}', a)
      for a in s['attacks']
    ]
  seeds = collections.defaultdict(set)
  for run in runs:
    seeds[run['dataset']].add(str(run['seed']))
  notes = []
  for dataset, name, entry in groups:
    accuracy = entry.get('accuracy', entry) if entry else None
    lacking = seeds[dataset] - set(accuracy['by_seed']) if accuracy else ()
    if lacking:
      shown = ', '.join(sorted(lacking, key=runs_lib.natural))
      notes.append(f'{name} has no result yet for seed {shown}.')
  return notes
