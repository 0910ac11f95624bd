"""The audit of one network: what it tries, and how it says what it found."""

import types

import config_files
import fabricated_arena
import jax
import jax.numpy as jnp
import pytest
from absl import flags

import undistillable
from undistillable import (
  arena,
  audit,
  command,
  config as config_lib,
  defenses,
  errors,
  interop,
  models,
  study,
)
from undistillable.graph import plan
from undistillable.report import (
  arena as page,
  arena_words as words,
  board as board_lib,
  draw,
)
from undistillable.storage import disk

CONTROLS = {'scratch': 80.0, 'label_smoothing 0.1': 81.0}


def _small(**given):
  return audit.changed(config_files.load('digits'), 'small', **given)


def test_a_small_one_is_of_one_network_and_decides(tmp_path):
  weights = tmp_path / 'mine.safetensors'
  weights.touch()
  config = _small(weights=str(weights), model='mlp')
  planned = arena.plan_fn(config)
  (owner,) = (run for run in planned if run.role == 'teacher')
  assert (owner.model, owner.init_from) == ('mlp', str(weights))
  students = [run for run in planned if run.role == 'student']
  robbed = [run.parents for run in students if run.parents]
  assert robbed
  assert all(parents == {'teacher': owner} for parents in robbed)
  assert {run.model for run in students} == {'cnn8'}
  assert len(config.arena.fresh_seeds) >= 3  # Fewer settle nothing.


@pytest.mark.parametrize('name', ['cifar10', 'cifar100', 'tiny_imagenet'])
def test_a_small_one_is_planned_on_every_data_set(name):
  """Some distil at a temperature that the audit would have tried besides."""
  config = audit.changed(config_files.load(name), 'small')
  config.students = ('mlp',)
  config.teacher.model = 'mlp'
  tried = config.arena.attacks
  assert len(set(tried)) == len(tried) == 5
  assert arena.plan_fn(config)


def test_a_full_one_serves_every_defense_that_needs_no_training():
  config = audit.changed(config_files.load('digits'), 'full')
  names = set(config.arena.defenses)
  assert {'stingy', 'rounding', 'mad'} <= names
  assert not {'nasty', 'cmim'} & names
  assert all(defenses.get(name).make is None for name in names)


@pytest.mark.parametrize('name', ['digits', 'tiny_imagenet'])
def test_a_full_one_is_tried_by_every_kind_of_thief(name):
  """But by none with foreign images where the config names none."""
  given = config_files.load(name)
  config = audit.changed(given, 'full')
  config.arena.defenses = ()
  assert set(given.arena.attacks) < set(config.arena.attacks)
  planned = arena.plan_fn(config)
  kinds = {(run.access_to_data, run.access) for run in planned if run.parents}
  wanted = {('none', 'scores'), ('none', 'weights'), ('own', 'scores')}
  assert wanted <= kinds
  found = ('foreign', 'scores') in kinds
  assert found == bool(config.transfer) == (name == 'digits')


def test_what_the_command_line_sets_stays():
  config = plan.vary(
    config_files.load('digits'), {'arena.attacks': ('kd', 'my.thief')}
  )
  found = audit.changed(config, 'small', fixed=frozenset({'arena.attacks'}))
  assert found.arena.attacks == ('kd', 'my.thief')
  assert found.arena.epsilons == _small().arena.epsilons


def test_a_model_that_a_config_registers_may_be_named(monkeypatch):
  changes, parsed = [], flags.FLAGS.is_parsed()
  # The module defines flags that other commands have as well.
  main = types.SimpleNamespace(run=lambda *given: changes.extend(given[2:]))
  monkeypatch.setattr(undistillable, 'main', main, raising=False)
  audit._run()
  try:
    flags.FLAGS.mark_as_parsed()
    flags.FLAGS['model'].parse('slim16')
    flags.FLAGS['served'].parse('top_k:k=3')
    (change,) = changes
    found = change(config_files.load('digits'))
    assert found.teacher.model == 'slim16'
    assert found.arena.defenses == ('top_k:k=3',)
  finally:
    for name in ('answers', 'budget', 'model', 'served', 'weights'):
      delattr(flags.FLAGS, name)
    if not parsed:
      flags.FLAGS.unparse_flags()


