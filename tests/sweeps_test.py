"""The cells of a sweep: who is compared with whom, at which value."""

import fabricated
import pytest

from undistillable.report import draw, sweeps


def _omega(entry, by_id):
  owner = by_id.get(entry['teacher'], entry)
  return owner['config']['settings'].get('omega')


def _alpha(entry, by_id):
  return entry['config']['settings'].get('alpha')


def _study(omegas=(0.1, 0.2), seeds=(0, 1)):
  """A student loses 100 omega points and a seed; a teacher 10 omega."""
  entries = []
  for seed in seeds:
    make = fabricated.make_entry
    normal = make('teacher', 'big', 'none', seed, 95.0 + seed)
    alone = make('student', 'small', 'scratch', seed, 90.0 + seed)
    copied = make('student', 'small', 'kd', seed, 92.0, normal)
    entries += [normal, alone, copied | {'control': alone['id']}]
    for omega in omegas:
      accuracy = 95.0 + seed - 10 * omega
      nasty = make(
        'teacher', 'big', 'nasty', seed, accuracy, normal, omega=omega
      )
      accuracy = 90.0 - 100 * omega
      thief = make('student', 'small', 'kd', seed, accuracy, nasty)
      compared = {'control': alone['id'], 'normal': copied['id']}
      entries += [nasty | {'normal': normal['id']}, thief | compared]
  return entries


def _cell(cells, role, kind, x):
  (cell,) = (
    c for c in cells if (c['role'], c['kind'], c['x']) == (role, kind, x)
  )
  return cell


def test_a_value_of_the_teacher_is_that_of_its_students():
  cells = sweeps.collect(_study(), _omega)
  thief = _cell(cells, 'student', 'protected', 0.2)
  assert thief['accuracy']['mean'] == pytest.approx(70)
  # Seed by seed: 70 - 90 and 70 - 91.
  assert list(thief['difference']['by_seed'].values()) == pytest.approx(
    [-20, -21]
  )
  assert thief['effect']['mean'] == pytest.approx(-22)
  teacher = _cell(cells, 'teacher', 'protected', 0.1)
  assert teacher['difference']['mean'] == pytest.approx(-1)
  assert teacher['effect'] is None


def test_what_does_not_depend_on_the_value_is_a_level():
  cells = sweeps.collect(_study(), _omega)
  for role, kind in (
    ('teacher', 'normal'),
    ('student', 'control'),
    ('student', 'normal'),
  ):
    assert _cell(cells, role, kind, None)['accuracy']['num_seeds'] == 2


def test_the_order_is_that_of_the_values():
  cells = sweeps.collect(_study(omegas=(0.2, 0.05, 0.1)), _omega)
  protected = [c['x'] for c in cells if c['kind'] == 'protected']
  assert protected == [0.05, 0.1, 0.2] * 2


def test_a_student_of_a_teacher_that_diverged_is_left_out():
  runs = _study(omegas=(0.1,), seeds=(0,))
  nasty = next(run for run in runs if run['method'] == 'nasty')
  nasty['status'] = 'diverged'
  cells = sweeps.collect(runs, _omega)
  assert {cell['kind'] for cell in cells} == {'normal', 'control'}


def test_a_setting_of_the_attack_does_not_move_the_control():
  runs = _study(omegas=(0.1,))
  for run in runs:
    if run['method'] == 'kd':
      run['config']['settings']['alpha'] = 0.9
  cells = sweeps.collect(runs, _alpha)
  assert _cell(cells, 'student', 'control', None)['accuracy']['mean'] == 90.5
  assert _cell(cells, 'student', 'protected', 0.9)['difference']['mean'] < -9


def test_an_adversary_that_nobody_learns_from_has_no_line():
  runs = _study(omegas=(0.1,), seeds=(0,))
  runs.append(fabricated.make_entry('teacher', 'other', 'none', 0, 50.0))
  lines = sweeps.lines_of(sweeps.collect(runs, _omega))
  points = [found for line in lines for found in line['points'].values()]
  assert all(found['mean'] > 60 for found in points)
  panels = {name: len(found) for name, found in draw.by_panel(lines).items()}
  assert panels == {'Teachers': 2, 'Student small': 3}


def test_attacks_are_cells_of_their_own():
  entries = _study(omegas=(0.1,))
  thieves = [e for e in entries if e['role'] == 'student']
  worse = [
    e | {'id': f'dkd-{e["id"]}', 'method': 'dkd', 'test_accuracy': 30.0}
    for e in thieves
    if e['teacher']
  ]
  for order in (entries + worse, worse + entries):
    cells = [
      cell
      for cell in sweeps.collect(order, _omega)
      if cell['kind'] == 'protected' and cell['role'] == 'student'
    ]
    found = {cell['attack']: cell['accuracy']['mean'] for cell in cells}
    assert found == pytest.approx({'kd': 80.0, 'dkd': 30.0})
