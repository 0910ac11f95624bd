"""The audit of one network: what it tries, and how it says what it found."""

import types

import config_files
import fabricated_arena
import pytest
from absl import flags

import undistillable
from undistillable import arena, audit, defenses, plan
from undistillable.report import (
  arena as page,
  arena_words as words,
  board as board_lib,
)

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
    (change,) = changes
    assert change(config_files.load('digits')).teacher.model == 'slim16'
  finally:
    for name in ('budget', 'model', 'weights'):
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
  sentence = audit.STUDY.text_fn(results).splitlines()[-1]
  assert told in sentence
  assert 'of 1 defense 1 is undistillable' in sentence
  audit.STUDY.report_fn(results, tmp_path, folder=tmp_path, command='typed')
  text = (tmp_path / 'report.md').read_text()
  assert text.startswith('# Can ')
  assert f'**{headline}' in text
  assert sentence in text
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
  known = f'is open ({group.none.seeds} fresh seeds would settle it): kd'
  assert known in words.audit(board).sentence
  told = words.next_step(board, group)
  assert told.endswith('settle the unprotected network.')
