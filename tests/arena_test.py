"""The arena: what is shared, what is decided, what its page says."""

import dataclasses
import sys
import types

import config_files
import fabricated_arena
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import arena as experiment_of_it
from undistillable import arena, attacks, command, defenses, errors, serving
from undistillable.graph import plan
from undistillable.report import arena as page, board as board_lib, draw, plane
from undistillable.storage import disk
from undistillable.training import evaluate


def _config(**changes):
  small = {
    'students': ('mlp',),
    'arena.defenses': ('nasty', 'stingy', 'reverse_sigmoid'),
    'arena.attacks': ('kd', 'hard_label', 'kd:alpha=0.1,temperature=1.0'),
    'arena.epsilons': (0.1, 0.4),
    'arena.choose_seeds': (0,),
    'arena.fresh_seeds': (1, 2),
  }
  given = {name.replace('__', '.'): value for name, value in changes.items()}
  return plan.vary(config_files.load('digits'), small | given)


def _cells(config, seed=1):
  job = plan.Job(arena._main_config(config), seed)
  return {(c.defense, c.attack): c for c in arena._cells(job)}


@pytest.mark.parametrize('attack', ['hard_label', 'knockoff:targets=top'])
def test_who_hears_top_classes_alone_is_one_for_all_that_keep_them(attack):
  """Whether that is all he is told, or all that he learns from."""
  cells = _cells(_config(arena__attacks=('kd', 'knockoff', attack)))
  runs = {
    defense: cells[defense, attack].runs[-1]
    for defense in ('none', 'stingy', 'nasty', 'reverse_sigmoid')
  }
  assert runs['stingy'] == runs['none']
  assert cells['stingy', attack].shared
  assert not cells['none', attack].shared
  # Another network, and a wrapper that does not say that it keeps them.
  assert len(set(runs.values())) == 3
  for name in ('kd', 'knockoff'):
    assert cells['stingy', name].runs[-1] != cells['none', name].runs[-1]


KEEPS_TOP = [
  name
  for name, module in defenses.DEFENSES.items()
  if getattr(module, 'KEEPS_TOP', False)
]


@pytest.mark.parametrize('name', KEEPS_TOP)
@pytest.mark.parametrize('scale', [0.0, 1e-6, 3.0, 1e4])
def test_a_defense_that_says_so_keeps_every_top_class(name, scale):
  """Of equal ones the first, of certain ones, and of those close to another."""
  rng = np.random.default_rng(0)
  rounded = np.round(rng.normal(size=(512, 10)), 1) * scale
  logits = jnp.float32(rounded)  # With -0.0, which equals 0.0.
  query = serving.Query(jnp.zeros((512, 8, 8, 1)), logits, {})
  module = defenses.get(name)
  served = module.serve(query, module.Settings())
  np.testing.assert_array_equal(served.argmax(-1), logits.argmax(-1))


def test_who_has_the_weights_meets_no_wrapper():
  cells = _cells(_config(arena__attacks=('deep_inversion',)))
  runs = [
    cells[defense, 'deep_inversion'].runs
    for defense in ('none', 'stingy', 'reverse_sigmoid', 'nasty')
  ]
  assert runs[0] == runs[1] == runs[2]
  assert not set(runs[0]) & set(runs[3])
  assert cells['stingy', 'deep_inversion'].shared


@pytest.mark.parametrize('outliers', [None, 'patches'])
def test_nor_does_he_meet_what_is_trained_beside_the_network(outliers):
  """With outliers adaptive_misinformation trains the network too."""
  names = {
    'decoy',
    'grad2',
    'modelguard_s',
    'adaptive_misinformation',
    'nasty',
    'nasty_head',
  }
  cells = _cells(
    _config(
      outliers=outliers,
      arena__defenses=tuple(names),
      arena__attacks=('dafl', 'kd'),
    )
  )
  shared = {name for name in names if cells[name, 'dafl'].shared}
  expected = {'decoy', 'grad2', 'modelguard_s'}
  expected |= set() if outliers else {'adaptive_misinformation'}
  assert shared == expected
  for name in shared:
    assert cells[name, 'dafl'].runs == cells['none', 'dafl'].runs
    assert cells[name, 'kd'].runs != cells['none', 'kd'].runs


