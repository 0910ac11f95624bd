"""Numbers, wording and tables of a study, against fabricated entries."""

import json
import math
import random

import fabricated
import pytest

from undistillable.report import (
  conduct,
  document,
  stats,
  summary as summary_lib,
  table,
)

_entry = fabricated.make_entry
_study = fabricated.make_study


def _teachers(entries):
  return summary_lib.teachers(summary_lib.summarize(entries))


def _students(entries):
  """{(method, teacher): row}."""
  rows = summary_lib.summarize(entries)['rows']
  return {
    (row['method'], row['teacher']): row
    for row in rows
    if row['role'] == 'student'
  }


def sentence(*args, **kwargs):
  return summary_lib.summarize(_study(*args, **kwargs))['sentence']


def test_teachers_by_hand():
  normal, nasty = _teachers(_study((90.0, 92.0), (91.0, 94.0), (70.0, 74.0)))
  assert normal['accuracy']['mean'] == pytest.approx(98.5)
  assert normal['accuracy']['std'] == pytest.approx(math.sqrt(0.5))
  assert normal['difference'] is None
  assert nasty['accuracy']['mean'] == pytest.approx(98.2)
  assert nasty['difference']['mean'] == pytest.approx(-0.3)
  # Paired: the seeds themselves differ by a point, their costs by 0.2.
  assert nasty['difference']['std'] == pytest.approx(math.sqrt(0.02))
  assert nasty['difference']['num_seeds'] == 2


def test_students_by_hand_and_paired_by_seed():
  alone, normal, nasty = _students(
    _study((80.0, 90.0, 100.0), (81.0, 91.0, 101.0), (60.0, 71.0, 79.0))
  ).values()
  assert alone['accuracy']['mean'] == pytest.approx(90.0)
  assert alone['accuracy']['std'] == pytest.approx(10.0)
  # Unpaired, a gain of 1 drowns in a deviation of 10; paired, it has none.
  assert normal['difference']['mean'] == pytest.approx(1.0)
  assert normal['difference']['std'] == pytest.approx(0.0, abs=1e-9)
  assert normal['verdict'] == 'gain'
  assert nasty['difference']['by_seed'] == pytest.approx(
    {'0': -20.0, '1': -19.0, '2': -21.0}
  )
  assert nasty['difference']['std'] == pytest.approx(1.0)
  assert nasty['effect']['mean'] == pytest.approx(-21.0)
  assert (nasty['verdict'], nasty['failed']) == ('loss', False)


def test_only_seeds_that_both_have_are_compared():
  runs = _study((90.0, 50.0), (91.0, 91.0), (70.0, 70.0))
  runs = [r for r in runs if (r['method'], r['seed']) != ('scratch', 1)]
  summary = summary_lib.summarize(runs)
  attack = summary['rows'][-1]
  assert attack['accuracy']['num_seeds'] == 2
  assert attack['difference']['by_seed'] == {'0': -20.0}
  assert any('cnn alone' in n and 'seed 1' in n for n in summary['notes'])


def test_order_of_runs_does_not_matter():
  runs = _study((90.0, 92.0), (91.0, 94.0), (70.0, 74.0))
  runs += [_entry('teacher', 'resnet20', 'none', 0, 97.0)]
  expected = json.dumps(summary_lib.summarize(runs), allow_nan=False)
  for seed in range(5):
    random.Random(seed).shuffle(runs)
    assert json.dumps(summary_lib.summarize(runs)) == expected


def test_a_teacher_is_compared_with_its_normal_twin_not_its_adversary():
  small = _entry('teacher', 'cnn', 'none', 0, 80.0)
  normal = _entry('teacher', 'resnet8', 'none', 0, 99.0)
  nasty = _entry('teacher', 'resnet8', 'nasty', 0, 98.0, small)
  rows = _teachers([small, normal, nasty | {'normal': normal['id']}])
  changes = [row['difference'] for row in rows if row['kind'] == 'protected']
  assert [change['mean'] for change in changes] == [pytest.approx(-1.0)]


