"""The page of the arena: what it shows beside its verdicts, of any record."""

import copy
import types

import config_files
import fabricated
import fabricated_arena
import numpy as np

from undistillable import arena
from undistillable.graph import plan
from undistillable.report import arena as page, board as board_lib, verdict

CONTROLS = {'scratch': 80.0, 'label_smoothing 0.1': 86.0}
SKILLS = {
  'none': {'kd': 92.0, 'hard_label': 86.0},
  'nasty': {'kd': 70.0, 'hard_label': 86.0},
  'stingy': {'kd': 89.0, 'hard_label': 86.0},
}


def _cells(attacks):
  """{(defense, attack): its cell} of one seed."""
  changes = {
    'students': ('mlp',),
    'arena.defenses': ('stingy',),
    'arena.attacks': attacks,
    'arena.fresh_seeds': (2, 3),
  }
  config = arena._main_config(plan.vary(config_files.load('digits'), changes))
  return {
    (cell.defense, cell.attack): cell
    for cell in arena._cells(plan.Job(config, 2))
  }


def _groups(results):
  return board_lib.Board(results).groups


def test_who_knows_what_no_thief_does_is_marked():
  attacks = ('bayes', 'bayes:prior=oracle', 'd_dae:prior=oracle', 'knockoff')
  cells = _cells(attacks)
  found = {
    name: arena._described(cells['stingy', name])['bound'] for name in attacks
  }
  assert list(found.values()) == [False, True, True, False]


def test_a_bound_is_shown_and_decides_nothing():
  """As if it had not been there, whoever has labels or has none."""
  known = {'none': 96.0, 'nasty': 96.0, 'stingy': 96.0}
  skills = {
    defense: {'oracle': known[defense], **SKILLS[defense]} for defense in SKILLS
  }
  with_it = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  (group,) = _groups(with_it)  # As the first arenas told it.
  assert group.rows['nasty'].verdict.attack == 'oracle'
  for kind in (board_lib.OWN, board_lib.FOREIGN):
    for cell in with_it['measurements']['board']['cells']:
      cell['bound'] = cell['attack'] == 'oracle'
      if cell['defense']:
        cell['group'] = kind
      if cell['defense'] and kind == board_lib.FOREIGN:
        for run in cell['runs'].values():  # Without labels nobody chooses.
          with_it['measurements']['hits']['val'].pop(run)
    without = copy.deepcopy(with_it)
    cells = without['measurements']['board']['cells']
    cells[:] = [cell for cell in cells if not cell['bound']]
    (group,) = _groups(with_it)
    (other,) = _groups(without)
    for name, row in group.rows.items():
      contest = row.contests['cnn8']
      assert list(contest.bounds) == ['oracle']
      alone = contest._replace(bounds={})
      assert row._replace(contests={'cnn8': alone}) == other.rows[name]
    assert group.attacks == ['oracle', 'kd', 'hard_label']
    assert group.thieves == other.attacks


def test_a_bound_that_failed_leaves_nothing_open():
  skills = {'none': {'kd': 80.0, 'oracle': 80.0}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=4.0)
  measured = results['measurements']
  for cell in measured['board']['cells']:
    if cell['attack'] == 'oracle':
      measured['hits']['test'].pop(cell['runs']['3'])
  (group,) = _groups(results)
  assert group.none.decision == 'open'
  measured['board']['cells'][-1]['bound'] = True
  (group,) = _groups(results)
  assert group.none.decision == 'undistillable'


def test_of_bounds_alone_nothing_is_concluded():
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  for cell in results['measurements']['board']['cells']:
    if cell['attack'] == 'hard_label' and cell['defense']:
      cell |= {'group': board_lib.FOREIGN, 'bound': True}
  board = board_lib.Board(results)
  own, foreign = board.groups
  assert not foreign.thieves
  assert foreign.title not in page.words.conclusion(board).sentence
  (step,) = page.words.next_steps(board)
  assert step == page.words.next_step(board, own)
  table = page._verdict_table(board, foreign)
  assert {row[1] for row in table.rows} == {'open\ntoo few seeds, or no thief'}


