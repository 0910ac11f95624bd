"""Predictions hold, fail or stay open by the hits alone."""

import fabricated
import fabricated_arena
import numpy as np
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
TUNED = 'kd_tuned:alphas=(0.1,)'
TOP = 'knockoff:targets=top'
SKILLS = {
  'none': {'kd': 92.0, 'hard_label': 85.0, 'skeptical': 86.0}
  | {'knockoff': 60.0, TOP: 50.0},
  'nasty': {'kd': 50.0, 'dkd': 40.0, TUNED: 86.0, 'mkd': 90.0},
  'stingy': {'kd': 89.0, 'dkd': 70.0},
  'modelguard_s': {'mkd': 84.0, 'htc': 83.0, 'knockoff': 40.0, 'd_dae': 40.0},
  'mad': {'kd': 92.0, 'hard_label': 85.0, 'skeptical': 86.0},
  'cmim': {'averager': 88.0, TUNED: 88.0},
  'top_k': {'knockoff': 50.0},
  'reverse_sigmoid': {'d_dae': 60.0},
  'modelguard_w': {'d_dae': 60.0},
  'adaptive_misinformation': {'kd': 92.0, 'knockoff': 30.0},
}


def _own(results, row, oracle):
  """Gives a row of `mad` the network that its thieves ask."""
  owner = fabricated.make_entry(
    'teacher', 'cnn8', 'mad', 2, 97.0, oracle=oracle
  )
  owner['id'] += row
  results['runs'].append(owner)
  entries = {entry['id']: entry for entry in results['runs']}
  for cell in results['measurements']['board']['cells']:
    if cell['defense'] == row:
      for run in cell['runs'].values():
        entries[run]['teacher'] = owner['id']


def _judged(changes=None, margin=3.0, oracle='argmax', beta=8.0, **rules):
  names = {name: None for attacks in SKILLS.values() for name in attacks}
  skills = {defense: names | known for defense, known in SKILLS.items()}
  controls = dict(CONTROLS)
  for (defense, attack), accuracy in (changes or {}).items():
    (skills[defense] if defense else controls)[attack] = accuracy
  results = fabricated_arena.make_results(
    skills, controls, margin=margin, **rules
  )
  _own(results, 'mad', oracle)
  for cell in results['measurements']['board']['cells']:
    if cell['defense'] and cell['attack'] in ('knockoff', TOP, 'd_dae'):
      cell['group'] = 'foreign'
    if cell['attack'] == TOP:
      cell['answers'] = 'labels'
  for entry in results['runs']:
    if entry['method'] == 'dkd':
      entry['config']['settings'] = {'beta': beta}
  return predictions.judge(board_lib.Board(results))


def test_all_hold_where_they_are_so():
  found = _judged()
  assert [(one.number, one.status) for one in found] == [
    (number, 'holds') for number in range(1, 11)
  ]
  assert 'cnn8 tuned over smoothing' in found[0].measured


@pytest.mark.parametrize(
  ('place', 'accuracy', 'number'),
  [
    (('nasty', TUNED), 70.0, 1),
    (('nasty', 'kd'), 86.0, 1),
    (('modelguard_s', 'htc'), 92.0, 2),
    ((None, 'null skeptical'), 78.0, 3),
    (('nasty', 'mkd'), 75.0, 4),
    (('modelguard_s', 'mkd'), 93.0, 4),
    (('top_k', 'mkd'), 93.0, 4),
    (('cmim', 'averager'), 70.0, 5),
    (('mad', 'kd'), 80.0, 6),
    (('modelguard_w', 'd_dae'), 30.0, 7),
    (('modelguard_s', 'd_dae'), 60.0, 7),
    (('stingy', 'dkd'), 95.0, 8),
    (('none', 'hard_label'), 95.0, 9),
    (('top_k', 'knockoff'), 20.0, 9),
    (('adaptive_misinformation', 'kd'), 70.0, 10),
    (('adaptive_misinformation', 'knockoff'), 80.0, 10),
  ],
)
def test_each_fails_where_it_is_the_other_way(place, accuracy, number):
  found = {one.number: one.status for one in _judged({place: accuracy})}
  assert found[number] == 'fails'


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
  found = predictions.judge(board)
  assert {one.status for one in found} == {'not run'}
  assert all(one.measured.startswith('needs ') for one in found)
  assert 'd_dae' in found[6].measured
  assert 'd\\_dae' in predictions.table(board)
  assert predictions.blocks(board) == []


def test_of_mad_and_dkd_the_published_settings_alone_were_predicted():
  assert _judged(oracle='lp_argmax')[5].status == 'not run'
  assert _judged(beta=2.0)[7].status == 'not run'


def test_the_averager_of_the_whole_data_set_is_the_one_that_was_meant():
  assert _judged()[4].status == 'holds'
  changes = {('cmim', 'averager'): 60.0}
  assert _judged(changes)[4].status == 'fails'
  whole = {(row, 'averager:over=dataset'): None for row in SKILLS}
  whole['cmim', 'averager:over=dataset'] = 88.0
  assert _judged(changes | whole)[4].status == 'holds'


def test_the_published_mad_may_be_a_row_beside_the_other():
  other = 'mad:epsilon=1.0, oracle="argmax"'  # However it is spelt.
  skills = {
    'none': {'kd': 92.0, 'hard_label': 85.0},
    'mad': {'kd': 60.0, 'hard_label': 60.0},
    other: {'kd': 92.0, 'hard_label': 85.0},
  }

  def status(**oracles):
    results = fabricated_arena.make_results(skills, CONTROLS, margin=3.0)
    _own(results, 'mad', oracles['first'])
    _own(results, other, oracles['second'])
    return predictions.judge(board_lib.Board(results))[5].status

  assert status(first='lp_argmax', second='argmax') == 'holds'
  assert status(first='argmax', second='lp_argmax') == 'fails'
  assert status(first='lp_argmax', second='lp_argmax') == 'not run'


def test_what_no_thief_knows_was_not_predicted():
  skills = {
    'none': {'kd': 92.0, 'bayes:prior=oracle': 92.0},
    'mad': {'kd': 92.0, 'bayes:prior=oracle': 50.0},
  }
  results = fabricated_arena.make_results(skills, CONTROLS, margin=3.0)
  _own(results, 'mad', 'argmax')
  board = board_lib.Board(results)
  assert predictions.judge(board)[5].status == 'fails'
  for cell in board.cells:
    cell['bound'] = cell['attack'].startswith('bayes')
  assert predictions.judge(board_lib.Board(results))[5].status == 'holds'
  assert predictions._Thief(board, 'cnn8').hits('mad', 'bayes') is None


def test_networks_that_are_one_are_level_whatever_their_seeds():
  """Accuracies of 20 to 80 % over seeds are no doubt about a difference."""
  rng = np.random.default_rng(0)
  hits = rng.random((5, 300)) < np.linspace(0.2, 0.8, 5)[:, None]
  board = board_lib.Board(
    fabricated_arena.make_results({'none': {'kd': 90.0}}, CONTROLS)
  )

  def status(other):
    thief = predictions._Thief(board, 'cnn8')
    (found,) = thief.compare(hits, other, 'them', predictions._is_level)
    return found.status

  assert status(hits.copy()) == 'holds'
  assert status(hits[::-1]) == 'open'


def test_two_seeds_judge_nothing():
  found = _judged(fresh_seeds=[2, 3])
  assert {one.status for one in found} == {'not run'}