def test_a_student_is_compared_with_its_own_control():
  """Not with one of another share of the data, however alike it is."""
  entries = []
  for fraction, alone in ((0.5, 60.0), (1.0, 90.0)):
    control = _entry('student', 'cnn', 'scratch', 0, alone, fraction=fraction)
    thief = _entry('student', 'cnn', 'label_smoothing', 0, alone + 1)
    thief['id'] += str(fraction)
    entries += [control, thief | {'control': control['id']}]
  rows = summary_lib.summarize(entries)['rows']
  assert [(row['name'], row['method']) for row in rows] == [
    ('cnn (fraction 0.5)', 'scratch'),
    ('cnn (fraction 0.5)', 'label_smoothing'),
    ('cnn (fraction 1)', 'scratch'),
    ('cnn (fraction 1)', 'label_smoothing'),
  ]
  assert [row['difference']['mean'] for row in rows[1::2]] == [1.0, 1.0]


def test_an_attack_on_nobody_is_a_control_and_what_exceeds_it_is_told():
  entries = _study((80.0, 82.0), (90.0, 91.0), (86.0, 88.0))
  plain = table.text(summary_lib.summarize(entries))
  for seed in (0, 1):
    null = _entry('student', 'cnn', 'kd', seed, 85.0 + seed)
    null['control'] = f'student-cnn-scratch-{seed}'
    for entry in entries:
      if entry['method'] == 'kd' and entry['seed'] == seed:
        entry['null'] = null['id']
    entries.append(null)
  rows = _students(entries)
  assert rows['kd', None]['kind'] == 'control'
  assert rows['kd', None]['difference']['mean'] == pytest.approx(4.5)
  assert rows['kd', None]['excess'] is None
  assert rows['scratch', None]['excess'] is None
  assert rows['kd', 'nasty resnet8']['excess']['by_seed'] == pytest.approx(
    {'0': 1.0, '1': 2.0}
  )
  text = table.text(summary_lib.summarize(entries))
  assert 'kd alone' in text
  assert 'Over nobody' in text
  assert 'Over nobody' not in plain


def test_many_defenses_and_attacks_have_a_row_each():
  entries = _study(
    (90.0, 91.0),
    (92.0, 93.0),
    (70.0, 71.0),
    models=('cnn', 'mlp'),
    attacks=('kd', 'labels'),
    defenses=('nasty', 'stingy', 'label_smoothing'),
  )
  for seed in (0, 1):
    thief = _entry('student', 'cnn', 'label_smoothing', seed, 90.5 + seed)
    entries.append(thief | {'control': f'student-cnn-scratch-{seed}'})
  summary = summary_lib.summarize(entries)
  owners = summary_lib.teachers(summary)
  assert [(row['label'], row['color']) for row in owners] == [
    ('normal', 'normal'),
    ('label_smoothing', 'defense-0'),
    ('nasty', 'defense-1'),
    ('stingy', 'defense-2'),
  ]
  students = summary_lib.students(summary)
  assert {name: len(rows) for name, rows in students.items()} == {
    'cnn': 2 + 2 * 4,
    'mlp': 1 + 2 * 4,
  }
  alone = students['cnn'][1]
  assert (alone['teacher'], alone['kind']) == (None, 'control')
  assert alone['difference']['mean'] == pytest.approx(0.5)
  colors = {row['name']: row['color'] for row in owners}
  for row in students['cnn'][2:]:
    assert row['color'] == colors[row['teacher']]
    assert (row['effect'] is None) == (row['kind'] == 'normal')
  assert summary['headline'] == 'The protection holds'
  assert 'label_smoothing alone' in table.text(summary)


def test_what_comes_from_a_file_lacks_no_seed():
  entries = _study((90.0, 91.0), (92.0, 93.0), (70.0, 71.0))
  entries = [e for e in entries if e['id'] != 'teacher-resnet8-none-1']
  summary = summary_lib.summarize(entries)
  assert any('has no result yet for seed 1' in n for n in summary['notes'])
  entries[0]['config']['init_from'] = 'sha256:0'
  notes = summary_lib.summarize(entries)['notes']
  assert not any(note.startswith('normal resnet8') for note in notes)