def test_the_first_table_of_verdicts_explains_itself():
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  cells = results['measurements']['board']['cells']
  captions = {}
  for kind in (board_lib.OWN, board_lib.WEIGHTS):
    for cell in cells:
      if cell['defense'] and cell['attack'] == 'kd':
        cell['group'] = kind
    kept = [c for c in cells if not c['defense'] or c['attack'] == 'kd']
    results['measurements']['board']['cells'] = kept
    board = board_lib.Board(results)
    (group,) = board.groups
    captions[kind] = page._verdict_table(board, group).caption
  for caption in captions.values():
    assert caption.startswith('Distillable: ')
  assert ' Two things differ here. ' in captions[board_lib.WEIGHTS]
  assert 'Two things' not in captions[board_lib.OWN]


def test_a_bound_is_marked_where_it_stands():
  skills = {'none': {'kd': 92.0, 'bayes:prior=oracle': 96.0}}
  results = fabricated_arena.make_results(skills, CONTROLS)
  results['measurements']['board']['cells'][-1]['bound'] = True
  board = board_lib.Board(results)
  (group,) = board.groups
  shown = page._matrix(board, group, 'cnn8')
  assert shown.head[1:3] == ('kd', 'bayes †\nprior=oracle')
  assert '† is a bound, and no thief' in shown.caption
  assert shown.rows[0][2].startswith('+')
  assert page._asked(board).rows[1][0] == 'bayes †\nprior=oracle'
  assert page.words.conclusion(board).sentence.startswith('Against 1 attack ')


GRID = 'temperatures=(1.0,4.0,20.0),alphas=(0.1,0.5,0.9)'
OTHER = 'temperatures=(1.0,4.0,20.0),alphas=(0.1,0.9,1.0)'


def test_long_settings_have_a_short_name_and_are_told_once():
  names = [
    f'kd_tuned:{GRID}',
    'kd:alpha=0.1',
    f'dkd:{GRID}',
    f'kd_tuned:{OTHER}',
  ]
  skills = {'none': dict.fromkeys(names, 90.0)}
  controls = {**CONTROLS, f'null kd_tuned:{GRID}': 80.0}
  results = fabricated_arena.make_results(skills, controls)
  board = board_lib.Board(results)
  assert [board.labels[name] for name in names] == [
    'kd_tuned:… 1',
    'kd:alpha=0.1',
    'dkd:…',
    'kd_tuned:… 2',
  ]
  assert len(set(board.labels.values())) == len(board.labels)
  told = page._long_settings(board)
  spaced = GRID.replace(',alphas', ', alphas')
  assert told[:2] == [('kd_tuned … 1', spaced), ('dkd …', spaced)]
  assert [name for name, _ in told] == ['kd_tuned … 1', 'dkd …', 'kd_tuned … 2']
  (group,) = board.groups
  for table in (
    page._verdict_table(board, group),
    page._matrix(board, group, 'cnn8'),
    page._asked(board),
    *(part for part in page._controls(board, group) if hasattr(part, 'rows')),
  ):
    cells = [*table.head, *(cell for row in table.rows for cell in row)]
    assert max(map(len, cells)) < len(GRID)


def test_the_parts_of_an_error_are_those_of_the_gain():
  assert page.words.parts(None) == '–'
  gain = verdict.Gain(1.0, 0.64, 0.09, 8.0, 5)
  assert page.words.parts(gain) == '0.80 /\n0.30'


def test_beside_the_deciding_gain_are_its_bounds_drawn_again():
  """Of the thief who decides, over his control, at the level of his bounds."""
  results = fabricated_arena.make_results(
    SKILLS, CONTROLS, students=('cnn8', 'cnn16')
  )
  board = board_lib.Board(results)
  (group,) = board.groups
  table = page._verdict_table(board, group)
  column = table.head.index('Bootstrap')
  for cells, (name, row) in zip(table.rows, group.rows.items(), strict=True):
    found = row.verdict
    assert found.level == verdict.LEVEL / 2
    hits = board.test(board.cell(name, found.attack, found.student))
    alone = group.alone[found.student]
    low, high = verdict.bootstrap(hits, alone, level=found.level)
    assert cells[column].replace('\n', ' ') == page.words.span(low, high)


def _columns(table):
  """{head: {row: cell}}"""
  return {
    head: {row[0]: row[j] for row in table.rows}
    for j, head in enumerate(table.head)
  }


