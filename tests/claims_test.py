"""The claims of the article are judged as their words demand."""

import fabricated
import pytest

from experiments import claims
from undistillable.report import summary


def _results(*args, **kwargs):
  return _of(fabricated.make_study(*args, **kwargs))


def _of(entries, **measurements):
  return {
    'runs': entries,
    'summary': summary.summarize(entries),
    'measurements': measurements,
  }


def _by_seed(key, *values):
  return {str(seed): {key: value} for seed, value in enumerate(values)}


ALONE, NORMAL, NASTY = (90.0, 91.0), (91.0, 92.5), (80.0, 83.0)


@pytest.mark.parametrize(
  ('cost', 'holds'), [((1.0, 1.4), True), ((1.5, 2.3), False)]
)
def test_a_cost_of_two_points_must_not_be_within_the_error(cost, holds):
  results = _results(ALONE, NORMAL, NASTY, cost=cost)
  assert claims.teacher_cost(results)[0] == holds


@pytest.mark.parametrize(
  ('normal', 'holds'),
  [((91.0, 92.5), True), ((90.0, 91.0), False), ((88.0, 94.0), False)],
)
def test_a_gain_within_one_standard_error_is_none(normal, holds):
  results = _results(ALONE, normal, NASTY)
  assert claims.normal_gain(results)[0] == holds


def test_every_student_must_lose():
  runs = fabricated.make_study(ALONE, NORMAL, NASTY, models=('a', 'b'))
  assert claims.nasty_loss(_of(runs))[0]
  for run in runs:
    protected = 'nasty' in (run['teacher'] or '')
    if run['model'] == 'b' and protected:
      run['test_accuracy'] = 95.0
  assert not claims.nasty_loss(_of(runs))[0]


def _two_students(weak_loss, strong_loss):
  runs = fabricated.make_study(ALONE, NORMAL, NASTY, models=('cnn8', 'mlp'))
  for run in runs:
    if run['model'] == 'mlp':
      run['test_accuracy'] += 5.0  # The stronger one.
    if 'nasty' in (run['teacher'] or ''):
      loss = weak_loss if run['model'] == 'cnn8' else strong_loss
      alone = ALONE[run['seed']] + 5.0 * (run['model'] == 'mlp')
      run['test_accuracy'] = alone - loss
  return _of(runs)


def test_the_weaker_student_must_lose_more():
  assert claims.weaker_lose_more(_two_students(20.0, 5.0))[0]
  assert not claims.weaker_lose_more(_two_students(5.0, 20.0))[0]
  assert not claims.weaker_lose_more(_two_students(5.0, 5.0))[0]


def test_of_students_level_alone_the_smaller_is_the_weaker():
  runs = fabricated.make_study(ALONE, NORMAL, NASTY, models=('cnn8', 'mlp'))
  for run in runs:
    nasty = 'nasty' in (run['teacher'] or '')
    if run['model'] == 'cnn8' and nasty:
      run['test_accuracy'] -= 9.0
  assert claims.weaker_lose_more(_of(runs))[0]


def test_the_claim_on_its_own_architecture_needs_that_student():
  results = _results(ALONE, NORMAL, NASTY)
  assert claims.self_loss(results) is None
  results = _results(ALONE, NORMAL, NASTY, models=('resnet8',))
  assert claims.self_loss(results)[0]


def test_one_peak_or_several():
  def found(normal, nasty):
    return claims.peaks(
      _of(
        [],
        normal=_by_seed('mean_peaks', *normal),
        nasty=_by_seed('mean_peaks', *nasty),
      )
    )

  assert found((1.0, 1.1), (2.0, 2.5))[0]
  assert not found((1.0, 1.1), (1.2, 1.3))[0]
  assert not found((2.0, 2.1), (3.0, 3.1))[0]


def test_features_alike_and_logits_changed():
  def found(features, logits):
    def numbers(near, silhouette):
      values = {'neighbor_accuracy': near, 'silhouette': silhouette}
      return {'0': values}

    return claims.separation(
      _of(
        [],
        normal_features=numbers(97.0, 0.5),
        normal_logits=numbers(97.0, 0.6),
        nasty_features=numbers(*features),
        nasty_logits=numbers(*logits),
      )
    )

  assert found((96.0, 0.45), (95.0, 0.1))[0]
  assert not found((90.0, 0.45), (95.0, 0.1))[0]  # The features suffer.
  assert not found((97.0, 0.5), (97.0, 0.55))[0]  # The logits do not change.


def _sweep(losses, key='alpha', normal=1.0):
  """A student of a nasty teacher loses `losses` at the values 0.1, 0.2, ..."""
  entries = []
  for seed in (0, 1):
    make = fabricated.make_entry
    first = make('teacher', 'big', 'none', seed, 95.0)
    nasty = make('teacher', 'big', 'nasty', seed, 94.0, first)
    alone = make('student', 'cnn8', 'scratch', seed, 90.0)
    entries += [first, nasty | {'normal': first['id']}, alone]
    for index, loss in enumerate(losses, start=1):
      for teacher, value in ((first, 90 + normal), (nasty, 90 - loss - seed)):
        setting = {key: index / 10}
        thief = make('student', 'cnn8', 'kd', seed, value, teacher, **setting)
        entries.append(thief | {'control': alone['id']})
  return _of(entries)