def test_every_network_is_planned_once_and_before_who_needs_it():
  config = _config()
  planned = arena.plan_fn(config)
  assert len(set(planned)) == len(planned)
  for index, run in enumerate(planned):
    assert set(run.parents.values()) <= set(planned[:index])
  # Four owners; alone, smoothed twice; kd twice on each owner, top classes of
  # three; and each attack on nobody.
  assert len(planned) == 3 * (4 + 3 + 2 * 4 + 3 + 3)
  assert {run.seed for run in planned} == {0, 1, 2}


def test_an_attack_that_fits_one_defense_alone_meets_that(monkeypatch):
  """Neither the unprotected network nor nobody."""
  module = types.ModuleType('my_package.picky')

  def plan(job, teacher, student):
    if teacher is None or teacher.method != 'stingy':
      raise ValueError('it fits stingy alone')
    return [job.student('kd', student, {'teacher': teacher})]

  module.PARENTS, module.Settings = ('teacher',), attacks.kd.Settings
  module.make, module.plan = attacks.kd.make, plan
  monkeypatch.setitem(sys.modules, module.__name__, module)
  cells = _cells(_config(arena__attacks=('my_package.picky',)))
  found = {key[0]: cell for key, cell in cells.items() if 'picky' in key[1]}
  assert found['stingy'].runs
  assert not found['none'].runs
  assert found['nasty'].reason == found['none'].reason == 'it fits stingy alone'