def test_what_nobody_measured_has_no_column_and_one_lack_a_dash():
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  board = board_lib.Board(results)
  heads = page._price_table(board).head
  assert 'Top-5 %' not in heads
  assert {'ECE %\nclasswise', 'ECE %\nclasswise, fitted'} < set(heads)
  assert page._serving_table(board).head == (
    'Defense',
    'Time\nof 1',
    'Time\nof 256',
  )
  for price in results['measurements']['prices']['nasty'].values():
    price['top5'] = 99.0
  column = _columns(page._price_table(board_lib.Board(results)))['Top-5 %']
  assert column == {'none': '–', 'nasty': '99.00', 'stingy': '–'}


def test_slow_answers_are_told_beside_the_median():
  """As multiples of the same: 100 ms of a median of 1 ms."""
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  columns = _columns(page._serving_table(board_lib.Board(results)))
  assert columns['Time\nof 256']['nasty'] == '2.0×\np95 100.0×'


def test_what_a_defense_is_served_with_is_shown():
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  numbers = {'networks': 1, 'bytes': 44_720_000, 'again': 0.0, 'shuffled': 2e-7}
  results['measurements']['serving'] = {'nasty': numbers}
  table = page._serving_table(board_lib.Board(results))
  shown = [_columns(table)[head]['nasty'] for head in table.head[-4:]]
  assert shown == ['1', '44.7 MB', '0', '2e-07']
  assert _columns(table)['State']['none'] == '–'


def _with_owners(results, secs):
  """The same with networks of the owner, {name: (seconds, its parents)}."""
  seeds = results['measurements']['rules']['fresh_seeds']
  names = {}
  for seed in seeds:
    for name, (number, parents) in secs.items():
      entry = fabricated.make_entry('teacher', 'resnet8', name, seed, 97.0)
      entry['seconds'] = number
      entry['parents'] = {p: names[p, seed] for p in parents}
      names[name, seed] = entry['id']
      results['runs'].append(entry)
  entries = {entry['id']: entry for entry in results['runs']}
  for cell in results['measurements']['board']['cells']:
    for seed in seeds:
      if cell['defense']:
        student = entries[cell['runs'][str(seed)]]
        student['teacher'] = names[cell['defense'], seed]
  return results


def test_training_is_that_of_all_networks_over_that_of_the_normal_one():
  skills = {d: {'kd': 80.0} for d in ('none', 'nasty', 'stingy', 'sdb')}
  results = _with_owners(
    fabricated_arena.make_results(skills, CONTROLS),
    {
      'none': (10.0, ()),
      'partner': (5.0, ('none',)),
      'nasty': (20.0, ('none', 'partner')),  # The normal one counts once.
      'stingy': (0.0, ('none',)),
      'sdb': (None, ('none',)),
    },
  )
  board = board_lib.Board(results)
  assert board.paid.training == {'none': 1.0, 'nasty': 3.5, 'stingy': 1.0}
  column = _columns(page._serving_table(board))['Training']
  assert column == {
    'none': '1.0×',
    'nasty': '3.5×',
    'stingy': '1.0×',
    'sdb': '–',
  }


def _asking(config, method='kd', **fields):
  """The row of an attack whose two students have such a config."""
  results = fabricated_arena.make_results(
    {'none': {method: 90.0}}, {}, students=('cnn8', 'cnn16')
  )
  for run in results['runs']:
    run['config'] |= config
  for cell in results['measurements']['board']['cells']:
    cell |= fields
  (row,) = page._asked(board_lib.Board(results)).rows
  return row[3:]


IMAGES = {'name': 'digits', 'fraction': 1.0}
RECIPE = {'epochs': 3, 'batch_size': 64, 'augment': 'crop'}


def test_recorded_answers_are_shared_by_all_students_of_a_network():
  config = {'learns_from': IMAGES, 'queries': 'cached', 'recipe': RECIPE}
  assert _asking(config) == ('once, recorded', '1,298', '1,298')
  # Without augmentation there is one view, which is asked about once, too.
  config = {**config, 'queries': 'fresh', 'recipe': {'augment': 'none'}}
  assert _asking(config) == ('once, recorded', '1,298', '1,298')


