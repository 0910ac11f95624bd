"""The configs: the article's settings, and what its code does otherwise."""

import config_files
import ml_collections
import pytest

from experiments import estimate
from undistillable import arena, attacks, defenses
from undistillable.graph import plan

ARTICLE = ('cifar10', 'cifar100', 'tiny_imagenet')


def _flat(config, prefix=''):
  """{dotted name: value}."""
  found = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      found |= _flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


@pytest.mark.parametrize(
  ('name', 'omega', 'temperature', 'epochs', 'milestones', 'gamma'),
  [
    ('cifar10', 0.004, 4.0, 160, (80, 120), 0.1),
    ('cifar100', 0.005, 20.0, 200, (60, 120, 160), 0.2),
    ('tiny_imagenet', 0.01, 20.0, 200, (60, 120, 160), 0.2),
  ],
)
def test_the_article_is_the_default(
  name, omega, temperature, epochs, milestones, gamma
):
  config = config_files.load(name, 'article')
  assert config.nasty.omega == omega
  assert config.nasty.temperature == temperature
  assert config.kd.temperature == temperature
  assert config.kd.alpha == 0.9
  recipe = plan.recipe_of(config, 'resnet18')
  assert recipe['epochs'] == epochs
  assert recipe['milestones'] == milestones
  assert recipe['gamma'] == gamma
  assert (recipe['optimizer'], recipe['learning_rate']) == ('sgd', 0.1)
  assert (recipe['momentum'], recipe['weight_decay']) == (0.9, 5e-4)
  assert recipe['batch_size'] == 128


def test_the_small_network_learns_with_adam():
  recipe = plan.recipe_of(config_files.load('cifar10', 'article'), 'cnn')
  assert (recipe['optimizer'], recipe['learning_rate']) == ('adam', 1e-3)
  assert (recipe['epochs'], recipe['schedule']) == (100, 'constant')
  assert recipe['weight_decay'] == 0.0


@pytest.mark.parametrize(
  ('name', 'changed'),
  [
    ('cifar10', {'nasty.omega': 0.04, 'nasty_head.omega': 0.04}),
    ('cifar100', {'normalization': 'cifar10'}),
    ('tiny_imagenet', {}),
  ],
)
def test_the_released_code_differs_in_what_is_named(name, changed):
  article = _flat(config_files.load(name, 'article'))
  released = _flat(config_files.load(name, 'released'))
  found = {k: v for k, v in released.items() if v != article[k]}
  students = tuple(s for s in article['students'] if s != 'resnet18')
  common = {'students': students, 'seeds': (0,), 'val_fraction': 0.0}
  assert found == common | changed


@pytest.mark.parametrize('name', ARTICLE)
@pytest.mark.parametrize('preset', ['article', 'released', 'smoke'])
def test_every_preset_plans(name, preset):
  config = config_files.load(name, preset)
  per_seed = 2 + 3 * len(config.students)
  assert len(plan.make(config)) == per_seed * len(config.seeds)


@pytest.mark.parametrize('name', ARTICLE)
def test_a_smoke_test_is_of_five_networks_an_epoch_and_few_images(name):
  planned = plan.make(config_files.load(name, 'smoke'))
  assert [run.role for run in planned] == 2 * ['teacher'] + 3 * ['student']
  assert len({run.model for run in planned[2:]}) == 1
  assert {run.recipe['epochs'] for run in planned} == {1}
  assert max(run.learns_from['limit'] for run in planned) <= 64


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_every_method_plans_for_a_teacher_with_a_warm_up(name):
  config = config_files.load(name, 'fast')
  config.students = (config.teacher.model,)
  for defense in defenses.DEFENSES:
    plan.make(plan.vary(config, {'defenses': (defense,)}))
  # A served defense, since some thieves undo what is done to the scores.
  served = plan.vary(config, {'defenses': ('reverse_sigmoid',)})
  for attack in attacks.ATTACKS:
    plan.make(plan.vary(served, {'attacks': (attack,)}))


@pytest.mark.parametrize(
  'name, preset',
  [
    *((name, preset) for name in ARTICLE for preset in ('article', 'smoke')),
    *(('cifar10', preset) for preset in ('fast', 'arena', 'tenth')),
    ('cifar100', 'fast'),
    ('digits', None),
    ('digits', 'tenth'),
  ],
)
def test_no_method_waits_for_longer_than_it_learns(name, preset):
  config = config_files.load(name, *([preset] if preset else []))
  config.students = (*config.students, config.teacher.model)
  config.defenses, config.attacks = ('cmim',), ('skeptical', 'dkd')
  config.seeds = config.seeds[:1]
  waiting = {'cmim': 'delay_steps', 'skeptical': 'delay_steps'}
  if preset != 'smoke':
    waiting['dkd'] = 'warmup_steps'
  for run in plan.make(config):
    if run.method in waiting:
      assert run.settings[waiting[run.method]] < estimate.num_steps(run)


@pytest.mark.parametrize('name', ARTICLE)
@pytest.mark.parametrize('preset', ['article', 'released'])
def test_a_nasty_last_layer_has_the_settings_of_the_data_set(name, preset):
  config = config_files.load(name, preset)
  for field in ('omega', 'temperature'):
    assert config.nasty_head[field] == config.nasty[field]


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_images_are_not_made_with_the_recipe_of_their_teacher(name):
  config = config_files.load(name, 'fast')
  for method in ('deep_inversion', 'adaptive_inversion'):
    recipe = plan.recipe_of(config, config.teacher.model, method)
    assert (recipe['warmup_epochs'], recipe['momentum']) == (0, 0.9)


def test_the_arena_of_thieves_without_images_plans():
  planned = arena.plan_fn(config_files.load('digits', 'without_images'))
  assert {run.method for run in planned} >= {'dafl', 'dfme', 'fast', 'maze'}


def test_an_unknown_preset_is_named():
  with pytest.raises(ValueError, match="unknown preset 'paper'; known: artic"):
    config_files.load('cifar10', 'paper')