def test_methods_of_ones_own_are_shown_without_their_package(monkeypatch):
  """A defense as an attack, and the attack on nobody; settings and all."""
  for name, one in (('his', attacks.kd), ('hers', defenses.stingy)):
    module = types.ModuleType(f'my_package.{name}')
    vars(module).update(
      {k: v for k, v in vars(one).items() if not k.startswith('_')}
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
  config = _config(
    arena__attacks=('my_package.his', 'my_package.his:alpha=0.5'),
    arena__defenses=('my_package.hers',),
    his={'alpha': 0.9},
  )
  found = arena._board({1: list(_cells(config).values())})
  shown = {cell['attack'] for cell in found}
  nulls = {'null his', 'null his:alpha=0.5'}
  assert {'his', 'his:alpha=0.5', *nulls} <= shown
  assert {cell['defense'] for cell in found} == {None, 'none', 'hers'}
  assert not any('my_package' in name for name in shown)


def test_an_attack_whose_student_is_too_small_has_a_dash():
  """What is found out before anything is trained ends no arena."""
  config = _config(students=('cnn8', 'mlp'), arena__attacks=('kd', 'skeptical'))
  job = plan.Job(arena._main_config(config), 1)
  found = {
    cell.student: cell.reason
    for cell in arena._cells(job)
    if (cell.defense, cell.attack) == ('nasty', 'skeptical')
  }
  assert found == {
    'cnn8': '',
    'mlp': 'skeptical: the network has 0 stages with feature maps, but loc=2 '
    'takes 3, the last of which is for the network itself',
  }


def test_settings_of_an_attack_are_those_of_its_name():
  cells = _cells(_config())
  run = cells['nasty', 'kd:alpha=0.1,temperature=1.0'].runs[-1]
  assert (run.settings['alpha'], run.settings['temperature']) == (0.1, 1.0)
  assert cells['nasty', 'kd'].runs[-1].settings['alpha'] == 0.9
  cells = _cells(_config(arena__attacks=('knockoff:targets=top',)))
  cell = cells['nasty', 'knockoff:targets=top']
  assert cell.runs[-1].settings['targets'] == 'top'
  assert arena._described(cell)['answers'] == 'labels'
  assert arena._described(cell)['group'] == board_lib.FOREIGN


def test_a_setting_may_be_a_tuple_or_a_word():
  found = arena._parse('', 'my.own:alphas=(0.1, -2),targets=top,on=True')
  assert (found.name, found.shown.partition(':')[0]) == ('my.own', 'own')
  assert found.settings == {'alphas': (0.1, -2), 'targets': 'top', 'on': True}
  assert arena._parse('', 'kd') == ('kd', {}, 'kd')


def test_methods_of_ones_own_are_found_on_the_command_line():
  flags = [
    '--config.arena.defenses=("nasty","my_package.flatter")',
    '--config.arena.attacks=("kd:alphas=(0.1,1.0)","your.thief:tau=2.0")',
    '--config.defenses=("theirs.one",)',
    '--config.students=("cnn8",)',
  ]
  assert command._own_methods(flags) == [
    'my_package.flatter',
    'your.thief',
    'theirs.one',
  ]


@pytest.mark.parametrize(
  ('attack', 'message'),
  [
    ('kd:alpha', 'expected a name, or name:field=value'),
    ('kd:alpha=', 'expected a name, or name:field=value'),
    ('kd:**{}', 'expected a name, or name:field=value'),
    ('kd:alpha=0.1,alpha=0.2', 'expected a name, or name:field=value'),
    ('kd:alpha=open(0)', 'expected a name, or name:field=value'),
    ('kd:alpa=0.1', "^config: arena.attacks: kd has no setting 'alpa'"),
    ('kd:alpha=7', 'alpha=7'),
    ('kd:alpha=much', r"\{'alpha': 'much'\}; expected values as in alpha=0"),
    ('kd:alpha=None', 'kd.alpha=None; expected a finite number'),
    ('kdd', "unknown attack 'kdd'"),
  ],
)
def test_a_mistake_in_an_attack_is_said(attack, message):
  with pytest.raises(errors.InputError, match=message):
    arena.plan_fn(_config(arena__attacks=(attack,)))


def test_one_attack_under_two_names_is_refused():
  config = _config()
  spelt = f'kd:temperature={config.kd.temperature}'
  with pytest.raises(errors.InputError, match=f'{spelt} is the same as kd;'):
    arena.plan_fn(_config(arena__attacks=('hard_label', 'kd', spelt)))


def test_a_defense_takes_settings_too_and_a_row_for_each():
  both = 'mad', 'mad:oracle=argmax,epsilon=0.5', 'nasty:omega=0.1'
  config = _config(arena__defenses=both, arena__attacks=('kd', 'hard_label'))
  cells = _cells(config)
  assert {defense for defense, _ in cells} == {None, 'none', *both}
  found = {one: cells[one, 'kd'].runs[-1].parents['teacher'] for one in both}
  assert found[both[0]].settings['oracle'] == config.mad.oracle == 'lp_argmax'
  assert found[both[1]].settings['oracle'] == 'argmax'
  assert found[both[1]].settings['epsilon'] == 0.5
  assert found[both[2]].settings['omega'] == 0.1
  # What a thief sets is another thing.
  assert len({cells[one, 'kd'].runs[-1].settings['alpha'] for one in both}) == 1
  planned = arena.plan_fn(config)
  assert set(found.values()) <= set(planned)


@pytest.mark.parametrize(
  ('defense', 'message'),
  [
    ('mad:epsilon', "arena.defenses: 'mad:epsilon'; expected a name, or name:"),
    (
      'mad:epsilo=1.0',
      "arena.defenses: mad has no setting 'epsilo'; known: ep",
    ),
    ('mad:epsilon=-1.0', r'epsilon=-1\.0'),
    ('mad:oracle=lp_argmax', 'mad:oracle=lp_argmax is the same as mad;'),
    ('none:a=1', "none has no setting 'a'; known: none"),
    ('madd:a=1', "unknown defense 'madd'"),
  ],
)
def test_a_mistake_in_a_defense_is_said(defense, message):
  with pytest.raises(errors.InputError, match=message):
    arena.plan_fn(_config(arena__defenses=('mad', defense)))


def test_who_has_nothing_to_choose_by_is_not_trained_to_choose():
  attacks = 'kd', 'knockoff', 'dfme', 'dafl'
  config = _config(arena__attacks=attacks)
  tried = {name for _, name in _cells(config, seed=0)}
  assert tried & set(attacks) == {'kd'}
  assert set(attacks) <= {name for _, name in _cells(config, seed=1)}
  method = {run.method for run in arena.plan_fn(config) if run.seed == 0}
  assert 'kd' in method
  assert not method & {'knockoff', 'dfme', 'dafl'}
  # Nor are the networks that they would ask.
  config = _config(arena__attacks=attacks[1:], arena__epsilons=())
  planned = arena.plan_fn(config)
  assert {run.method for run in planned if run.seed == 0} == {'scratch'}
  assert {run.seed for run in planned if run.method == 'nasty'} == {1, 2}


def test_the_null_of_a_bound_is_no_control(monkeypatch):
  config = _config(arena__attacks=('kd', 'mkd'))
  assert (None, 'null mkd') in _cells(config)
  monkeypatch.setattr(
    arena.attacks.get('mkd'), 'is_bound', lambda settings: True, raising=False
  )
  cells = _cells(config)
  assert (None, 'null mkd') not in cells
  assert (None, 'null kd') in cells
  assert arena._described(cells['nasty', 'mkd'])['bound']


def test_settings_that_the_config_does_not_know_are_said(monkeypatch):
  name = 'undistillable.defenses.sdb_keyed'
  config = _config(arena__defenses=(f'{name}:weight=0.7',))
  with pytest.raises(errors.InputError, match=r'see config\.know'):
    arena.plan_fn(config)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'arena__fresh_seeds': ()}, 'arena.fresh_seeds is empty'),
    ({'arena__choose_seeds': ()}, 'arena.choose_seeds is empty'),
    ({'arena__fresh_seeds': (1, 2, 2)}, 'names a seed twice'),
    ({'val_fraction': 0.0}, 'val_fraction=0; expected a part'),
    ({'arena__margin': 0.0}, 'arena.margin=0.0; expected points > 0'),
  ],
)
def test_rules_that_decide_nothing_are_refused(changes, message):
  with pytest.raises(errors.InputError, match=message):
    arena.plan_fn(_config(**changes))


