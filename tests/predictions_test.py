"""Predictions hold, fail or stay open by the hits alone."""

import fabricated
import fabricated_arena
import pytest

from experiments import predictions
from undistillable.report import board as board_lib, verdict

CONTROLS = {
  'scratch': 80.0,
  'label_smoothing 0.1': 86.0,
  'label_smoothing 0.9': 83.0,
  'null mkd': 84.0,
  'null skeptical': 85.0,
}
# What each of them is about, and where all of them hold.
SKILLS = {
  'none': {'kd': 92.0, 'hard_label': 85.0, 'skeptical': 86.0},
  'nasty': {'kd': 50.0, 'kd_tuned:alphas=(0.1,)': 86.0, 'mkd': 90.0},
  'modelguard_s': {'mkd': 84.0, 'htc': 83.0},
  'mad': {'kd': 92.0, 'hard_label': 85.0, 'skeptical': 86.0},
}


def _judged(changes=None, margin=3.0, oracle='argmax', **rules):
  names = {name: None for attacks in SKILLS.values() for name in attacks}
  skills = {defense: names | known for defense, known in SKILLS.items()}
  controls = dict(CONTROLS)
  for (defense, attack), accuracy in (changes or {}).items():
    (skills[defense] if defense else controls)[attack] = accuracy
  results = fabricated_arena.make_results(
    skills, controls, margin=margin, **rules
  )
  owner = fabricated.make_entry(
    'teacher', 'cnn8', 'mad', 2, 97.0, oracle=oracle
  )
  results['runs'].append(owner)
  return predictions.judge(board_lib.Board(results))


def test_all_hold_where_they_are_so():
  found = _judged()
  assert [status for _, status, _ in found] == ['holds'] * 6
  assert 'cnn8 tuned over smoothing' in found[0][2]


@pytest.mark.parametrize(
  ('place', 'accuracy', 'index'),
  [
    (('nasty', 'kd_tuned:alphas=(0.1,)'), 70.0, 0),
    (('nasty', 'kd'), 86.0, 0),
    (('modelguard_s', 'htc'), 92.0, 1),
    ((None, 'null skeptical'), 78.0, 2),
    (('nasty', 'mkd'), 75.0, 3),
    (('modelguard_s', 'mkd'), 93.0, 3),
    (('mad', 'kd'), 80.0, 4),
    (('none', 'hard_label'), 95.0, 5),
  ],
)
def test_each_fails_where_it_is_the_other_way(place, accuracy, index):
  assert _judged({place: accuracy})[index][1] == 'fails'


@pytest.mark.parametrize(
  ('points', 'level', 'more', 'far_below', 'no_gain'),
  [
    (0.0, 'holds', 'open', 'fails', 'holds'),
    (1.0, 'open', 'holds', 'fails', 'open'),
    (-1.0, 'open', 'fails', 'open', 'holds'),
    (2.0, 'fails', 'holds', 'fails', 'fails'),
    (-2.0, 'fails', 'fails', 'holds', 'holds'),
  ],
)
def test_bounds_decide_and_not_the_means(
  points, level, more, far_below, no_gain
):
  """Bounds that are 0.93 points away, and a margin of one point."""
  gain = verdict.Gain(points, 0.25, 0.0, 8.0, 5)
  assert gain.high() - points == pytest.approx(0.93, abs=0.01)
  assert predictions._is_level(gain, 1.0) == level
  assert predictions._is_more(gain, 1.0) == more
  assert predictions._is_far_below(gain, 1.0) == far_below
  assert predictions._is_no_gain(gain, 1.0) == no_gain


def test_what_is_not_on_the_board_was_not_run():
  results = fabricated_arena.make_results({'none': {'kd': 90.0}}, CONTROLS)
  board = board_lib.Board(results)
  assert {status for _, status, _ in predictions.judge(board)} == {'not run'}
  assert predictions.blocks(board) == []


def test_of_mad_the_published_oracle_alone_was_predicted():
  assert _judged(oracle='lp_argmax')[4][1] == 'not run'


def test_two_seeds_judge_nothing():
  found = _judged(fresh_seeds=[2, 3])
  assert {status for _, status, _ in found} == {'not run'}
