"""Every experiment runs, shares what others need, and survives a divergence."""

import shutil

import config_files
import numpy as np
import PIL.Image
import pytest

import experiments
from experiments import (
  __main__ as listing,
  claims,
  estimate,
  experiment as experiment_lib,
  records,
  scorecard,
)
from undistillable import command, errors, study
from undistillable.graph import execute, plan, store as store_lib
from undistillable.report import draw
from undistillable.storage import disk

pytestmark = pytest.mark.usefixtures('decoded_once')


def _config(name='digits'):
  return config_files.load(name)


def _small(data_dir, **changes):
  """Digits with the least that every experiment can be run on."""
  small = {
    'data_dir': str(data_dir),
    'teacher.model': 'mlp',
    'students': ('mlp',),
    'seeds': (0,),
    'progress': False,
    'limit': 200,
    'recipe.epochs': 1,
    'recipe.learning_rate': 0.01,
    'grid.teachers': ('mlp',),
    'grid.students': ('mlp',),
    'grid.stronger_students': ('cnn8',),
    'grid.adversaries': ('cnn8',),
    'grid.omegas': (0.0, 0.05),
    'grid.balances': (0.5, 2.0),
    'grid.temperatures': (1.0, 8.0),
    'grid.alphas': (0.5, 0.9),
    'grid.fractions': (0.5, 1.0),
    'arena.defenses': ('stingy',),
    'arena.attacks': ('kd',),
    'arena.epsilons': (),
    'arena.choose_seeds': (0,),
    'arena.fresh_seeds': (1, 2),
    'grid.data_free_teacher': 'cnn8',
    'grid.data_free_student': 'mlp',
    'grid.data_free_attacks': ('dafl', 'adaptive_inversion'),
    'recipes.dafl.epochs': 1,
    'recipes.dafl.steps_per_epoch': 2,
    'recipes.dafl.batch_size': 32,
    'deep_inversion.num_images': 64,
    'adaptive_inversion.num_images': 64,
    'recipes.deep_inversion.epochs': 2,
    'recipes.deep_inversion.batch_size': 32,
    'recipes.adaptive_inversion.epochs': 2,
    'recipes.adaptive_inversion.batch_size': 32,
    'recipes.made_up.epochs': 1,
  }
  return plan.vary(_config(), small | changes)


def _run(name, config, workdir):
  chosen = experiment_lib.load(name)
  return study.run(config, workdir, study=chosen, command=f'run {name}')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """What all experiments have been run with."""
  return _small(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, config):
  """Where all experiments have been run."""
  workdir = tmp_path_factory.mktemp('experiments')
  for name in experiments.NAMES:
    _run(name, config, workdir)
  return workdir


@pytest.mark.whole
@pytest.mark.parametrize('name', experiments.NAMES)
def test_it_leaves_results_and_a_report(workdir, name):
  results = disk.read_json(workdir / name / 'results.json')
  assert {run['status'] for run in results['runs']} == {'finished'}
  assert results['study'] == name
  report = (workdir / name / 'report.md').read_text()
  assert f'run {name}' in report
  figures = list((workdir / name / 'figures').glob('*.png'))
  assert figures
  assert all(figure.stat().st_size > 5000 for figure in figures)
  for figure in figures:
    assert f'figures/{figure.name}' in report
  for verdict in claims.judge({name: results}, name):
    assert verdict.text in report
    assert verdict.status in report


@pytest.mark.whole
def test_what_two_experiments_need_is_trained_once(workdir):
  needed = [
    run['id']
    for name in experiments.NAMES
    for run in disk.read_json(workdir / name / 'results.json')['runs']
  ]
  trained = {path.name for path in (workdir / 'runs').iterdir()}
  assert set(needed) == trained
  assert len(needed) > 1.5 * len(trained)


@pytest.mark.whole
def test_the_scorecard_reads_what_was_run(workdir, tmp_path):
  text = scorecard.scorecard([workdir])
  rows = [line for line in text.splitlines() if line.startswith('| ')]
  assert len(rows) == 2 + len(claims.CLAIMS)
  assert '**digits**: ' in text
  assert text.count('(one seed)') == text.count('holds |') + text.count(
    'fails |'
  )
  with pytest.raises(errors.InputError, match='has no results of an exper'):
    scorecard.scorecard([tmp_path])


@pytest.mark.whole
def test_the_main_job_stands_for_the_main_table(workdir, tmp_path):
  shutil.copy(workdir / 'main_table' / 'results.json', tmp_path)
  (own,) = scorecard.read(tmp_path).items()
  assert own == ('main_table', scorecard.read(workdir)['main_table'])


@pytest.mark.parametrize('name', ['digits_arena', 'growth', 'step'])
def test_a_scorecard_of_what_is_no_experiment_is_refused(name):
  with pytest.raises(errors.InputError, match='no results of an experiment'):
    scorecard.read(records.RESULTS / name)


def test_a_scorecard_of_damaged_results_is_refused(tmp_path):
  folder = tmp_path / 'omega'
  folder.mkdir()
  disk.sign(folder, [], {'results.json': b'{"runs": [5]}'})
  (folder / 'results.json').write_bytes(b'{"runs": [4]}')
  with pytest.raises(errors.InputError, match='omega/results.json is damaged;'):
    scorecard.read(tmp_path)