def test_what_is_chosen_on_a_seed_is_not_judged_on_it():
  with pytest.raises(errors.InputError, match=r'seeds \[1\] are in choose_'):
    arena.plan_fn(_config(arena__choose_seeds=(0, 1)))


def test_an_attack_that_does_not_fit_leaves_a_dash_and_a_reason(monkeypatch):
  def no_plan(job, teacher, student):
    if teacher and teacher.method == 'nasty':
      raise ValueError('nasty has no map to undo')
    return [job.student('kd', student, {'teacher': teacher})]

  monkeypatch.setattr(arena.attacks.get('kd'), 'plan', no_plan, raising=False)
  cells = _cells(_config(arena__attacks=('kd',)))
  assert cells['stingy', 'kd'].runs
  assert not cells['nasty', 'kd'].runs
  assert cells['nasty', 'kd'].reason == 'nasty has no map to undo'


def test_an_attack_that_fits_no_defense_is_a_mistake():
  config = _config(arena__attacks=('knockoff',), transfer='cifar10')
  with pytest.raises(errors.InputError, match='^config: arena.* images of'):
    arena.plan_fn(config)


def test_attacks_on_nobody_are_controls_with_all_they_depend_on(monkeypatch):
  """Of an attack that is compared with the same attack on nobody."""

  def with_null(job, teacher, student):
    helper = job.student('scratch', student, recipe={'epochs': 7})
    null = job.student('scratch', student, recipe={'epochs': 8})
    null = dataclasses.replace(null, parents={'helper': helper})
    run = job.student('kd', student, {'teacher': teacher})
    return [dataclasses.replace(run, compared_with={'null': null})]

  monkeypatch.setattr(
    plan.Job, 'attack', lambda job, _, *args: with_null(job, *args)
  )
  cells = _cells(_config(arena__attacks=('kd',)))
  helper, null = cells[None, 'null kd'].runs
  assert null.parents == {'helper': helper}


CONTROLS = {'scratch': 80.0, 'label_smoothing 0.1': 86.0}
SKILLS = {
  'none': {'kd': 92.0, 'hard_label': 86.0},
  'nasty': {'kd': 70.0, 'hard_label': 86.0},
  'stingy': {'kd': 89.0, 'hard_label': 86.0},
}


@pytest.fixture(scope='module')
def results():
  return fabricated_arena.make_results(SKILLS, CONTROLS, margin=2.0)


def _judged(results):
  board = board_lib.Board(results)
  return board, board.groups


def test_verdicts_follow_from_hits(results):
  board, (group,) = _judged(results)
  assert group.controls == {'cnn8': 'label_smoothing 0.1'}
  decisions = {name: row.verdict.decision for name, row in group.rows.items()}
  assert decisions == {
    'none': 'distillable',
    'nasty': 'undistillable',
    'stingy': 'distillable',
  }
  assert group.rows['none'].verdict.attack == 'kd'
  # By hand from the hits themselves.
  cell = board.cell('stingy', 'kd', 'cnn8')
  control = next(c for c in board.cells if c['attack'] == 'label_smoothing 0.1')
  points = 100 * (board.test(cell).mean() - board.test(control).mean())
  gain = group.rows['stingy'].contests['cnn8'].gains['kd']
  np.testing.assert_allclose(gain.points, points)
  plain = group.rows['none'].verdict.gain.points
  np.testing.assert_allclose(group.rows['stingy'].leaked, points / plain)
  assert group.rows['none'].leaked == 1
  np.testing.assert_allclose(
    group.rows['stingy'].against_none.points, points - plain
  )
  # Whom validation chose against nasty hears top classes alone already.
  assert group.rows['nasty'].verdict.attack == 'hard_label'
  assert group.rows['nasty'].score_value is None
  assert 1 < group.rows['stingy'].score_value.points < 5