def test_a_swept_setting_makes_two_teachers_and_seeds_do_not():
  entries = []
  for seed in (0, 1):
    normal = _entry('teacher', 'r', 'none', seed, 99.0)
    entries.append(normal)
    entries += [
      _entry('teacher', 'r', 'nasty', seed, 98.0, normal, omega=omega)
      for omega in (0.01, 0.1)
    ]
  names = [row['name'] for row in _teachers(entries)]
  assert names == ['normal r', 'nasty r (omega 0.01)', 'nasty r (omega 0.1)']


@pytest.mark.parametrize(
  ('by_seed', 'expected'),
  [
    ({0: 1.0, 1: 3.0}, 'gain'),  # 2 points, standard error 1
    ({0: -1.0, 1: 3.0}, 'even'),  # 1 point, standard error 2
    ({0: -4.0, 1: 0.0}, 'even'),  # exactly one standard error
    ({0: -4.0, 1: -3.0}, 'loss'),
    ({0: 0.04, 1: 0.04}, 'even'),  # prints as 0.0
    ({0: -2.0}, 'loss'),
  ],
)
def test_verdict(by_seed, expected):
  # Two seeds a and b have a standard error of |a - b| / 2.
  assert stats.verdict(stats.stat(by_seed)) == expected


@pytest.mark.parametrize(
  ('number', 'expected'),
  # 55 against 50 %: the error of each is 50 points / sqrt(number).
  [(190, 'even'), (210, 'gain'), (None, 'gain')],
)
def test_one_seed_is_judged_by_the_number_of_its_test_images(number, expected):
  one, two = (
    _entry('student', 'cnn', 'kd', 0, accuracy) | {'test_examples': number}
    for accuracy in (55.0, 50.0)
  )
  found = stats.difference([(one, two)])
  assert found['mean'] == pytest.approx(5.0)
  assert stats.verdict(found) == expected
  if number == 210:
    assert stats.standard_error(found) == pytest.approx(4.87, abs=0.01)
    # With more seeds, it is they that say how sure the mean is.
    more = [(one, two), (one | {'seed': 1}, two | {'seed': 1})]
    assert stats.standard_error(stats.difference(more)) == 0.0


def test_one_seed_says_how_sure_its_accuracies_are():
  runs = _study((50.0,), (60.0,), (40.0,))
  assert summary_lib.summarize(runs)['notes'] == []
  notes = summary_lib.summarize([r | {'test_examples': 2_500} for r in runs])
  assert 'uncertain by 1.0 points' in notes['notes'][0]
  more = _study((50.0, 51.0), (60.0, 61.0), (40.0, 41.0))
  more = [run | {'test_examples': 2_500} for run in more]
  assert summary_lib.summarize(more)['notes'] == []


def test_sentence_of_a_protection_that_holds():
  assert sentence((90.0, 91.0), (91.0, 92.0), (68.7, 69.7)) == (
    'Distilling the protected teacher costs a thief 21.3 points against '
    'training alone; protecting it cost 0.3 points of accuracy.'
  )


def test_sentence_gives_the_range_over_students():
  runs = _study((90.0, 91.0), (91.0, 92.0), (78.0, 79.0))
  more = _study((90.0, 91.0), (91.0, 92.0), (66.0, 67.0), models=('mlp',))
  text = summary_lib.summarize(
    runs + [run for run in more if run['role'] == 'student']
  )['sentence']
  assert 'costs a thief between 12.0 and 24.0 points against' in text


def test_sentence_says_plainly_that_protection_failed():
  text = sentence((90.0, 91.0), (91.0, 92.0), (91.2, 92.2))
  assert text.startswith('The protection failed: ')
  assert 'gains a thief 1.2 points over training alone' in text