@pytest.mark.whole
def test_theft_without_data_sees_none(workdir, config, tmp_path, monkeypatch):
  """Whatever the owner's images are, what is stolen is the same."""
  planned = experiment_lib.load('data_free').plan_fn(config)
  thefts = [run for run in planned if run.num_made]
  assert {run.role for run in thefts} == {'images', 'student'}
  shutil.copytree(workdir / 'runs', tmp_path / 'runs')
  for run in thefts:
    shutil.rmtree(tmp_path / 'runs' / run.id)
  load = store_lib.load_task

  def without_data(*args):
    task = load(*args)
    blank = {key: np.zeros_like(value) for key, value in task.train.items()}
    return task._replace(train=blank, val=blank)

  monkeypatch.setattr(store_lib, 'load_task', without_data)
  store = store_lib.Store(tmp_path, config.data_dir)
  trained = store_lib.Store(workdir, config.data_dir)
  for run in thefts:
    (found,) = execute.run_group([run], store)
    before = trained.result(run)
    for key in found.keys() - {'environment', 'seconds'}:
      assert found[key] == before[key], (run.label, key)
    if run.role == 'images':
      images = [
        np.asarray(PIL.Image.open(place / 'runs' / run.id / 'images.png'))
        for place in (workdir, tmp_path)
      ]
      np.testing.assert_array_equal(*images)


@pytest.mark.whole
def test_an_experiment_of_another_config_keeps_its_runs_apart(workdir):
  other = _small('elsewhere', **{'kd.alpha': 0.3})
  with pytest.raises(errors.InputError, match='holds the runs of another conf'):
    _run('main_table', other, workdir)


@pytest.mark.whole
def test_a_run_that_diverges_is_recorded_and_the_others_go_on(
  tmp_path, monkeypatch
):
  config = _small(
    tmp_path / 'data',
    **{
      'limit': None,
      'grid.omegas': (0.0, 0.05, 1e9),
      'recipe.epochs': 3,
      'recipe.optimizer': 'sgd',
      'recipe.learning_rate': 1.0,
    },
  )
  results = _run('omega', config, tmp_path / 'work')
  status = {
    (run['role'], run['config']['settings'].get('omega')): run['status']
    for run in results['runs']
    if run['role'] == 'teacher'
  }
  assert status['teacher', 0.05] == status['teacher', None] == 'finished'
  assert status['teacher', 1e9] == 'diverged'
  skipped = [run for run in results['runs'] if run['status'] == 'skipped']
  assert [run['method'] for run in skipped] == ['kd']
  assert any('is diverged' in note for note in results['summary']['notes'])
  assert 'is diverged' in (tmp_path / 'work/omega/report.md').read_text()

  def never(*_):
    raise AssertionError('what diverged would do so again')

  monkeypatch.setattr(execute, 'run_group', never)
  # They were drawn above.
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  assert _run('omega', config, tmp_path / 'work')['runs'] == results['runs']


@pytest.mark.parametrize('name', experiments.NAMES)
@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100', 'tiny_imagenet'])
def test_it_plans_on_every_data_set(name, dataset):
  """On digits each has been run."""
  two = {'arena.choose_seeds': (0,), 'arena.fresh_seeds': (1,)}
  config = plan.vary(_config(dataset), two)
  planned = experiment_lib.load(name).plan_fn(config)
  ids = [run.id for run in planned]
  assert len(set(ids)) == len(ids)
  for index, run in enumerate(planned):
    assert {parent.id for parent in run.parents.values()} <= set(ids[:index])


def test_adaptive_images_come_before_the_student_that_learns_from_them():
  changes = {'grid.data_free_attacks': ('adaptive_inversion',)}
  config = plan.vary(_config(), changes)
  planned = experiment_lib.load('data_free').plan_fn(config)
  for index, run in enumerate(planned):
    assert set(run.parents.values()) <= set(planned[:index])


def test_an_ablation_varies_what_it_is_named_after():
  config = _config()
  planned = experiment_lib.load('temperature').plan_fn(config)
  found = {run.settings['temperature'] for run in planned if run.method == 'kd'}
  assert found == set(config.grid.temperatures)
  owners = [run for run in planned if run.method == 'nasty']
  assert {run.settings['temperature'] for run in owners} == {
    config.nasty.temperature
  }
  planned = experiment_lib.load('fraction').plan_fn(config)
  assert {
    r.learns_from['fraction'] for r in planned if r.role == 'teacher'
  } == {1.0}
  found = {r.learns_from['fraction'] for r in planned if r.role == 'student'}
  assert found == set(config.grid.fractions)


def test_the_estimate_counts_the_steps_that_are_taken(tmp_path):
  for run in plan.make(_small(tmp_path, fraction=0.5)):
    store = store_lib.Store(tmp_path, str(tmp_path))
    assert estimate.num_steps(run) == store.num_steps(run)


def test_twice_the_work_takes_twice_the_time(tmp_path):
  def secs(epochs):
    runs = plan.make(_small(tmp_path, **{'recipe.epochs': epochs}))
    speed = estimate.Speed(1e-6, 1e-6, 1e-6)
    return estimate.seconds(runs, speed, together=4)

  assert secs(200) / secs(100) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize('part', estimate.Speed._fields)
def test_every_part_of_a_network_takes_its_time(part, tmp_path):
  runs = plan.make(_small(tmp_path, students=('mobilenetv2',)))
  at_once = estimate.Speed(0.0, 0.0, 0.0)
  slow = at_once._replace(**{part: 1e-6})
  least, more = (estimate.seconds(runs, s, together=4) for s in (at_once, slow))
  assert more > least > 0


def test_the_command_lists_them(monkeypatch, capsys):
  monkeypatch.setattr(command, 'config', lambda: _small('nowhere'))
  # Other tests of this process look at logs.
  monkeypatch.setattr(listing.logging, 'set_verbosity', lambda level: None)
  listing.main()
  said = capsys.readouterr().out
  for name in experiments.NAMES:
    assert f'\n{name} ' in said
  assert 'networks, about' in said