def test_the_same_networks_differ_by_nothing():
  """Two defenses that leave the top class share who hears nothing else."""
  skills = {'none': {'hard_label': 88.0}, 'stingy': {'hard_label': 88.0}}
  results = fabricated_arena.make_results(skills, CONTROLS)
  _, (group,) = _judged(results)
  drawn = group.rows['stingy'].against_none
  assert drawn.low() < drawn.points < drawn.high()  # Two sets of seeds.
  plain, stingy = results['measurements']['board']['cells'][-2:]
  stingy |= {'shared': True, 'runs': plain['runs']}
  _, (group,) = _judged(results)
  same = group.rows['stingy'].against_none
  assert (same.low(), same.points, same.high()) == (0, 0, 0)


def test_shares_have_bounds_in_shares_where_nothing_leaked():
  """No gain at all is a share, too: its bounds are no points."""
  skills = {'none': {'kd': 92.0}, 'nasty': {'kd': 86.0}}
  results = fabricated_arena.make_results(skills, CONTROLS)
  board, (group,) = _judged(results)
  row = group.rows['nasty']
  level = row._replace(
    verdict=row.verdict._replace(gain=row.verdict.gain._replace(points=0.0))
  )
  shown = group._replace(rows={**group.rows, 'nasty': level})
  drawn = plane.figure(shown, board.paid).draw
  point = next(p for p in drawn.args[0] if p.name == 'nasty')
  gain = level.verdict.gain
  assert (level.leaked, point.y) == (0, 0)
  whole = group.rows['none'].verdict.gain.points
  np.testing.assert_allclose(point.high, gain.high() / whole)


def test_seeds_to_choose_with_decide_nothing_else(results):
  """Fresh hits alone make the gains, held-out hits alone the choice."""
  board, _ = _judged(results)
  cell = board.cell('none', 'kd', 'cnn8')
  assert board.test(cell).shape == (5, fabricated_arena.NUM_TEST)
  assert board.vals([cell])['kd'].shape == (2, fabricated_arena.NUM_VAL)


def test_one_run_that_is_missing_leaves_its_cell_out(results):
  found = {**results, 'runs': [dict(run) for run in results['runs']]}
  board, _ = _judged(found)
  lost = board.cell('stingy', 'kd', 'cnn8')['runs']['3']
  hits = dict(results['measurements']['hits'])
  hits['test'] = {k: v for k, v in hits['test'].items() if k != lost}
  found['measurements'] = {**results['measurements'], 'hits': hits}
  for run in found['runs']:
    if run['id'] == lost:
      run |= {'status': 'diverged', 'reason': 'the loss is not finite.'}
  board, (group,) = _judged(found)
  cell = board.cell('stingy', 'kd', 'cnn8')
  assert board.reason(cell) == 'seed 3 is diverged: the loss is not finite.'
  assert list(group.rows['stingy'].contests['cnn8'].gains) == ['hard_label']
  assert group.rows['stingy'].contests['cnn8'].chosen == 'hard_label'
  # What is left is below the margin; that of the lost one is not known.
  verdict = group.rows['stingy'].verdict
  assert (verdict.decision, verdict.missing) == ('open', ('kd',))
  assert 'kd without a result' in page.text(found)
  told = page.words.next_step(board, group)
  assert 'Against stingy an attack has no result' in told