def test_a_loss_no_larger_than_from_the_normal_teacher_is_a_failure():
  summary = summary_lib.summarize(
    _study((90.0, 91.0), (80.0, 81.0), (80.0, 81.0))
  )
  assert summary['headline'] == 'The protection failed'
  assert 'costs a thief 10.0 points' in summary['sentence']
  assert 'no more harm than distilling the normal' in summary['sentence']


def test_sentence_when_nothing_is_measurable():
  text = sentence((90.0, 91.0), (93.0, 94.0), (91.0, 90.1), cost=(1.0, -0.9))
  assert 'leaves a thief level with training alone' in text
  assert text.endswith('protecting it cost no measurable accuracy.')
  assert 'failed' not in text


def test_sentence_names_students_that_differ():
  runs = _study((90.0, 91.0), (91.0, 92.0), (78.0, 79.0))
  more = _study((90.0, 91.0), (91.0, 92.0), (92.0, 93.0), models=('mlp',))
  summary = summary_lib.summarize(
    runs + [run for run in more if run['role'] == 'student']
  )
  assert summary['headline'] == 'The protection failed in 1 of 2 attacks'
  assert summary['sentence'].startswith('The protection failed for mlp: ')
  assert 'gains mlp 2.0 points over training alone' in summary['sentence']
  assert 'costs cnn 12.0 points' in summary['sentence']


def test_sentence_of_one_seed_says_so():
  text = sentence((90.0,), (91.0,), (70.0,))
  assert text.endswith('(one seed only).')
  assert summary_lib.summarize(_study((90.0,), (91.0,), (70.0,)))[
    'headline'
  ].endswith('(one seed)')


def test_sentence_says_which_thief_loses_anyway():
  """From the normal teacher kd loses nothing, dkd four points."""
  entries = _study((90.0, 91.0), (90.0, 91.0), (70.0, 71.0), attacks=('kd',))
  weak = _study((90.0, 91.0), (86.0, 87.0), (85.0, 86.0), attacks=('dkd',))
  entries += [entry for entry in weak if entry['method'] == 'dkd']
  text = summary_lib.summarize(entries)['sentence']
  assert '(distilling the normal one costs cnn by dkd 4.0 points alre' in text


def test_sentence_says_what_a_thief_loses_anyway():
  """Alone 90, from the normal teacher 86, from the protected one 85."""
  text = sentence((90.0, 91.0), (86.0, 87.0), (85.0, 86.0), cost=(0.1, 0.1))
  assert 'costs a thief 5.0 points' in text
  assert '(distilling the normal one costs 4.0 points already)' in text
  text = sentence((90.0, 91.0), (89.0, 90.0), (70.0, 71.0), cost=(0.1, 0.1))
  assert 'already' not in text


def test_sentence_of_a_destroyed_teacher_and_of_a_better_one():
  text = sentence((90.0, 91.0), (91.0, 92.0), (70.0, 71.0), cost=(30.0, 30.0))
  assert 'cost 30.0 points of accuracy, no less than it takes from' in text
  text = sentence((90.0, 91.0), (91.0, 92.0), (70.0, 71.0), cost=(-0.5, -0.7))
  assert 'protecting it added 0.6 points of accuracy' in text


def test_several_protected_teachers_are_each_named_or_counted():
  entries = _study((90.0, 91.0), (91.0, 92.0), (70.0, 71.0))
  for method in ('stingy', 'sdb'):
    for seed in (0, 1):
      teacher = _entry('teacher', 'resnet8', method, seed, 98.0 - seed)
      teacher['normal'] = f'teacher-resnet8-none-{seed}'
      thief = _entry('student', 'cnn', 'kd', seed, 92.5 + seed, teacher)
      thief['control'] = f'student-cnn-scratch-{seed}'
      entries += [teacher, thief]
    text = summary_lib.summarize(entries)['sentence']
    if method == 'stingy':
      assert 'istilling the nasty resnet8 costs' in text
      assert 'he protection failed: distilling the stingy resnet8' in text
  assert 'Of 3 protected teachers, 2 failed (sdb resnet8 and stingy' in text
  assert 'between 20.0 points below and 2.5 above training alone' in text