def test_there_are_two_budgets():
  with pytest.raises(ValueError, match='expected small or full'):
    audit.changed(config_files.load('digits'), 'large')


@pytest.mark.parametrize(
  ('gain', 'headline', 'tone', 'told'),
  [
    (
      12.0,
      'It can be distilled',
      'bad',
      'is distillable: kd with cnn8 gains +',
    ),
    (
      -9.0,
      'Undistillable',
      'good',
      'is undistillable: kd with cnn8 gains −',
    ),
  ],
)
def test_the_first_sentence_is_the_verdict(
  gain, headline, tone, told, tmp_path
):
  skills = {'none': {'kd': 81.0 + gain}, 'stingy': {'kd': 70.0}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  results['measurements']['audited'] = 'none'
  sentence = audit.STUDY.text_fn(results).splitlines()[-1]
  assert told in sentence
  assert 'of 1 defense 1 is undistillable' in sentence
  audit.STUDY.report_fn(results, tmp_path, folder=tmp_path, command='typed')
  text = (tmp_path / 'report.md').read_text()
  assert text.startswith('# Can ')
  assert f'**{headline}' in text
  assert sentence in text
  del results['measurements']['audited']
  assert page.text(results).splitlines()[-1] != sentence


def test_a_network_that_knows_less_than_its_thief_is_not_called_safe():
  """As one whose weights are read with another normalization."""
  skills = {'none': {'kd': 20.0}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  board = board_lib.Board(results)
  assert words.audit(board).tone == 'good'
  assert words.conclusion(board) == words.audit(board)  # Of no defense.
  (group,) = board.groups
  assert page._verdict_table(board, group).marks == {(0, 1): 'loss'}
  for numbers in results['measurements']['prices']['none'].values():
    numbers['accuracy'] = 9.0
  board = board_lib.Board(results)
  assert not page._verdict_table(board, board.groups[0]).marks
  found = words.audit(board)
  assert (found.headline, found.tone) == ('It has little to give', 'open')
  assert (
    'right about 9.0 % of the test images, and a thief who' in found.sentence
  )
  assert 'config.normalization' in found.sentence


def test_an_open_one_says_how_many_seeds_would_settle_it():
  skills = {'none': {'kd': 81.2}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=1.2)
  board = board_lib.Board(results)
  (group,) = board.groups
  known = (
    'it is open whether this network can be distilled '
    f'({group.none.seeds} fresh seeds would settle it): kd'
  )
  assert known in words.audit(board).sentence
  told = words.next_step(board, group)
  assert told.endswith('settle the unprotected network.')


def test_what_serves_the_network_is_tried_first():
  bare, served = _small(), _small(served='top_k:k=3')
  assert served.arena.defenses == ('top_k:k=3',)
  assert served.arena.attacks == bare.arena.attacks
  full = audit.changed(config_files.load('digits'), 'full', served='top_k:k=3')
  first, *others = full.arena.defenses
  assert first == 'top_k:k=3'
  assert 'top_k' not in others
  assert {'stingy', 'mad'} <= set(others)
  config_lib.check(full)


def test_without_it_an_audit_has_the_config_that_it_had():
  """Or the workdirs of those that were begun would take no other command."""
  assert 'audit' not in _small()
  assert _small(served='stingy').audit.served == 'stingy'


def test_what_the_command_line_sets_is_served_besides():
  config = plan.vary(
    config_files.load('digits'), {'arena.defenses': ('stingy', 'top_k')}
  )
  fixed = frozenset({'arena.defenses'})
  given = audit.changed(config, 'small', served='top_k:k=3', fixed=fixed)
  assert given.arena.defenses == ('top_k:k=3', 'stingy', 'top_k')
  same = audit.changed(config, 'small', served='top_k', fixed=fixed)
  assert same.arena.defenses == ('top_k', 'stingy')


@pytest.mark.parametrize(
  ('served', 'message'),
  [
    ('stingyy', "unknown defense 'stingyy'; those that serve .* stingy, top_k"),
    ('', "unknown defense ''"),
    ('none', 'is the network itself, as without the flag'),
    ('nasty', 'nasty trains the network itself; give the weights'),
    ('nasty:omega=0.1', '^--served=nasty: nasty trains the network itself'),
    ('decoy', 'decoy answers by what it trains beside the network'),
    ('modelguard_s', 'arena.defenses=\'."modelguard_s",.\' trains it anew'),
    ('undistillable.defenses.sdb_keyed', 'sdb_keyed answers by what it trains'),
    ('no.such', "the defense 'no.such' cannot be imported"),
  ],
)
def test_only_what_trains_nothing_can_serve(served, message):
  with pytest.raises(errors.InputError, match=message):
    _small(served=served)


@pytest.mark.parametrize(
  ('served', 'message'),
  [
    ('top_k:kk=3', "top_k has no setting 'kk'; known: k"),
    ('top_k:k=0', 'k=0'),
    ('top_k:k', "'top_k:k'; expected a name, or name:field=value"),
  ],
)
def test_a_mistake_in_its_settings_is_said(served, message):
  with pytest.raises(errors.InputError, match=message):
    arena.plan_fn(_small(served=served))


def test_a_wrapper_of_ones_own_is_found_on_the_command_line():
  typed = ['--served=my_package.my_wrapper:share=0.5', '--budget=small']
  assert command._own_methods(typed) == ['my_package.my_wrapper']
  assert command._own_methods(['--served', 'a.b', '--model=cnn8']) == ['a.b']
  assert not command._own_methods(['--served=top_k:k=3'])


def _served(monkeypatch, tmp_path, none, served, name='top_k:k=3', **rest):
  """Board and report.md of a network of which a thief comes to so much."""
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  skills = {'none': {'kd': none}, name: {'kd': served}, **rest}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=1.0)
  results['measurements']['audited'] = name
  audit.STUDY.report_fn(results, tmp_path, folder=tmp_path, command='typed')
  last = audit.STUDY.text_fn(results).splitlines()[-1]
  board = board_lib.Board(results)
  assert last == words.audit(board).sentence
  return board, (tmp_path / 'report.md').read_text().replace('\\', '')


@pytest.mark.parametrize(
  ('served', 'headline', 'tone', 'told', 'step'),
  [
    (
      91.0,
      'It can be distilled behind top_k (k=3)',
      'bad',
      'is distillable: kd with cnn8 gains +',
      'tries every other defense that can be served',
    ),
    (
      72.0,
      'Undistillable behind top_k (k=3) against these attacks',
      'good',
      'is undistillable: kd with cnn8 gains −',
      'attacks that were made for top_k (k=3), before it is relied upon',
    ),
    (
      81.0,
      'Not yet decided behind top_k (k=3)',
      'open',
      'can be distilled (',
      'settle this network.',
    ),
  ],
)
def test_the_verdict_is_on_the_network_as_it_is_served(
  served, headline, tone, told, step, tmp_path, monkeypatch
):
  board, text = _served(monkeypatch, tmp_path, 93.0, served)
  assert text.startswith('# Can this network, served behind top_k (k=3), be st')
  assert f'**{headline}.** Against 1 attack by' in text
  assert words.audit(board).tone == tone
  assert f'this network, served behind top_k (k=3), {told}' in text
  without = 'Without top_k (k=3) it is distillable'
  as_well = ', too' if tone == 'bad' else ''
  assert f'{without}{as_well} (+' in text
  assert 'its accuracy by −0.1 points and its Brier score' in text
  assert 'by +0.020.' in text
  assert 'Below, none is this network itself' in text
  assert '| none | distillable' in text  # The reference.
  next_one = text.split('## What to do next')[1].split('##')[0]
  assert step in next_one
  assert 'unprotected' not in next_one


def test_what_is_not_needed_is_said(tmp_path, monkeypatch):
  """The bare network gives as little, and its price is none."""
  _, text = _served(monkeypatch, tmp_path, 72.0, 71.0)
  assert 'Without top_k (k=3) it is undistillable, too (−' in text
  assert 'Nobody gains here without top_k (k=3) either.' in text


def test_another_defense_that_holds_is_named(tmp_path, monkeypatch):
  _, text = _served(
    monkeypatch, tmp_path, 93.0, 92.0, stingy={'kd': 72.0}, mad={'kd': 92.0}
  )
  assert 'of 2 other defenses 1 is undistillable against them (sti' in text
  assert 'Of what holds, stingy costs least' in text


def test_a_network_that_is_ruined_by_what_serves_it_is_not_called_safe():
  skills = {'none': {'kd': 90.0}, 'stingy': {'kd': 20.0}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  results['measurements']['audited'] = 'stingy'
  assert words.audit(board_lib.Board(results)).tone == 'good'
  for numbers in results['measurements']['prices']['stingy'].values():
    numbers['accuracy'] = 9.0
  board = board_lib.Board(results)
  found = words.audit(board)
  assert found.headline == 'It has little to give behind stingy'
  assert found.tone == 'open'
  assert found.sentence.endswith('Without stingy it is right about 97.0 %.')
  assert 'normalization' not in found.sentence
  marks = page._verdict_table(board, board.groups[0]).marks
  assert marks == {(0, 1): 'gain'}


def test_who_has_the_weights_does_not_meet_what_serves_them():
  """He is told of, and decides nothing of what clients are answered."""
  skills = {name: {'kd': 72.0, 'fast': 60.0} for name in ('none', 'stingy')}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  for cell in results['measurements']['board']['cells']:
    if cell['attack'] == 'fast':
      cell['group'] = board_lib.WEIGHTS
  bare = words.audit(board_lib.Board(results))
  assert bare.headline == 'It can be distilled by thieves who have the weights'
  results['measurements']['audited'] = 'stingy'
  board = board_lib.Board(results)
  found = words.audit(board)
  assert found.tone == 'good'
  assert found.sentence.endswith(
    'Thieves who have the weights gain from it, and never meet stingy.'
  )
  _, told = words.next_steps(board)
  assert 'stands before the weights: keep them to yourself' in told


@pytest.mark.parametrize(('served', 'robbed'), [(60.0, True), (5.0, False)])
def test_what_other_thieves_gain_is_of_the_network_as_it_is_served(
  served, robbed
):
  skills = {
    name: {'kd': 72.0, 'knockoff': comes_to}
    for name, comes_to in (('none', 60.0), ('stingy', served))
  }
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  for cell in results['measurements']['board']['cells']:
    if cell['attack'] == 'knockoff':
      cell['group'] = board_lib.FOREIGN
  results['measurements']['audited'] = 'stingy'
  found = words.audit(board_lib.Board(results))
  assert found.tone == ('bad' if robbed else 'good')
  assert found.sentence.endswith('gain from it.') == robbed
  told = 'It can be distilled behind stingy by thieves with foreign images'
  assert found.headline.startswith(told) == robbed


def test_weights_that_were_protected_are_not_called_unprotected():
  """Those of a nasty network, say: of them alone the audit speaks."""
  skills = {'none': {'kd': 81.2}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=1.2)
  results['measurements']['audited'] = 'none'
  board = board_lib.Board(results)
  found = words.audit(board)
  assert 'it is open whether this network can be' in found.sentence
  assert 'protected already or not' in found.details[0].text
  (told,) = words.next_steps(board)
  assert told.endswith('settle this network.')
  skills = {'none': {'kd': 72.0}, 'stingy': {'kd': 71.0}}
  results = fabricated_arena.make_results(skills, CONTROLS, margin=2.0)
  results['measurements']['audited'] = 'none'
  (told,) = words.next_steps(board_lib.Board(results))
  assert told.startswith('Let it meet more students, and attacks that were m')


WRAPPER = """
import dataclasses
from undistillable.defenses import top_k

PARENTS = ('normal',)
make = None


@dataclasses.dataclass(frozen=True)
class Settings:
  kept: int = 1


def serve(query, settings):
  return top_k.serve(query, top_k.Settings(settings.kept))
"""


@pytest.mark.whole
def test_a_served_network_is_audited_end_to_end(tmp_path, monkeypatch):
  """Weights of a file, behind a module of one's own with its settings."""
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  monkeypatch.setattr(config_lib, '_OWN', {})
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'my_servers').mkdir()
  (tmp_path / 'my_servers' / 'keeps.py').write_text(WRAPPER)
  network = models.get_model('mlp', num_classes=10)
  variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  weights = tmp_path / 'mine.safetensors'
  interop.save(weights, interop.to_torch('mlp', variables))
  name, served = 'my_servers.keeps', 'my_servers.keeps:kept=2'
  config_lib.know(name)  # As the command line does.
  tiny = {
    'students': ('mlp',),
    'limit': 200,
    'progress': False,
    'data_dir': str(tmp_path / 'data'),
    'recipe.epochs': 1,
    'arena.attacks': ('kd',),
    'arena.epsilons': (),
    'arena.fresh_seeds': (1,),
  }
  config = audit.changed(
    plan.vary(config_files.load('digits'), tiny),
    'small',
    model='mlp',
    weights=str(weights),
    served=served,
    fixed=frozenset(tiny),
  )
  work = tmp_path / 'work'
  results = study.run(config, work, study=audit.STUDY, command='typed')
  found = results['measurements']
  assert found['audited'] == 'keeps:kept=2'
  assert found['board']['owners'] == ['none', 'keeps:kept=2']
  prices = found['prices']
  assert prices['none']['1']['l1'] == 0 < prices['keeps:kept=2']['1']['l1']
  owners = {
    run['method']: run for run in results['runs'] if run['role'] == 'teacher'
  }
  assert owners['keeps']['config']['settings'] == {'kept': 2}
  text = (work / 'audit' / 'report.md').read_text()
  assert text.startswith('# Can this network, served behind keeps (kept=2), be')
  assert 'Without keeps (kept=2) it is ' in text
  (kept,) = (work / 'audit').glob('config.json')
  assert disk.read_json(kept)['audit'] == {'served': served}


def test_an_audit_says_which_row_it_is_about(monkeypatch):
  """Of several defenses that of the flag; without it none of them."""
  prices = {'none': {}, 'stingy': {}}
  numbers = {'board': {'owners': ['none', 'stingy', 'mad']}, 'prices': prices}
  monkeypatch.setattr(arena, 'measure_fn', lambda *given: numbers)
  assert audit._measure(_small(served='stingy'))['audited'] == 'stingy'
  assert audit._measure(_small())['audited'] == 'none'


def test_a_network_that_cannot_be_judged_is_not_audited(monkeypatch):
  """One behind a wrapper that answers NaN, say: with the reason it has."""
  numbers = {
    'board': {'owners': ['none', 'stingy', 'mad']},
    'prices': {'none': {}, 'mad': {}},
  }
  monkeypatch.setattr(arena, 'measure_fn', lambda *given: numbers)
  results = {'stingy': {'reason': 'its answers are not finite'}, 'none': None}
  store = types.SimpleNamespace(result=lambda run: results[run.method])
  with pytest.raises(errors.DivergedError, match='audit: its answers are not'):
    audit._measure(_small(served='stingy'), [], store, None)
  assert audit._measure(_small(), [], store, None)['audited'] == 'none'
  del numbers['prices']['none']
  with pytest.raises(errors.DivergedError, match='none has not been judged'):
    audit._measure(_small(), [], store, None)