def test_who_needs_a_network_that_failed_says_why_it_did():
  results = fabricated_arena.make_results({'none': {'kd': 80.0}}, CONTROLS)
  cell = results['measurements']['board']['cells'][-1]
  lost = cell['runs']['2']
  results['measurements']['hits']['test'].pop(lost)
  for run in results['runs']:
    if run['id'] == lost:
      run |= {
        'status': 'skipped',
        'reason': 'its parent teacher-1 did not finish',
        'parents': {'teacher': 'teacher-1'},
      }
  failed = {'status': 'diverged', 'reason': 'its answers are not finite'}
  parent = {**results['runs'][0], **failed, 'id': 'teacher-1', 'parents': {}}
  results['runs'].append(parent)
  board, (group,) = _judged(results)
  assert board.reason(board.cell('none', 'kd', 'cnn8')) == (
    'seed 2 is skipped, since a network that it needs diverged: its answers '
    'are not finite'
  )
  told = page.words.next_step(board, group)
  assert 'Against the unprotected network an attack has no result' in told


def test_a_top_class_that_moves_against_its_word_is_found():
  """Otherwise its thief would be shown as one who hears what it was before."""
  skills = {d: {'hard_label': 80.0} for d in ('none', 'mine')}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=9.0)
  plain, mine = results['measurements']['board']['cells'][-2:]
  mine |= {'shared': True, 'runs': plain['runs']}
  prices = results['measurements']['prices']['mine']
  _, (group,) = _judged(results)  # A near tie in 400 images.
  assert group.rows['mine'].verdict.decision == 'undistillable'
  prices['3']['flipped'] = 98.0
  board, (group,) = _judged(results)
  assert group.rows['mine'].verdict.missing == ('hard_label',)
  assert board.reason(mine).startswith('mine declares KEEPS_TOP, but its top ')
  assert group.rows['none'].verdict.decision == 'undistillable'


def test_a_student_without_a_control_leaves_the_verdict_open():
  results = fabricated_arena.make_results(
    {'none': {'kd': 80.0}}, CONTROLS, students=('cnn8', 'cnn4'), margin=4.0
  )
  _, (group,) = _judged(results)
  assert group.rows['none'].verdict.decision == 'undistillable'
  measured = results['measurements']
  for cell in measured['board']['cells']:
    if cell['defense'] is None and cell['student'] == 'cnn4':
      for run in cell['runs'].values():
        measured['hits']['val'].pop(run)
  _, (group,) = _judged(results)
  assert group.rows['none'].verdict.decision == 'open'
  assert 'kd without a result' in page.text(results)


def test_without_labels_the_control_is_a_guess_and_nothing_is_chosen():
  results = fabricated_arena.make_results(SKILLS, CONTROLS)
  for cell in results['measurements']['board']['cells']:
    if cell['defense']:
      cell['group'] = board_lib.FOREIGN
      for run in cell['runs'].values():
        results['measurements']['hits']['val'].pop(run)
  board, (group,) = _judged(results)
  assert group.name == board_lib.FOREIGN
  assert group.controls == {'cnn8': board_lib.GUESS}
  contest = group.rows['nasty'].contests['cnn8']
  assert contest.chosen is None
  cell = board.cell('nasty', 'kd', 'cnn8')
  np.testing.assert_allclose(
    contest.gains['kd'].points, 100 * board.test(cell).mean() - 10
  )
  assert group.rows['nasty'].verdict.level == 0.05 / 2
  assert group.rows['nasty'].verdict.decision == 'distillable'
  # Whoever decides, scores are compared with top classes.
  assert group.rows['nasty'].verdict.attack == 'hard_label'
  points = [
    100 * board.test(board.cell('nasty', name, 'cnn8')).mean()
    for name in ('kd', 'hard_label')
  ]
  np.testing.assert_allclose(
    group.rows['nasty'].score_value.points, points[0] - points[1]
  )


@pytest.fixture(scope='module')
def written(results, tmp_path_factory):
  folder = tmp_path_factory.mktemp('arena')
  page.write(results, folder, folder=folder, command='the command')
  return folder


def test_the_page_begins_with_the_verdict(written):
  text = (written / 'report.md').read_text()
  head = text.split('##')[0]
  assert 'Which defense holds on digits' in head
  assert '1 of 2 defenses leak' in head
  assert '1 undistillable against these attacks (nasty at −0.1 points' in head
  assert 'from the unprotected network a thief gains' in head
  for said in (
    'the command',
    'label\\_smoothing 0.1',
    '1,298',
    'margin | 2 points',
    'Of what holds, nasty costs least',
  ):
    assert said in text
  shown = (written / 'report.html').read_text()
  assert 'class="number strong gain">+' in shown
  assert 'class="number loss">−' in shown
  assert '<small>' in shown
  assert (written / 'figures/plane.png').stat().st_size > 5_000


