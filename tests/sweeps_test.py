"""The cells of a sweep: who is compared with whom, at which value."""

import fabricated
import pytest

from undistillable.analysis import sweeps


def _omega(run, teacher):
  return (teacher or run)['config']['method'].get('omega')


def _alpha(run, teacher):
  return run['config']['method'].get('alpha') if teacher else None


def _study(omegas=(0.1, 0.2), seeds=(0, 1)):
  """A student loses 100 omega points and a seed; a teacher 10 omega."""
  runs = []
  for seed in seeds:
    make = fabricated.make_run
    normal = make('teacher', 'big', 'none', seed, 95.0 + seed)
    alone = make('student', 'small', 'scratch', seed, 90.0 + seed)
    copied = make('student', 'small', 'kd', seed, 92.0, [normal['id']])
    runs += [normal, alone, copied]
    for omega in omegas:
      accuracy = 95.0 + seed - 10 * omega
      nasty = make(
        'teacher', 'big', 'nasty', seed, accuracy, [normal['id']], omega=omega
      )
      accuracy = 90.0 - 100 * omega
      thief = make('student', 'small', 'kd', seed, accuracy, [nasty['id']])
      runs += [nasty, thief]
  return runs


def _cell(cells, role, source, x):
  (cell,) = (
    c for c in cells if (c['role'], c['source'], c['x']) == (role, source, x)
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
  for role, source in (
    ('teacher', 'normal'),
    ('student', 'alone'),
    ('student', 'normal'),
  ):
    assert _cell(cells, role, source, None)['accuracy']['num_seeds'] == 2


def test_the_order_is_that_of_the_values():
  cells = sweeps.collect(_study(omegas=(0.2, 0.05, 0.1)), _omega)
  protected = [c['x'] for c in cells if c['source'] == 'protected']
  assert protected == [0.05, 0.1, 0.2] * 2


def test_a_student_of_a_teacher_that_diverged_is_left_out():
  runs = _study(omegas=(0.1,), seeds=(0,))
  nasty = next(run for run in runs if run['method'] == 'nasty')
  nasty['status'] = 'diverged'
  cells = sweeps.collect(runs, _omega)
  assert {cell['source'] for cell in cells} == {'normal', 'alone'}


def test_a_setting_of_the_attack_does_not_move_the_control():
  runs = _study(omegas=(0.1,))
  for run in runs:
    if run['method'] == 'kd':
      run['config']['method']['alpha'] = 0.9
  cells = sweeps.collect(runs, _alpha)
  assert _cell(cells, 'student', 'alone', None)['accuracy']['mean'] == 90.5
  assert _cell(cells, 'student', 'protected', 0.9)['difference']['mean'] < -9


def test_an_adversary_that_nobody_learns_from_has_no_line():
  runs = _study(omegas=(0.1,), seeds=(0,))
  runs.append(fabricated.make_run('teacher', 'other', 'none', 0, 50.0))
  lines = sweeps.series(sweeps.collect(runs, _omega))
  points = [point for line in lines for point in line['points']]
  assert all(point['accuracy']['mean'] > 60 for point in points)
  assert [line['panel'] for line in lines] == [
    'Teachers',
    'Teachers',
    'Student small',
    'Student small',
    'Student small',
  ]