def test_images_that_are_made_up_are_those_of_one_student():
  config = {'learns_from': IMAGES, 'queries': 'fresh', 'recipe': RECIPE}
  assert _asking(config, mode=None) == ('–', '1,298', '2,596')


def test_views_are_drawn_for_each_method_and_not_for_each_student():
  results = fabricated_arena.make_results(
    {'none': {'kd_tuned': 90.0}}, {}, students=('cnn8', 'cnn16')
  )
  config = {'learns_from': IMAGES, 'queries': 'fresh', 'recipe': RECIPE}
  for cell in results['measurements']['board']['cells']:
    cell['mode'] = 'every view'
  for run in [*results['runs']]:
    run['config'] |= config
    # A helper of the same method with other settings, and one of another.
    for name, method in (('same', 'kd_tuned'), ('other', 'averager')):
      helper = {**run, 'id': f'{run["id"]}-{name}', 'role': 'helper'}
      results['runs'].append({**helper, 'method': method, 'parents': {}})
      run['parents'] = {**run['parents'], name: helper['id']}
  (row,) = page._asked(board_lib.Board(results)).rows
  assert row[3:] == ('every view, fresh', '1,298', '2,596')


class _Store:
  """Of answers that are the images, to which a defense may add something."""

  def __init__(self, variables, serve_fn):
    self.test = {
      'image': np.random.default_rng(0).normal(size=(7, 3)),
      'label': np.zeros(7, int),
    }
    self.variables = lambda run: variables
    self.answers = lambda run, arrays: serve_fn(arrays['image'])

  def task(self, settings):
    del settings
    return types.SimpleNamespace(test=self.test)


def _served(monkeypatch, variables, asked, serve_fn):
  monkeypatch.setattr(arena.programs, 'asked', lambda run, variables: asked)
  job = plan.Job(arena._main_config(config_files.load('digits')), 2)
  store = _Store(variables, serve_fn)
  return arena._serving({'none': job.normal}, store)['none']


WEIGHTS = {'params': {'w': np.zeros(5, np.float32)}}


def test_who_answers_by_the_images_alone_answers_the_same(monkeypatch):
  found = _served(monkeypatch, WEIGHTS, ([], []), lambda images: images)
  assert found == {'networks': 0, 'bytes': 20, 'again': 0.0, 'shuffled': 0.0}


def test_who_draws_lots_or_hears_the_batch_is_found_out(monkeypatch):
  rng = np.random.default_rng(1)
  drawn = _served(
    monkeypatch,
    WEIGHTS,
    ([], []),
    lambda images: images + rng.normal(size=images.shape),
  )
  assert drawn['again'] > 0.1
  # Whatever the order, the mean is that of whoever else is there.
  told = _served(
    monkeypatch, WEIGHTS, ([], []), lambda x: x * np.abs(x.mean(axis=0))
  )
  assert told['again'] == 0 < 0.01 < told['shuffled']


def test_what_an_answer_is_made_of_is_weighed(monkeypatch):
  variables = {
    **WEIGHTS,
    'decoy': WEIGHTS,
    'table': np.zeros(3, np.float32),
    'unread': np.zeros(1000, np.float32),
    arena.serving.PARENTS: {
      'adversary': {**WEIGHTS, 'unread': np.zeros(9)},
      'normal': WEIGHTS,
    },
  }
  asked = ['adversary'], ['decoy', 'table']
  found = _served(monkeypatch, variables, asked, lambda images: images)
  assert (found['networks'], found['bytes']) == (2, 3 * 20 + 12)


def test_without_a_normal_network_nothing_is_served():
  job = plan.Job(arena._main_config(config_files.load('digits')), 2)
  assert arena._served([job], set()) == {}
  assert arena._serving({}, None) == {}


def test_of_a_student_who_always_diverged_it_says_why(tmp_path):
  """He has no control either, and so nothing that a matrix could show."""
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  found = results['measurements']
  found['hits'] |= {'test': {}, 'val': {}}
  for entry in results['runs']:
    entry |= {'status': 'diverged', 'reason': 'loss = nan'}
  page.write(results, tmp_path, folder=tmp_path, command='')
  text = (tmp_path / 'report.md').read_text()
  assert page.words.NO_CONTROL in text
  assert 'kd against none, ' in text