@pytest.mark.parametrize('drop', ['none', 'nasty', 'scratch', 'kd', 'all'])
def test_incomplete_studies_are_summarised_and_the_gap_is_named(drop):
  runs = _study((90.0, 92.0), (91.0, 94.0), (70.0, 74.0))
  runs = [run for run in runs if drop not in (run['method'], 'all')]
  summary = summary_lib.summarize(runs)
  assert summary['sentence'].endswith('.')
  assert bool(summary['notes']) == (drop != 'all')
  assert table.text(summary).endswith(summary['sentence'])


def test_unfinished_and_broken_runs_are_left_out_and_named():
  runs = _study((90.0,), (91.0,), (70.0,))
  runs[3] |= {'status': 'failed'}
  runs[4] |= {'test_accuracy': math.nan}
  summary = summary_lib.summarize(runs)
  assert summary['num_networks'] == 3
  assert f'{runs[3]["id"]} is failed' in summary['notes'][1]
  assert f'{runs[4]["id"]} has no finite' in summary['notes'][0]


def test_text_table_is_aligned_and_ends_in_the_sentence():
  summary = summary_lib.summarize(
    _study((90.0, 92.0), (91.0, 94.0), (70.0, 74.0))
  )
  lines = table.text(summary).splitlines()
  assert lines[-1] == summary['sentence']
  ends = {len(line) for line in lines[:-1]}
  assert len(ends) == 1 and max(ends) <= 80
  assert any('72.0 ± 2.8' in line and '-19.0 ± 1.4' in line for line in lines)


def test_a_head_of_two_lines_is_one_line_of_markdown():
  text = document.markdown_table(('a\nb_c', 'd'), [('1', '2')])
  assert text.splitlines()[0] == '| a b\\_c | d |'
  assert len(text.splitlines()) == 3


def test_markdown_table_has_one_row_a_network_and_escapes_names():
  runs = _study((90.0,), (91.0,), (70.0,), models=('a|b*<i>',))
  lines = table.markdown(summary_lib.summarize(runs)).splitlines()
  assert len(lines) == 2 + 5
  assert r'a\|b\*\<i\>' in lines[-1]


def test_settings_split_into_common_and_differing():
  runs = _study((90.0, 91.0), (91.0, 92.0), (70.0, 71.0))
  for run in runs:
    run['config']['epochs'] = 3
  assert conduct.common(runs) == [('epochs', '3')]
  head, rows = conduct.differing(runs)
  assert head[1:] == (
    'normal teacher',
    'nasty teacher',
    'student alone',
    'student by kd',
  )
  # Parents are shown by their networks: ids differ from seed to seed.
  assert rows == [
    ('parents.adversary', '–', 'resnet8', '–', '–'),
    ('parents.teacher', '–', '–', '–', 'resnet8'),
    ('settings.name', 'none', 'nasty', 'scratch', 'kd'),
  ]


def test_what_teachers_measured_in_training_is_a_table():
  runs = _study((90.0, 91.0), (91.0, 92.0), (70.0, 71.0))
  for run in runs:
    run['training'] = {'loss': 0.1, 'accuracy': 99.0}
  assert conduct.measured(runs) == (('Run',), [])
  first, second = (run for run in runs if run['method'] == 'nasty')
  first['training'] |= {'kl': 0.45678, 'adversary_gap': 9.0}
  second['training'] |= {'kl': 0.5, 'pull': 0.3}
  for run in runs:
    if run['role'] == 'student':
      run['training'] |= {'teacher_loss': 1.0}
  assert conduct.measured(runs) == (
    ('Run', 'kl', 'adversary gap', 'pull'),
    [
      (first['id'], '0.457', '9', '–'),
      (second['id'], '0.5', '–', '0.3'),
    ],
  )
