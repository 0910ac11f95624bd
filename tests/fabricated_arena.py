"""The results of an arena that never was, for the tests of its page."""

import fabricated
import numpy as np

from undistillable.training import evaluate

CHOOSE, FRESH = (0, 1), (2, 3, 4, 5, 6)
NUM_TEST, NUM_VAL = 400, 150


def make_results(skills, controls, students=('cnn8',), margin=1.0, **changes):
  """results.json, with hits drawn so that each is right as often as it says.

  Args:
    skills: {defense: {attack: accuracy}}, of every student; None for an attack
      that does not fit. 'none' is among them.
    controls: {control: accuracy}.
    students: names.
    margin: in points.
    **changes: of the rules.
  """
  rng = np.random.default_rng(0)
  rules = {'margin': margin, 'choose_seeds': [*CHOOSE], 'fresh_seeds': [*FRESH]}
  rules |= changes
  ease = {'test': rng.random(NUM_TEST), 'val': rng.random(NUM_VAL)}
  hits = {'test': {}, 'val': {}}
  entries, cells = [], []

  def add(defense, attack, student, accuracy, **fields):
    cell = {
      'defense': defense,
      'attack': attack,
      'student': student,
      'group': 'own',
      'answers': 'labels' if attack == 'hard_label' else 'scores',
      'mode': 'once',
      'shared': False,
      'reason': '' if accuracy is not None else 'it has no map to undo',
      'runs': {},
    }
    cells.append(cell | fields)
    if accuracy is None:
      return
    for seed in (*rules['choose_seeds'], *rules['fresh_seeds']):
      entry = fabricated.make_entry('student', student, attack, seed, accuracy)
      entry['id'] += f'-{defense}'
      entry['queries'] = 1298
      entries.append(entry)
      cells[-1]['runs'][str(seed)] = entry['id']
      for part, of_images in ease.items():
        # The same images are hard for all; some chance remains.
        level = of_images + rng.normal(0, 0.03, len(of_images))
        right = level < accuracy / 100
        hits[part][entry['id']] = evaluate.pack(right)
        entry[f'{part}_accuracy'] = 100 * right.mean()

  for student in students:
    for name, accuracy in controls.items():
      add(None, name, student, accuracy, answers='none', mode=None)
    for defense, attacks in skills.items():
      for attack, accuracy in attacks.items():
        add(defense, attack, student, accuracy)
  numbers = {'test': NUM_TEST, 'val': NUM_VAL}
  guess = evaluate.pack(np.arange(NUM_TEST) % 10 == 0)
  prices = {
    defense: {str(seed): _price(i, seed) for seed in rules['fresh_seeds']}
    for i, defense in enumerate(skills)
  }
  latency = {
    batch: {
      d: {'median': 1e-3 * (1 + i), 'p95': 0.1} for i, d in enumerate(skills)
    }
    for batch in ('1', '256')
  }
  return {
    'runs': entries,
    'measurements': {
      'rules': rules,
      'board': {'owners': list(skills), 'cells': cells},
      'hits': {**hits, 'guess': guess, 'numbers': numbers},
      'prices': prices,
      'latency': latency,
    },
    'environment': {'jax': '0.10.2', 'date': '2026-01-01'},
  }


def _price(i, seed):
  """Each defense costs a little more than the one before."""
  return {
    'accuracy': 97.0 - 0.1 * i - 0.01 * seed,
    'flipped': 0.2 * i,
    'brier': 0.05 + 0.02 * i,
    'nll': 0.1 + 0.05 * i,
    'ece': 1.0 + i,
    'classwise_ece': 0.5 + i,
    'aurc': 0.2 + 0.1 * i,
    'l1': 0.1 * i,
    'temperature': 1.1,
    'fitted_nll': 0.1 + 0.04 * i,
    'fitted_ece': 0.9 + 0.5 * i,
    'fitted_classwise_ece': 0.4 + 0.5 * i,
  }