def test_settings_stand_below_the_name_of_an_attack(tmp_path, monkeypatch):
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  skills = {d: {'kd:alphas=(0.1, 1.0)': 90.0} for d in ('none', 'nasty')}
  results = fabricated_arena.make_results(skills, CONTROLS)
  page.write(results, tmp_path, folder=tmp_path, command='')
  text = (tmp_path / 'report.html').read_text()
  assert '>kd<small>alphas=(0.1, 1.0)</small></th>' in text
  assert '>kd<small>cnn8, alphas=(0.1, 1.0)</small></td>' in text


def test_the_terminal_shows_the_same(results, written):
  told = page.text(results)
  sentence = told.splitlines()[-1]
  assert sentence in (written / 'report.html').read_text()
  assert 'undistillable against these attacks' in told


def test_where_nothing_is_gained_there_is_nothing_to_protect(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  skills = {d: {'kd': 80.0, 'hard_label': 80.0} for d in ('none', 'nasty')}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  page.write(results, tmp_path, folder=tmp_path, command='')
  text = (tmp_path / 'report.md').read_text()
  assert 'Here is nothing to protect' in text
  assert 'no thief gains as much as the margin' in text
  assert 'always right' not in text  # There is room for 14 points.


def _foreign(results, attack='kd'):
  """The same, with an attack by thieves who have foreign images."""
  for cell in results['measurements']['board']['cells']:
    if cell['defense'] and cell['attack'] == attack:
      cell['group'] = board_lib.FOREIGN
  return results


def test_what_other_thieves_gain_is_said_at_the_top(tmp_path, monkeypatch):
  """Nothing to protect from some is not nothing to protect."""
  drawn = []
  monkeypatch.setattr(
    draw, 'render', lambda shown, folder: drawn.append(shown) or []
  )
  skills = {d: {'kd': 80.0, 'hard_label': 80.0} for d in ('none', 'nasty')}
  results = _foreign(
    fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  )
  page.write(results, tmp_path, folder=tmp_path, command='')
  text = (tmp_path / 'report.md').read_text()
  assert 'Nothing to protect from thieves with labelled images' in text
  assert 'foreign images and no labels gain from 1 of 1.' in text
  assert 'Leaked share' in drawn[0].caption  # Of those who find something.
  board = board_lib.Board(results)
  told = page.words.audit(board)
  assert told.tone == 'bad'
  assert 'by thieves with foreign images' in told.headline
  with_labels, without = page.words.next_steps(board_lib.Board(results))
  assert with_labels.startswith('Thieves with labelled images of their own: ')
  assert 'on which there is more to steal' in with_labels
  assert without.startswith('Thieves with foreign images and no labels: ')
  assert 'Nothing here withholds what a thief can learn' in without


def test_where_no_gain_can_reach_the_margin_that_is_said():
  """A control at 98 % leaves less room than a margin of 3 points."""
  results = fabricated_arena.make_results(
    {'none': {'kd': 99.0}, 'nasty': {'kd': 99.0}},
    {'scratch': 99.0},
    margin=3.0,
  )
  board, (group,) = _judged(results)
  told = page.words.next_step(board, group)
  alone = group.alone['cnn8'].mean()
  assert f'would gain only +{100 * (1 - alone):.1f} points' in told


@pytest.mark.parametrize('seeds', [(2,), (2, 3)])
def test_with_few_seeds_all_is_open(seeds, tmp_path, monkeypatch):
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  results = fabricated_arena.make_results(
    SKILLS, CONTROLS, fresh_seeds=[*seeds]
  )
  _, (group,) = _judged(results)
  assert {r.verdict.decision for r in group.rows.values()} == {'open'}
  page.write(results, tmp_path, folder=tmp_path, command='')
  text = (tmp_path / 'report.md').read_text()
  assert 'Judge on at least 3 fresh seeds' in text


def test_a_control_without_a_result_is_named():
  """Gains over the others may be larger for it."""
  results = fabricated_arena.make_results({'none': {'kd': 90.0}}, CONTROLS)
  board, groups = _judged(results)
  shown = page._controls(board, groups[0])
  assert len(shown) == 2
  lost = next(c for c in board.cells if c['attack'] == 'scratch')
  results['measurements']['hits']['test'].pop(lost['runs']['3'])
  board, groups = _judged(results)
  note = page._controls(board, groups[0])[-1]
  assert note.text.endswith('not chosen from: scratch by cnn8.')


def test_what_a_thief_trains_on_the_way_is_part_of_his_effort():
  """Each network once, and none of the owner's."""
  results = fabricated_arena.make_results({'none': {'kd': 90.0}}, CONTROLS)
  run = next(r for r in results['runs'] if r['method'] == 'kd')
  alike = {'status': 'finished', 'seed': 0}
  first, second, owner = (
    {'id': i, 'role': role, 'epochs': epochs, 'parents': {}, **alike}
    for i, role, epochs in (
      ('a', 'helper', 7),
      ('b', 'helper', 20),
      ('c', 'teacher', 99),
    )
  )
  second['parents'] = {'teacher': 'a', 'other': 'c'}
  run['parents'] = {'teacher': 'c', 'link1': 'a', 'link2': 'b'}
  results['runs'] += [first, second, owner]
  board = board_lib.Board(results)
  assert page._effort(board, ['kd']) == '1, 30 epochs'
  assert page._effort(board, ['scratch']) == '1, 3 epochs'


def test_prices_are_compared_seed_by_seed(results):
  paid = board_lib.Board(results).paid
  np.testing.assert_allclose(paid.change['stingy']['brier'], 0.04)
  np.testing.assert_allclose(paid.change['stingy']['accuracy'], -0.2)
  np.testing.assert_allclose(paid.mean['none']['accuracy'], 96.96)
  assert paid.times['nasty'] == {'1': 2.0, '256': 2.0}


def test_a_seed_without_a_normal_network_has_no_prices():
  config = arena._main_config(_config())
  job = plan.Job(config, 1)
  # Of a defense without parents, which is there all the same.
  finished = {run for run in arena._owners(job)['nasty'] if run != job.normal}
  assert finished
  assert arena._served([job], finished) == {}
  assert arena._prices({}, None) == arena._latencies({}, None) == {}


def test_points_at_one_place_share_a_label():
  places = np.array([[0.5, 0.5], [0.1, 0.1], [0.13, 0.11], [0.16, 0.1]])
  assert plane.together(places) == [[0], [1, 2, 3]]
  assert plane.together(places[[1, 3, 0, 2]]) == [[0, 1, 3], [2]]


def test_the_front_is_of_those_that_nothing_beats_in_both():
  places = {
    'dear': (3.0, 1.0),
    'cheap': (0.0, 4.0),
    'beaten': (2.0, 4.0),
    'twin': (0.0, 5.0),
    'level': (4.0, 1.0),
  }
  assert plane.front(places) == ['cheap', 'dear']


def test_hits_are_those_that_the_runs_wrote():
  """Of a thief without labels there are none on held-out images."""
  job = arena.plan.Job(arena._main_config(_config()), 0)
  alone = job.control('mlp')
  smoothed = job.student('label_smoothing', 'mlp')
  labels = np.array([0, 1, 1, 0, 1])
  task = types.SimpleNamespace(
    train={'label': labels},
    test={'label': labels[:4]},
    val={'label': labels[:2]},
  )
  results = {
    alone: {'test_hits': '50', 'val_hits': '80'},
    smoothed: {'test_hits': 'f0'},
  }
  store = types.SimpleNamespace(result=results.__getitem__)
  assert arena._hits([alone, smoothed], task, store) == {
    'test': {alone.id: '50', smoothed.id: 'f0'},
    'val': {alone.id: '80'},
    'guess': evaluate.pack(np.array([False, True, True, False])),
    'numbers': {'test': 4, 'val': 2},
  }
  # Of nobody, where all of them have diverged.
  assert not arena._hits([], task, store)['test']


def test_its_rules_are_fixed_in_its_folder(tmp_path):
  """And in no other: experiments that do not read them share a workdir."""
  from undistillable import study

  chosen = experiment_of_it.EXPERIMENT
  for kind, fixed in ((chosen, True), (study.MAIN, False)):
    folder = tmp_path / str(fixed)
    folder.mkdir()
    content = study._own_config(_config(), kind, folder, False)
    disk.write_json(folder / 'config.json', content)
    other = _config(arena__margin=1.0)
    if fixed:
      with pytest.raises(errors.InputError, match=r'arena.margin: 2.0 there'):
        study._own_config(other, kind, folder, False)
    else:
      assert study._own_config(other, kind, folder, False) == content