@pytest.mark.parametrize(
  ('losses', 'holds'),
  [
    ((2.0, 8.0, 20.0), True),
    ((20.0, 8.0, 2.0), False),  # The other way.
    ((-5.0, 8.0, 20.0), False),  # A gain where alpha is small.
  ],
)
def test_the_smaller_alpha_the_less_is_lost(losses, holds):
  assert claims.alpha(_sweep(losses))[0] == holds


@pytest.mark.parametrize(
  ('losses', 'holds'),
  [
    ((-5.0, 8.0, 20.0), True),  # A gain at a low temperature is allowed.
    ((2.0, 30.0, 25.0, 3.5), False),  # Not by and large.
    ((20.0, 8.0, 2.0), False),
  ],
)
def test_the_larger_the_temperature_the_more_is_lost(losses, holds):
  results = _sweep(losses, 'temperature')
  assert claims.temperature(results)[0] == holds


def test_only_adversaries_of_another_kind_count():
  def found(loss):
    entries = []
    for seed in (0, 1):
      make = fabricated.make_entry
      # An adversary that comes before the teacher by its name.
      small = make('teacher', 'a', 'none', seed, 80.0)
      big = make('teacher', 'b', 'none', seed, 95.0)
      alone = make('student', 's', 'scratch', seed, 90.0)
      entries += [small, big, alone]
      for adversary, lost in ((small, loss), (big, -5.0)):
        nasty = make('teacher', 'b', 'nasty', seed, 94.0, adversary)
        thief = make('student', 's', 'kd', seed, 90.0 - lost - seed, nasty)
        entries.append(nasty | {'normal': big['id']})
        entries.append(thief | {'control': alone['id']})
    return claims.adversaries(_of(entries))

  assert found(20.0)[0]
  assert not found(-20.0)[0]


def test_a_claim_that_was_not_run_says_so():
  verdicts = claims.judge({})
  assert [v.number for v in verdicts] == list(range(1, 15))
  assert {v.status for v in verdicts} == {'not run'}
  # Also where an experiment lacks what the claim is about.
  results = _results(ALONE, NORMAL, NASTY)
  statuses = {v.number: v.status for v in claims.judge({'main_table': results})}
  assert statuses[3] == 'holds'
  assert statuses[5] == statuses[6] == 'not run'


@pytest.mark.parametrize(
  ('normal', 'status'), [(60.0, 'holds'), (41.0, 'fails'), (39.0, 'not run')]
)
def test_who_steals_nothing_says_nothing_of_a_protection(normal, status):
  entries = fabricated.make_study(
    (80.0,), (normal,), (40.0,), attacks=('dafl',)
  )
  results = {'data_free': _of(entries)}
  (verdict,) = claims.judge(results, 'data_free')
  assert verdict.status == status
  assert ('too little' in verdict.evidence) == (status == 'not run')


def test_one_seed_is_named():
  results = _results((90.0,), (91.0,), (70.0,))
  verdict = claims.judge({'main_table': results}, 'main_table')[2]
  assert verdict.evidence.endswith('(one seed).')
  assert verdict.seeds == 1


def test_one_seed_on_few_test_images_is_no_win():
  statuses = []
  for number in (100, 10_000):
    runs = fabricated.make_study((50.0,), (53.0,), (47.0,))
    results = _of([run | {'test_examples': number} for run in runs])
    verdicts = claims.judge({'main_table': results}, 'main_table')
    statuses.append([verdict.status for verdict in verdicts[1:3]])
  assert statuses == [['fails', 'fails'], ['holds', 'holds']]


@pytest.mark.parametrize(
  ('number', 'expected'), [(500, 'fails'), (5_000, 'holds'), (None, 'holds')]
)
def test_images_of_one_seed_are_judged_by_their_number(number, expected):
  measurements = {
    name: {'0': {'judge_accuracy': accuracy, 'num_images': number}}
    for name, accuracy in (('normal', 17.0), ('nasty', 15.0))
  }
  results = _of(fabricated.make_study((90.0,), (91.0,), (70.0,)))
  results['measurements'] = measurements
  (verdict,) = claims.judge({'inversion': results}, 'inversion')
  assert verdict.status == expected


def test_claims_are_those_of_the_article_s_methods_alone():
  """Whatever else a config names: it fails here, and has no part in them."""
  entries = fabricated.make_study(ALONE, NORMAL, NASTY)
  others = fabricated.make_study(
    ALONE, NORMAL, (99.0, 99.0), attacks=('dkd', 'kd'), defenses=('stingy',)
  )
  known = {entry['id'] for entry in entries}
  more = entries + [entry for entry in others if entry['id'] not in known]
  assert len(more) > len(entries)
  assert not claims.nasty_loss(_of(more))[0]
  one, two = (claims.judge({'main_table': _of(r)}) for r in (entries, more))
  assert one == two
  assert one[2].status == 'holds'
