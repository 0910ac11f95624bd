"""The main job on a shrunken config: what is trained, kept, said, refused."""

import concurrent.futures
import dataclasses
import errno
import importlib
import inspect
import itertools
import json
import linecache
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading
import types

import config_files
import damage
import flax.linen as nn
import jax
import ml_collections
import numpy as np
import orbax.checkpoint
import pytest
from absl import flags
from ml_collections import config_flags

from undistillable import (
  attacks,
  config as config_lib,
  data,
  defenses,
  errors,
  interop,
  losses,
  method as method_lib,
  models,
  status,
  study,
)
from undistillable.graph import (
  execute,
  plan as plan_lib,
  programs,
  store as store_lib,
)
from undistillable.report import draw
from undistillable.storage import disk, lease
from undistillable.training import evaluate, train, writers

pytestmark = pytest.mark.usefixtures('decoded_once')
# What `_config` has instead of this is quicker to compile.
CNN = {'teacher.model': 'cnn8', 'students': ('cnn8',)}


def _config(name='digits', **changes):
  """A config as the command line reads it, shrunk to seconds."""
  config = config_files.load(name)
  config.lock()
  small = {
    'teacher.model': 'mlp',
    'students': ('mlp',),
    'seeds': (0,),
    'progress': False,
    'recipe.epochs': 1,
    'limit': 200,
    'max_accuracy_drop': 100.0,
  }
  config.update_from_flattened_dict(small | changes)
  return config


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def done(tmp_path_factory, data_dir):
  """A finished study, and its workdir."""
  workdir = tmp_path_factory.mktemp('study')
  config = _config(data_dir=data_dir, **CNN)
  return study.run(config, workdir, command='the command'), workdir, config


@pytest.fixture
def no_figures(monkeypatch):
  """Reports without their figures, which take longer than a tiny training."""
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])


def test_a_run_keeps_which_images_it_is_right_about(done):
  """Beside its accuracy, and out of the table of all runs."""
  results, workdir, config = done
  store = store_lib.Store(workdir, config.data_dir)
  for entry in results['runs']:
    assert not {'test_hits', 'val_hits'} & entry.keys()
    path = workdir / 'runs' / entry['id'] / 'result.json'
    result = disk.read_json(path)
    task = store.task(entry['config']['judged_on'])
    for part in ('test', 'val'):
      number = len(getattr(task, part)['label'])
      hits = evaluate.unpack(result[f'{part}_hits'], number)
      np.testing.assert_allclose(100 * hits.mean(), result[f'{part}_accuracy'])


def test_the_main_job_trains_every_version(done):
  results, workdir, _ = done
  found = [(run['role'], run['method']) for run in results['runs']]
  assert found == [
    ('teacher', 'none'),
    ('teacher', 'nasty'),
    ('student', 'scratch'),
    ('student', 'kd'),
    ('student', 'kd'),
  ]
  normal, nasty, scratch, kd_normal, kd_nasty = results['runs']
  links = [
    (run['parents'], run['teacher'], run['control'], run['normal'])
    for run in results['runs']
  ]
  one, two, alone = normal['id'], nasty['id'], scratch['id']
  assert links == [
    ({}, None, None, None),
    ({'adversary': one}, None, None, one),
    ({}, None, None, None),
    ({'teacher': one}, one, alone, None),
    ({'teacher': two}, two, alone, kd_normal['id']),
  ]
  assert kd_nasty['seed'] == kd_normal['seed']
  for run in results['runs']:
    assert 0 <= run['test_accuracy'] <= 100
    assert {
      'id',
      'model',
      'dataset',
      'seed',
      'epochs',
      'seconds',
      'config',
    } <= (run.keys())
    assert (workdir / 'runs' / run['id'] / 'metrics.jsonl').exists()
    assert list((workdir / 'runs' / run['id'] / 'tensorboard').iterdir())
  assert json.loads((workdir / 'results.json').read_text()) == results
  assert results['environment']['jax'] == jax.__version__


def test_the_report_is_written(done):
  _, workdir, _ = done
  for name in ('accuracy', 'logits', 'curves'):
    assert (workdir / 'figures' / f'{name}.png').stat().st_size > 1000
  assert 'the command' in (workdir / 'report.md').read_text()
  assert (workdir / 'report.html').read_text().startswith('<!doctype html>')


def test_test_accuracy_is_that_of_the_checkpoint(done, data_dir):
  """The number in the report can be had again from the stored network."""
  results, workdir, config = done
  nasty = plan_lib.make(config)[1]
  splits = store_lib.load_task(nasty.judged_on, data_dir)
  variables = store_lib.Store(workdir, data_dir).variables(nasty)
  model = programs.build(nasty, 64).network
  mean, std = data.NORMALIZATIONS['digits']
  images = (splits.test['image'] / 255.0 - np.array(mean)) / np.array(std)
  logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(
    variables, images.astype(np.float32)
  )
  hits = np.asarray(logits).argmax(-1) == splits.test['label']
  assert results['runs'][1]['test_accuracy'] == pytest.approx(100 * hits.mean())
  assert results['runs'][1]['test_examples'] == len(hits)


def test_the_held_out_part_is_neither_trained_on_nor_tested(data_dir):
  run = plan_lib.make(_config(limit=None))[0]
  splits = store_lib.load_task(run.judged_on, data_dir)
  whole = data.load('digits', data_dir=data_dir)
  sizes = [len(getattr(splits, name)['label']) for name in ('train', 'val')]
  assert sum(sizes) == len(whole.train['label'])
  assert sizes[1] == round(0.1 * sum(sizes))
  np.testing.assert_array_equal(splits.test['image'], whole.test['image'])


@pytest.mark.usefixtures('no_figures')
def test_nothing_is_trained_twice(done, monkeypatch):
  results, workdir, config = done

  def never(*args, **kwargs):
    raise AssertionError('trained again')

  monkeypatch.setattr(execute, 'run_group', never)
  monkeypatch.setattr(store_lib, 'load_task', never)
  again = study.run(config, workdir)
  assert again['runs'] == results['runs']


def test_more_seeds_keep_what_is_there(done, monkeypatch, tmp_path):
  _, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)

  class Trained(Exception):  # noqa: N818
    pass

  def run_group(group, *args):
    raise Trained(group[0].seed)

  monkeypatch.setattr(execute, 'run_group', run_group)
  more = config.copy_and_resolve_references()
  more.unlock()
  more.seeds = (0, 1)
  with pytest.raises(Trained, match='1'):
    study.run(more, tmp_path)


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('index', [0, 4])  # A parent of others, and a child.
def test_what_is_missing_is_trained_again(done, index):
  results, workdir, config = done
  lost = workdir / 'runs' / results['runs'][index]['id'] / 'result.json'
  before = json.loads(lost.read_text())
  lost.unlink()
  again = study.run(config, workdir)['runs'][index]
  assert again['test_accuracy'] == before['test_accuracy']


def test_the_id_is_the_content():
  plan = plan_lib.make(_config())
  same = plan_lib.make(_config())
  assert [run.id for run in plan] == [run.id for run in same]
  other = plan_lib.make(_config(**{'nasty.omega': 0.01}))
  equal = [a.id == b.id for a, b in zip(plan, other, strict=True)]
  # A protected teacher, and with it its students, are others; the rest is not.
  assert equal == [True, False, True, True, False]
  moved = plan_lib.make(_config(data_dir='/elsewhere', progress=True))
  assert [run.id for run in plan] == [run.id for run in moved]


def test_runs_that_differ_in_their_seed_share_a_program():
  first, second = (plan_lib.make(_config(seeds=(seed,))) for seed in (0, 1))
  for one, other in zip(first, second, strict=True):
    assert one.id != other.id
    assert programs.build(one, 64) is programs.build(other, 64)
  # So do students of the normal and of the protected teacher.
  assert programs.build(first[3], 64) is programs.build(first[4], 64)
  assert programs.build(first[2], 64) is not programs.build(first[3], 64)


@pytest.mark.whole
def test_two_at_once_share_the_work_and_each_reports_what_it_was_asked(
  tmp_path, data_dir, monkeypatch, no_figures
):
  trained, run_group = [], execute.run_group

  # Orbax does not save two things at once in one process.
  lock = threading.Lock()

  def note(group, store, on_step=None):
    with lock:
      trained.extend(run.id for run in group)
      return run_group(group, store, on_step)

  monkeypatch.setattr(execute, 'run_group', note)
  monkeypatch.setattr(execute, '_SECS_BETWEEN_LOOKS', 0.05)
  unmeasured = dataclasses.replace(study.MAIN, measure_fn=lambda *_: {})
  wanted = ((0,), (1, 0))
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    found = list(
      pool.map(
        lambda seeds: study.run(
          _config(data_dir=data_dir, seeds=seeds), tmp_path, study=unmeasured
        ),
        wanted,
      )
    )
  assert len(trained) == len(set(trained)) == 2 * 5
  for seeds, results in zip(wanted, found, strict=True):
    assert {run['seed'] for run in results['runs']} >= set(seeds)
  left = json.loads((tmp_path / 'results.json').read_text())
  assert {run['seed'] for run in left['runs']} == {0, 1}


@pytest.mark.whole
def test_a_report_has_all_seeds_of_its_config(done, no_figures, tmp_path):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  other = config.copy_and_resolve_references()
  other.seeds = (3,)
  shared = study.run(other, tmp_path)
  assert {run['seed'] for run in shared['runs']} == {0, 3}
  planned = {row['id']: row['state'] for row in status.rows(tmp_path)}
  assert planned == {run['id']: 'finished' for run in shared['runs']}
  other.seeds = (0, 3)
  assert study.run(other, tmp_path)['summary'] == shared['summary']


def test_the_seed_of_a_partner_is_none_of_the_report(done, tmp_path):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  store = store_lib.Store(tmp_path, config.data_dir)
  planned = study.MAIN.plan_fn(config)
  partner = dataclasses.replace(planned[0], role='partner', seed=2**31)
  study._write_plan([*planned, partner], tmp_path, 'a config', study.MAIN)
  (tmp_path / 'results.json').unlink()
  asked = []

  def plan_fn(seed):
    asked.append(seed)
    return planned

  other = config.copy_and_resolve_references()
  other.seeds = (3,)
  found = study._of_other_seeds([], plan_fn, other, store, tmp_path)
  assert asked == [0]
  assert set(found) == set(planned)


def test_the_seeds_of_an_earlier_version_are_kept(done, tmp_path, no_figures):
  """Its plan tells no seeds, and fewer fields of its config were free."""
  _, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  plan, own = tmp_path / status.PLAN, tmp_path / 'config.json'
  lines = [
    {k: v for k, v in line.items() if k != 'seed'}
    for line in disk.read_json(plan)
  ]
  disk.write_json(plan, lines)
  disk.write_json(own, disk.read_json(own) | {'max_accuracy_drop': 100.0})
  results = (tmp_path / 'results.json').read_bytes()
  disk.sign(tmp_path, ['config.json'], {'results.json': results})
  other = config.copy_and_resolve_references()
  other.seeds, other.max_accuracy_drop = (3,), 90.0
  found = study.run(other, tmp_path)
  assert {run['seed'] for run in found['runs']} == {0, 3}
  assert {line['id'] for line in disk.read_json(plan)} == {
    run['id'] for run in found['runs']
  }


def test_whoever_measured_while_another_command_ended_reports_its_seeds(
  done, tmp_path, no_figures
):
  """Measuring takes minutes in some studies."""
  _, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  other = config.copy_and_resolve_references()
  other.seeds = (3,)
  calls = []

  def measure_fn(own_config, finished, store, folder):
    calls.append(len(finished))
    if len(calls) == 1:
      study.run(other, tmp_path)
    return {}

  slow = dataclasses.replace(study.MAIN, measure_fn=measure_fn)
  found = study.run(config, tmp_path, study=slow)
  assert calls == [5, 10]
  assert {run['seed'] for run in found['runs']} == {0, 3}
  assert disk.read_json(tmp_path / 'results.json') == disk.as_json(found)


def test_a_command_killed_before_its_results_loses_no_seed(
  done, tmp_path, no_figures, monkeypatch
):
  """Their sums are written down first."""
  _, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  other = config.copy_and_resolve_references()
  other.seeds = (3,)
  replace = disk.replace

  def killed(path, data):
    if path.name == 'results.json':
      raise KeyboardInterrupt
    replace(path, data)

  with monkeypatch.context() as context:
    context.setattr(disk, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
      study.run(other, tmp_path)
  assert disk.damaged(tmp_path, ['results.json'])
  found = study.run(other, tmp_path)
  assert {run['seed'] for run in found['runs']} == {0, 3}
  assert not disk.damaged(tmp_path, ['results.json'])


def test_whoever_was_given_up_leaves_the_run_to_whom_it_has_gone_to(
  done, tmp_path, monkeypatch, no_figures, caplog
):
  """As after the sleep of a machine. Then that one is dead as well."""
  before, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  name = before['runs'][-1]['id']
  folder = tmp_path / 'runs' / name
  shutil.rmtree(folder)
  other = folder / 'owner.2'
  advance = writers.Progress.advance

  def taken(self, *args):
    if not list(folder.glob('owner.[3-9]')):
      other.write_text('{"host": "elsewhere", "pid": 1}')
    advance(self, *args)

  def died(secs):
    assert not (folder / 'metrics.jsonl').read_text()
    os.utime(other, (1000, 1000))

  monkeypatch.setattr(writers.Progress, 'advance', taken)
  monkeypatch.setattr(execute.time, 'sleep', died)
  found = study.run(config, tmp_path)
  assert 'has gone to process 1 on elsewhere' in caplog.text
  assert [run['test_accuracy'] for run in found['runs']] == [
    run['test_accuracy'] for run in before['runs']
  ]
  names = ('metrics.jsonl', 'result.json', 'variables')
  assert not disk.damaged(folder, names)


def test_a_run_that_another_process_trains_is_waited_for(
  done, tmp_path, monkeypatch, no_figures
):
  _, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  before = study.run(config, tmp_path)
  name = before['runs'][0]['id']
  folder = tmp_path / 'runs' / name
  result = (folder / 'result.json').read_text()
  (folder / 'result.json').unlink()
  held = lease.take(folder)
  told = []
  monkeypatch.setattr(
    writers.Progress, 'say', lambda self, text: told.append(text)
  )
  monkeypatch.setattr(execute, 'run_group', None)

  def finish(secs):
    (folder / 'result.json').write_text(result)
    held.release()

  monkeypatch.setattr(execute.time, 'sleep', finish)
  found = study.run(config, tmp_path)
  assert found == before
  assert told == [
    'waits for teacher cnn8 none seed 0, trained by another process'
  ]


def test_seeds_of_one_program_are_trained_side_by_side():
  config = _config(seeds=(0, 1, 2), students=('cnn8', 'cnn16'))
  planned = plan_lib.make(config)
  order = [run.as_built for run in planned]
  changes = sum(a != b for a, b in itertools.pairwise(order))
  # Two teachers; each student alone, and by a program of its own.
  assert changes == len(set(order)) - 1 == 5
  for index, run in enumerate(planned):
    assert set(run.parents.values()) <= set(planned[:index])
  assert plan_lib.in_order(reversed(planned)) != planned
  assert set(plan_lib.in_order(planned + planned)) == set(planned)


STUDENTS = ('cnn8', 'cnn16', 'resnetc8', 'mlp')


def test_students_of_one_teacher_are_trained_together():
  models = {'teacher.model': 'cnn8', 'students': STUDENTS}
  config = _config(seeds=(0, 1), **models)
  with config.unlocked():
    config.recipes.cnn16.batch_size = 16
    config.recipe.augment = 'pad_crop'
  planned = plan_lib.make(config)
  found = execute.groups(planned, 2)
  assert sorted(run.id for group in found for run in group) == sorted(
    run.id for run in planned
  )
  done: set = set()
  for group in found:
    assert len(group) <= 2
    assert all(set(run.parents.values()) <= done for run in group)
    done |= set(group)
    for run in group[1:]:
      assert run.parents == group[0].parents != {}
      assert run.seed == group[0].seed
      assert run.recipe['batch_size'] == group[0].recipe['batch_size']
  models_of = [
    [run.model for run in group] for group in found if group[0].parents
  ]
  # Of two teachers and two seeds; cnn16 learns in other batches.
  for names in (['cnn8', 'resnetc8'], ['cnn16'], ['mlp']):
    assert models_of.count(names) == 4
  assert [[run] for run in planned] == execute.groups(planned, 1)
  # A thief with fewer images, or another seed, goes through other batches.
  share = plan_lib.make(plan_lib.vary(config, {'fraction': 0.5}))
  last = planned[-1]
  for other in (share[-1], dataclasses.replace(last, seed=last.seed + 1)):
    assert execute.groups([last, other], 2) == [[last], [other]]


@pytest.mark.whole
@pytest.mark.usefixtures('no_figures')
def test_training_together_changes_no_number(tmp_path, data_dir):
  alone, beside = (
    study.run(
      _config(
        data_dir=data_dir,
        students=('cnn8', 'mlp'),
        together=number,
        **{'recipe.augment': 'pad_crop'},
      ),
      tmp_path / str(number),
    )
    for number in (1, 4)
  )
  for one, other in zip(alone['runs'], beside['runs'], strict=True):
    for key in one.keys() - {'seconds'}:
      assert one[key] == other[key], key


def test_a_config_is_varied_by_a_copy():
  config = _config()
  varied = plan_lib.vary(config, {'nasty.omega': 0.5, 'students': ('mlp',)})
  assert (varied.nasty.omega, varied.students) == (0.5, ('mlp',))
  assert config.nasty.omega != 0.5
  with pytest.raises(KeyError, match='omegaa'):
    plan_lib.vary(config, {'nasty.omegaa': 0.5})


@pytest.mark.whole
@pytest.mark.usefixtures('no_figures')
def test_the_best_epoch_on_the_test_set_is_shown_but_not_used(done, tmp_path):
  results, _, config = done
  changes = {'recipe.best_on_test': True, 'recipe.evaluate_every_epochs': 1}
  config = plan_lib.vary(config, changes)
  again = study.run(config, tmp_path)
  for run, before in zip(again['runs'], results['runs'], strict=True):
    assert before['best_test_accuracy'] is None
    assert run['test_accuracy'] == before['test_accuracy']
    # There is but one epoch.
    assert run['best_test_accuracy'] == run['test_accuracy']
  assert 'Best on test %' in (tmp_path / 'report.md').read_text()


def test_another_adversary_is_trained_first():
  plan = plan_lib.make(_config(**CNN, **{'adversary.model': 'cnn16'}))
  assert [(run.model, run.method) for run in plan[:3]] == [
    ('cnn8', 'none'),
    ('cnn16', 'none'),
    ('cnn8', 'nasty'),
  ]
  assert plan[2].parents['adversary'] is plan[1]


@pytest.mark.whole
@pytest.mark.usefixtures('no_figures')
def test_a_teacher_trained_elsewhere_is_not_trained(tmp_path, data_dir, done):
  results, workdir, config = done
  normal = plan_lib.make(config)[0]
  variables = store_lib.Store(workdir, data_dir).variables(normal)
  weights = tmp_path / 'weights.safetensors'
  interop.save(weights, interop.to_torch('cnn8', variables))
  again = _config(
    data_dir=data_dir,
    seeds=(0, 1),
    **CNN,
    **{'teacher.init_from': str(weights), 'nasty.omega': 0.0},
  )
  results_again = study.run(again, tmp_path / 'work')
  found = results_again['runs']
  # One file is one network, whatever the seed.
  assert [run['method'] for run in found if run['role'] == 'teacher'] == [
    'none',
    'nasty',
    'nasty',
  ]
  assert found[0]['epochs'] == 0
  assert results_again['summary']['notes'] == []
  assert found[0]['test_accuracy'] == results['runs'][0]['test_accuracy']
  children = [r for r in found if found[0]['id'] in r['parents'].values()]
  assert [run['method'] for run in children] == ['nasty', 'nasty', 'kd', 'kd']


def _untrained(num_classes):
  init = jax.jit(models.get_model('cnn8', num_classes).init)
  return init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))


def test_weights_of_another_network_are_refused(tmp_path, data_dir):
  weights = tmp_path / 'weights.safetensors'
  variables = _untrained(num_classes=7)
  interop.save(weights, interop.to_torch('cnn8', variables))
  changes = {**CNN, 'teacher.init_from': str(weights)}
  config = _config(data_dir=data_dir, **changes)
  with pytest.raises(errors.InputError, match='for other images or') as error:
    study.run(config, tmp_path / 'classes')
  # Found are 7 classes.
  assert 'fc2.bias (expected (10,), found (7,))' in str(error.value)
  # Found before anything was written.
  assert not (tmp_path / 'classes').exists()
  config.teacher.model = 'cnn16'
  with pytest.raises(errors.InputError, match=r'conv1\.weight'):
    study.run(config, tmp_path / 'model')
  weights.write_bytes(weights.read_bytes()[:-9])
  with pytest.raises(errors.InputError, match=r'init_from=.* truncated, dam'):
    study.run(config, tmp_path / 'damaged')


def test_weights_that_are_no_numbers_are_refused(tmp_path, data_dir):
  weights = tmp_path / 'weights.safetensors'
  variables = _untrained(num_classes=10)
  content = interop.to_torch('cnn8', variables)
  changes = {**CNN, 'teacher.init_from': str(weights)}
  config = _config(data_dir=data_dir, **changes)
  interop.save(weights, content | {'fc2.bias': np.full(10, np.nan, np.float32)})
  with pytest.raises(errors.InputError, match=r'not all .* in fc2\.bias$'):
    study.run(config, tmp_path / 'tensor')
  # Of which no root can be taken.
  content['bn1.running_var'] = np.full(8, -1, np.float32)
  interop.save(weights, content)
  with pytest.raises(
    errors.DivergedError, match=r'not finite .* they come from .*weights'
  ):
    study.run(config, tmp_path / 'work')


def test_a_thief_may_have_a_share_of_the_data(data_dir):
  config = _config(data_dir=data_dir, fraction=0.5, limit=200)
  plan = plan_lib.make(config)
  store = store_lib.Store(pathlib.Path(), data_dir)
  teacher, student = store.examples(plan[0]), store.examples(plan[2])
  assert len(teacher['label']) == 180  # All but the held-out tenth.
  assert len(student['label']) == 90
  owner = {image.tobytes() for image in teacher['image']}
  assert {image.tobytes() for image in student['image']} <= owner
  assert len(store.task(plan[0].judged_on).test['label']) == 200


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'dataset': 'digitz'}, "unknown dataset 'digitz'; known: cifar10"),
    ({'teacher.model': 'resnet17'}, "unknown model 'resnet17'; known: "),
    ({'students': ('cnn8', 'cnn9')}, "unknown model 'cnn9'; known: "),
    (
      {'defenses': ('nasy',)},
      "unknown defense 'nasy'; known: adaptive_misinformation, ",
    ),
    (
      {'attacks': ('kdd',)},
      "unknown attack 'kdd'; known: adaptive_inversion, ",
    ),
    ({'attacks': ('my_own.attack',)}, "'my_own.attack' cannot be imported"),
    ({'defenses': ()}, 'defenses is empty'),
    ({'queries': 'twice'}, "unknown queries 'twice'; known: cached, fresh"),
    ({'nasty.omega': -0.1}, 'omega=-0.1; expected a number >= 0'),
    ({'nasty.omega': float('nan')}, 'omega=nan; expected a finite number'),
    ({'nasty.temperature': 0.0}, 'temperature=0.0; expected a positive'),
    ({'kd.temperature': -1.0}, 'temperature=-1.0; expected a positive'),
    ({'kd.alpha': 1.1}, r'alpha=1.1; expected a weight in 0..1'),
    (
      {'recipe.optimizer': 'sgdd'},
      "unknown optimizer 'sgdd'; known: adam",
    ),
    ({'recipe.schedule': 'steps'}, "unknown schedule 'steps'; known: "),
    ({'recipe.augment': 'flip'}, "unknown augmentation 'flip'; known: "),
    ({'recipe.epochs': 0}, 'epochs=0'),
    ({'recipe.evaluate_every_epochs': 0}, 'evaluate_every_epochs=0'),
    ({'recipe.checkpoint_every_epochs': 0}, 'checkpoint_every_epochs=0'),
    ({'eval_batch_size': 0}, 'eval_batch_size=0'),
    ({'together': 0}, 'together=0; expected at least 1'),
    ({'seeds': (0, -1)}, 'expected numbers >= 0'),
    ({'seeds': (0, 2**32)}, r'expected numbers >= 0 and below 2\*\*32'),
    ({'recipe.batch_size': 0}, 'batch_size=0'),
    ({'recipe.batch_size': 33}, 'cannot be split over 2 devices'),
    ({'recipe.learning_rate': 0.0}, 'learning_rate=0.0'),
    ({'normalization': 'mnist'}, "unknown normalization 'mnist'; known: "),
    ({'val_fraction': 1.0}, 'val_fraction=1.0'),
    ({'fraction': 0.0}, 'fraction=0.0; expected 0 < fraction <= 1'),
    ({'limit': 0}, 'limit=0'),
    ({'teacher.init_from': 'no.safetensors'}, 'there is no file no.safe'),
    ({'students': ()}, 'students is empty'),
    ({'seeds': ()}, 'seeds is empty'),
    ({'seeds': (0, 1, 0)}, 'names a seed twice'),
    ({'dtype': 'float8'}, "unknown dtype 'float8'; known: bfloat16, float32"),
  ],
)
def test_an_impossible_config_is_refused_before_anything(
  changes, message, tmp_path
):
  with pytest.raises(errors.InputError, match=message):
    study.run(_config(**changes), tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_a_batch_larger_than_the_data_is_refused(tmp_path, data_dir):
  config = _config(data_dir=data_dir, **{'recipe.batch_size': 2000})
  with pytest.raises(errors.InputError, match='batch_size=2000 is larger than'):
    study.run(config, tmp_path)


def test_a_method_that_waits_for_longer_than_it_learns_is_refused(
  tmp_path, data_dir
):
  # 150 images, 50 of the 200 being held out, are two batches of 64.
  changes = {'recipe.epochs': 3, 'attacks': ('skeptical',), **CNN}
  config = _config(data_dir=data_dir, **changes)
  config.students = ('cnn4',)
  config.skeptical.delay_steps = 6
  with pytest.raises(
    errors.InputError,
    match='config: skeptical.delay_steps=6, but .* for 6 steps in all.* fewer',
  ):
    study.run(config, tmp_path)
  assert not list(tmp_path.glob('runs/*/result.json'))


def test_a_held_out_part_without_examples_is_refused(tmp_path, data_dir):
  config = _config(data_dir=data_dir, limit=20, val_fraction=0.01)
  with pytest.raises(errors.InputError, match='digits: a fraction of 0.01'):
    study.run(config, tmp_path)


def test_a_missing_data_set_is_refused_with_the_remedy(tmp_path):
  config = _config('cifar10', data_dir=str(tmp_path / 'nothing'))
  with pytest.raises(errors.InputError, match='undistillable.data prepare'):
    study.run(config, tmp_path / 'work')


def test_the_workdir_of_another_config_is_refused(done, tmp_path):
  _, workdir, config = done
  other = config.copy_and_resolve_references()
  other.nasty.omega = 0.01
  before = (workdir / 'results.json').read_bytes()
  with pytest.raises(errors.InputError) as error:
    study.run(other, workdir)
  omega = config.nasty.omega
  assert f'nasty.omega: {omega} there, 0.01 here' in str(error.value)
  assert '--reuse_workdir' in str(error.value)
  assert (workdir / 'results.json').read_bytes() == before
  # As many fields differ where another version was at work.
  (tmp_path / 'config.json').write_text(
    json.dumps({f'method_{i}': {'weight': i} for i in range(7)})
  )
  with pytest.raises(errors.InputError, match=r'and \d+ more\)') as error:
    study.run(config, tmp_path)
  assert str(error.value).count(': only there; ') == 5


def test_a_run_folder_of_another_config_is_refused(done, tmp_path):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  folder = tmp_path / 'runs' / results['runs'][0]['id']
  path = folder / 'config.json'
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
  disk.sign(folder, [path.name])
  with pytest.raises(errors.InputError, match='delete the folder'):
    study.run(config, tmp_path)


def _equal_but_for_time(results, others):
  for one, other in zip(results['runs'], others['runs'], strict=True):
    for key in one.keys() | other.keys():
      assert key == 'seconds' or one[key] == other[key], key


@pytest.mark.parametrize('change', list(damage.CHANGES))
def test_no_damaged_file_of_a_run_passes_for_whole(
  done, tmp_path, change, caplog
):
  results, workdir, config = done
  run = plan_lib.make(config)[1]
  folder = tmp_path / 'runs' / run.id
  shutil.copytree(workdir / 'runs' / run.id, folder)
  before = store_lib.Store(tmp_path).result(run)
  for path in [path for path in folder.rglob('*') if path.is_file()]:
    good, name = path.read_bytes(), path.relative_to(folder).as_posix()
    caplog.clear()
    damage.CHANGES[change](path, random.Random(0))
    store = store_lib.Store(tmp_path)
    found = [store.result(run) for _ in range(2)]
    if name.startswith(('owner', 'tensorboard')):  # Nothing is read from them.
      assert found == [before] * 2
      continue
    (said,) = caplog.messages
    assert name == disk.SUMS or f'{name} is damaged' in said
    if name == 'config.json':
      assert found == [before] * 2
      assert path.read_bytes() == good
    else:
      assert found == [None, None]
    path.write_bytes(good)


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('change', list(damage.CHANGES))
def test_what_can_be_had_from_the_network_is_not_trained_again(
  done, tmp_path, monkeypatch, change
):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  names = ['config.json', 'model.safetensors', 'result.json']
  chosen = [workdir / 'runs' / run['id'] for run in results['runs'][1:4]]
  for folder, name in zip(chosen, names, strict=True):
    path = tmp_path / folder.relative_to(workdir) / name
    damage.CHANGES[change](path, random.Random(1))
  monkeypatch.setattr(train, 'fit_together', None)
  _equal_but_for_time(study.run(config, tmp_path), results)
  for folder in chosen:
    again = tmp_path / folder.relative_to(workdir)
    assert disk.are_whole(again, [*names, 'metrics.jsonl', 'variables'])
    for name in ('config.json', 'model.safetensors'):
      assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('resident', [True, False])
def test_where_a_training_set_lies_is_no_part_of_a_workdir(
  done, tmp_path, monkeypatch, resident
):
  results, workdir, config = done
  config = plan_lib.vary(config, {'resident': resident})
  shutil.copytree(workdir, tmp_path / 'old')
  found = study.run(config, tmp_path / 'old', command='the command')
  assert [run['id'] for run in found['runs']] == [
    run['id'] for run in results['runs']
  ]

  def stop(*args, **kwargs):
    raise errors.DivergedError(f'resident: {kwargs["resident"]}')

  monkeypatch.setattr(train, 'fit_together', stop)
  with pytest.raises(errors.DivergedError, match=f'resident: {resident}'):
    study.run(config, tmp_path / 'new')


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('index', [0, 4])  # A parent of others, and a child.
def test_a_damaged_network_is_trained_again(done, tmp_path, index):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  name = results['runs'][index]['id']
  folder = tmp_path / 'runs' / name
  files = [path for path in folder.glob('variables/**/*') if path.is_file()]
  damage.flip(max(files, key=lambda p: p.stat().st_size), random.Random(0))
  with pytest.raises(errors.InputError, match='variables is damaged; start'):
    store_lib.Store(tmp_path).variables(plan_lib.make(config)[index])
  if index:
    damage.cut(folder / 'metrics.jsonl')
  _equal_but_for_time(study.run(config, tmp_path), results)
  assert (folder / 'model.safetensors').read_bytes() == (
    workdir / 'runs' / name / 'model.safetensors'
  ).read_bytes()
  assert store_lib.Store(tmp_path).is_trained(plan_lib.make(config)[index])


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('change', list(damage.CHANGES))
@pytest.mark.parametrize(
  'name', ['config.json', 'responses.npz', 'results.json', disk.SUMS]
)
def test_damaged_files_of_a_report_are_written_again(
  done, tmp_path, change, name, caplog
):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  good = (tmp_path / name).read_bytes()
  damage.CHANGES[change](tmp_path / name, random.Random(0))
  assert study.run(config, tmp_path) == results
  assert 'damaged' in caplog.text
  assert (tmp_path / name).read_bytes() == good
  assert disk.damaged(tmp_path, ['config.json', 'results.json']) == []


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of its own, and a function that changes its options."""
  place = tmp_path / 'disk'
  place.mkdir()

  def mount(options):
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(place)]
    try:
      return subprocess.run(
        command, check=False, capture_output=True
      ).returncode
    except FileNotFoundError:
      return 1

  if mount('size=8k'):
    pytest.skip('to mount a tmpfs is not permitted')
  yield place, lambda options: mount(f'remount,{options}')
  subprocess.run(['umount', '--lazy', str(place)], check=True)


@pytest.mark.usefixtures('no_figures')
def test_a_full_disk_is_said_and_what_is_whole_is_kept(done, small_disk, capfd):
  results, _, config = done
  workdir, remount = small_disk
  finished = set()
  for kib in (8, 24, 64, 1000, 1300, 1400):
    remount(f'size={kib}k')
    with pytest.raises(OSError, match='No space left on device') as full:
      study.run(config, workdir / 'work')
    assert full.value.errno == errno.ENOSPC
    left = {
      path.parent.name for path in workdir.glob('work/runs/*/result.json')
    }
    assert left >= finished
    finished = left
  assert finished
  remount('size=100m')
  _equal_but_for_time(study.run(config, workdir / 'work'), results)
  assert 'Traceback' not in capfd.readouterr().err


@pytest.mark.slow  # Orbax waits a minute for such a disk.
@pytest.mark.usefixtures('no_figures')
def test_a_disk_that_cannot_be_written_is_said(
  done, small_disk, monkeypatch, capfd
):
  """From the start, and after the first network."""
  results, _, config = done
  place, remount = small_disk
  remount('size=100m')
  run_group, groups = execute.run_group, []

  def run_second_group_on_a_read_only_disk(group, *args):
    groups.append(group)
    if len(groups) == 2:
      remount('ro')
    return run_group(group, *args)

  monkeypatch.setattr(
    execute, 'run_group', run_second_group_on_a_read_only_disk
  )
  with pytest.raises(OSError, match='Read-only file system'):
    study.run(config, place / 'work')
  assert len(list(place.glob('work/runs/*/result.json'))) == 1
  with pytest.raises(errors.InputError, match='cannot be written'):
    study.run(config, place / 'work')
  remount('rw')
  _equal_but_for_time(study.run(config, place / 'work'), results)
  assert len(groups) == 2 + 4
  assert 'Traceback' not in capfd.readouterr().err


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('content', ['[{"id"', '[{"ie": "x"}]', '[3]'])
def test_a_damaged_plan_is_written_again(done, tmp_path, content, caplog):
  results, workdir, config = done
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  (tmp_path / status.PLAN).write_text(content)
  assert study.run(config, tmp_path) == results
  assert 'plan.json is damaged: written again' in caplog.text
  planned = [row['id'] for row in status.rows(tmp_path)]
  assert planned == [run['id'] for run in results['runs']]


def test_damaged_weights_of_a_run_are_refused(done, tmp_path):
  results, workdir, config = done
  shutil.copytree(workdir / 'runs' / results['runs'][0]['id'], tmp_path / 'a')
  weights = tmp_path / 'a' / 'model.safetensors'
  damage.flip(weights, random.Random(0))
  with pytest.raises(errors.InputError, match='safetensors is damaged: .*SUMS'):
    plan_lib.make(_config(**{'teacher.init_from': str(weights)}))


@pytest.mark.whole
def test_a_collapsed_teacher_stops_before_its_students(tmp_path, data_dir):
  config = _config(
    data_dir=data_dir,
    max_accuracy_drop=10.0,
    limit=None,
    **{'nasty.omega': 20.0, 'recipe.epochs': 5},
  )
  with pytest.raises(errors.DivergedError, match='lower nasty.omega') as one:
    study.run(config, tmp_path)
  finished = list((tmp_path / 'runs').glob('*/result.json'))
  assert sorted(path.parent.name[:7] for path in finished) == ['teacher'] * 2
  # The second time it is known from the recorded result.
  with pytest.raises(errors.DivergedError) as two:
    study.run(config, tmp_path)
  assert str(one.value) == str(two.value)


def test_a_diverging_teacher_names_omega(tmp_path, data_dir):
  config = _config(
    data_dir=data_dir,
    limit=None,
    **{
      'nasty.omega': 1e9,
      'recipe.epochs': 3,
      'recipe.optimizer': 'sgd',
      'recipe.learning_rate': 1.0,
    },
  )
  with pytest.raises(
    errors.DivergedError, match=r'nasty.*not finite .*; lower nasty.omega'
  ) as one:
    study.run(config, tmp_path)
  # The normal teacher, and the record of what became of the nasty one.
  assert len(list((tmp_path / 'runs').glob('*/result.json'))) == 2
  with pytest.raises(errors.DivergedError) as two:
    study.run(config, tmp_path)
  assert str(one.value) == str(two.value)


@pytest.mark.parametrize(
  'path', sorted(config_files.FOLDER.glob('*.py')), ids=lambda path: path.stem
)
def test_every_config_plans(path):
  config = _config(path.stem)
  assert isinstance(config, ml_collections.ConfigDict)
  assert len(plan_lib.make(config)) == 5


def test_every_field_of_a_config_says_what_it_is():
  source = inspect.getsource(config_lib.base).splitlines()
  for above, line in itertools.pairwise(source):
    if re.match(r'\s+config\.\S+ = (?!ml_collections)', line):
      assert '# ' in line or '# ' in above or 'grid' in line, line
  for module in (*defenses.DEFENSES.values(), *attacks.ATTACKS.values()):
    for base in module.Settings.__mro__[:-1]:
      for name in vars(base).get('__annotations__', {}):
        assert f'{name}:' in base.__doc__, (module.__name__, name)


@pytest.mark.parametrize(
  'path', sorted(config_files.FOLDER.glob('*.py')), ids=lambda path: path.stem
)
def test_every_field_of_a_config_can_be_overridden(path):
  """Lists and None cannot, by ml_collections' flags."""

  def leaves(config):
    for key, value in config.items(preserve_field_references=True):
      if isinstance(value, ml_collections.ConfigDict):
        yield from leaves(value)
      else:
        yield key, value

  for key, value in leaves(_config(path.stem)):
    # A placeholder is a reference that knows its type.
    if not isinstance(value, ml_collections.FieldReference):
      assert isinstance(value, bool | int | float | str | tuple), key


@pytest.mark.whole
@pytest.mark.usefixtures('no_figures')
def test_data_sets_belong_to_runs(tmp_path, data_dir):
  """A study over `limit` trains each network on what its config names."""
  config = _config(data_dir=data_dir, defenses=('none',), attacks=('scratch',))

  def plan_fn(config):
    sizes = ({'limit': 100}, {'limit': 200, 'val_fraction': 0.25})
    configs = [plan_lib.vary(config, changes) for changes in sizes]
    return plan_lib.in_order(r for c in configs for r in plan_lib.make(c))

  sweep = dataclasses.replace(study.MAIN, name='sizes', plan_fn=plan_fn)
  found = study.run(config, tmp_path, study=sweep)['runs']
  assert [run['test_examples'] for run in found] == [100, 200, 100, 200]
  store = store_lib.Store(tmp_path, data_dir)
  sizes = [store.num_examples(run) for run in plan_fn(config)]
  assert sizes == [90, 150, 90, 150]


@pytest.mark.whole
@pytest.mark.usefixtures('no_figures')
def test_weights_of_a_file_serve_any_seeds(tmp_path, data_dir):
  weights = tmp_path / 'weights.safetensors'
  variables = _untrained(num_classes=10)
  interop.save(weights, interop.to_torch('cnn8', variables))
  changes = {**CNN, 'teacher.init_from': str(weights), 'seeds': (1,)}
  results = study.run(_config(data_dir=data_dir, **changes), tmp_path / 'work')
  teachers = [run for run in results['runs'] if run['role'] == 'teacher']
  assert [run['seed'] for run in teachers] == [0, 1]
  assert teachers[1]['normal'] == teachers[0]['id']
  (note,) = results['summary']['notes']  # It has learned nothing.
  assert 'the adversary is not sure enough' in note


@pytest.mark.filterwarnings('ignore:the load_module')  # Of ml_collections.
def test_no_defense_and_any_attack_can_be_chosen(monkeypatch):
  args = [
    'main',
    f'--config={config_files.FOLDER / "digits.py"}',
    "--config.defenses=('none',)",
    "--config.attacks=('dafl', 'scratch')",
    '--config.dafl.entropy_weight=7.0',
  ]
  monkeypatch.setattr(sys, 'argv', args)  # ml_collections reads it.
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values)
  values(args)
  planned = plan_lib.make(values.config)
  assert {(run.role, run.method) for run in planned} == {
    ('teacher', 'none'),
    ('student', 'scratch'),
    ('student', 'dafl'),
  }
  weights = [r.settings['entropy_weight'] for r in planned if r.parents]
  assert set(weights) == {7.0}


def _own_module(monkeypatch, name, **content):
  module = types.ModuleType(name)
  vars(module).update(content)
  monkeypatch.setitem(sys.modules, name, module)
  return name


@pytest.mark.whole
@pytest.mark.usefixtures('no_figures')
def test_a_defense_may_have_a_student_as_its_surrogate(
  monkeypatch, tmp_path, data_dir
):
  """Its plan says what its parents are; they are trained before it."""

  def plan(job):
    surrogate = job.student('kd', 'mlp', {'teacher': job.normal})
    return [surrogate, job.teacher(name, {'surrogate': surrogate})]

  def make(model, optimizer, settings, parents):
    def loss_fn(seen):
      answers = seen.answers['surrogate']
      loss = losses.self_undermining(
        seen.logits,
        answers,
        seen.batch['label'],
        temperature=settings.temperature,
        omega=settings.omega,
      )
      return loss, {}

    ask = method_lib.as_frozen_fn(parents['surrogate'])
    return method_lib.supervised(
      model, optimizer, loss_fn, answer_fns={'surrogate': ask}
    )

  name = _own_module(
    monkeypatch,
    'my_package.against_mlp',
    PARENTS=('surrogate',),
    Settings=defenses.nasty.Settings,
    plan=plan,
    make=make,
  )
  config = _config(data_dir=data_dir, defenses=(name,))
  planned = plan_lib.make(config)
  shown = [(run.role, run.shown_method) for run in planned]
  assert shown[:3] == [
    ('teacher', 'none'),
    ('student', 'kd'),
    ('teacher', 'against_mlp'),
  ]
  assert planned[2].compared_with == {'normal': planned[0]}

  results = study.run(config, tmp_path)
  assert {run['status'] for run in results['runs']} == {'finished'}


def test_a_wrapper_of_nothing_is_refused(monkeypatch):
  """Before a teacher is trained that nobody serves."""
  name = _own_module(
    monkeypatch,
    'my_package.bare',
    PARENTS=(),
    Settings=defenses.none.Settings,
    make=None,
    serve=lambda query, settings: query.logits,
  )
  with pytest.raises(errors.InputError, match=r"expected \('normal',\)"):
    plan_lib.make(_config(defenses=(name,)))


def test_an_attack_may_take_other_steps_without_a_teacher(monkeypatch):
  """Then it has the last of them in common with its null."""

  def plan(job, teacher, student):
    first = job.helper('kd', student, {'teacher': teacher})
    last = job.student('kd', student, {'teacher': teacher})
    return [first, last] if teacher else [last]

  name = _own_module(
    monkeypatch,
    'my_package.twice',
    PARENTS=('teacher',),
    Settings=attacks.kd.Settings,
    make=attacks.kd.make,
    plan=plan,
  )
  planned = plan_lib.make(
    _config(attacks=(name,), null_teacher=True, defenses=('stingy',))
  )
  robbed = [run for run in planned if 'teacher' in run.parents]
  lasts = [run for run in robbed if run.role == 'student']
  assert len(lasts) == 2
  for run in lasts:
    assert run.compared_with['null'].robs_nobody


def test_a_defense_without_a_plan_for_its_parents_is_refused(monkeypatch):
  name = _own_module(
    monkeypatch,
    'my_package.lost',
    PARENTS=('surrogate',),
    Settings=defenses.none.Settings,
    make=defenses.none.make,
  )
  with pytest.raises(errors.InputError, match='but no plan that says what'):
    plan_lib.make(_config(defenses=(name,)))


def test_a_finished_network_is_what_others_expect(done):
  results, workdir, _ = done
  folder = workdir / 'runs' / results['runs'][0]['id']
  assert not (folder / 'checkpoints').exists()
  with orbax.checkpoint.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore(folder / 'variables')
  assert variables.keys() == {'params', 'batch_stats'}
  expected = jax.eval_shape(lambda: _untrained(num_classes=10))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)
  tensors = interop.load(folder / 'model.safetensors')
  again = interop.from_torch('cnn8', tensors)
  jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.usefixtures('no_figures')
def test_a_network_without_pytorch_s_names_is_trained_all_the_same(
  monkeypatch, tmp_path, data_dir, caplog
):
  """Or hours would be lost, for a file that nobody may want."""

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(8, name='dense')(x)

  class Nested(nn.Module):
    num_classes: int = 10
    dtype: object = None

    @nn.compact
    def __call__(self, x, train=False):
      x = nn.relu(Block(name='block')(x.reshape((len(x), -1))))
      self.sow('intermediates', 'features', x)
      return nn.Dense(self.num_classes, name='fc')(x)

  monkeypatch.setitem(models.MODELS, 'nested', Nested)
  changes = {'teacher.model': 'nested', 'defenses': ('stingy',)}
  results = study.run(_config(data_dir=data_dir, **changes), tmp_path)
  assert {run['status'] for run in results['runs']} == {'finished'}
  for run in results['runs']:
    folder = tmp_path / 'runs' / run['id']
    named = (folder / 'model.safetensors').exists()
    assert named == (run['model'] == 'mlp')
    assert not disk.damaged(folder, ['variables', 'model.safetensors'])
  assert 'as block/dense, whose PyTorch names no rule tells' in caplog.text


def test_the_queries_are_counted(done, tmp_path, data_dir):
  results, *_ = done
  # Without augmentation every view of an image is the same: 180 are asked
  # about once, of which two batches of 64 are learned from.
  assert [r['queries'] for r in results['runs']] == [None, None, None, 180, 180]
  changes = {'recipe.augment': 'pad_crop', 'recipe.epochs': 2}
  for queries, expected in (('fresh', 2 * 2 * 64), ('cached', 180)):
    config = _config(data_dir=data_dir, queries=queries, **changes)
    (run,) = [r for r in plan_lib.make(config) if r.method == 'kd'][:1]
    store = store_lib.Store(tmp_path, data_dir)
    material = store_lib.Material(
      run,
      folder=tmp_path,
      program=programs.build(run, store.num_examples(run)),
      examples=store.examples(run),
      frozen={},
      task=store.task(run.judged_on),
      batch_size=1,
    )
    assert execute.num_queries(material) == expected


def test_a_config_of_the_first_edition_is_told_what_to_rename():
  old = ml_collections.ConfigDict({'defense': {'name': 'nasty'}})
  with pytest.raises(errors.InputError, match="is now defenses = .'nasty',."):
    plan_lib.make(old)
  with pytest.raises(errors.InputError, match='start from undistillable.con'):
    plan_lib.make(ml_collections.ConfigDict({'dataset': 'digits'}))


def test_ones_own_code_is_part_of_a_runs_name(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_package').mkdir()
  path = tmp_path / 'own_package' / 'mine.py'
  ids = []
  for changed in ('', '# Changed.'):
    path.write_text(f'from undistillable.defenses.nasty import *{changed}\n')
    importlib.invalidate_caches()
    linecache.clearcache()
    sys.modules.pop('own_package.mine', None)
    planned = plan_lib.make(_config(defenses=('own_package.mine',)))
    ids.append([run.id for run in planned])
  equal = [a == b for a, b in zip(*ids, strict=True)]
  assert equal == [True, False, True, True, False]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'defenses': ('a.mine', 'b.mine')}, 'two modules of one name'),
    ({'defenses': ('a.nasty',)}, "'nasty' is a method of the package"),
    ({'adversary.init_from': 'x'}, 'is set, but not adversary.model'),
  ],
)
def test_names_that_would_share_settings_are_refused(changes, message):
  with pytest.raises(errors.InputError, match=message):
    plan_lib.make(_config(**changes))


def test_a_served_network_of_a_file_is_one_for_all_seeds(tmp_path):
  weights = tmp_path / 'weights.safetensors'
  variables = _untrained(num_classes=10)
  interop.save(weights, interop.to_torch('cnn8', variables))
  changes = {'teacher.init_from': str(weights), 'defenses': ('stingy',)}
  planned = plan_lib.make(_config(seeds=(1, 2), **CNN, **changes))
  assert sum(run.role == 'teacher' for run in planned) == 2


@pytest.mark.parametrize(
  ('declared', 'message'),
  [
    ({'ACCESS': 'label'}, "has ACCESS = 'label'; known: scores, labels, weig"),
    ({'DATA': 'foriegn'}, "has DATA = 'foriegn'; known: own, foreign, none"),
    ({'PARENTS': ('normal',)}, "has the parents .'normal'., but no plan"),
  ],
)
def test_what_an_attack_declares_wrongly_is_refused(
  monkeypatch, declared, message
):
  usual = {'PARENTS': ('teacher',), 'Settings': attacks.kd.Settings}
  name = _own_module(
    monkeypatch, 'my_package.sly', make=attacks.kd.make, **(usual | declared)
  )
  with pytest.raises(errors.InputError, match=message):
    plan_lib.make(_config(attacks=(name,)))


def test_all_data_sets_are_looked_for_before_anything_is_trained(
  monkeypatch, tmp_path
):
  """The foreign one of a thief as well, or it would be missed after hours."""
  found = []
  monkeypatch.setattr(data, 'check', lambda name, **_: found.append(name))
  monkeypatch.setattr(store_lib.Store, 'num_steps', lambda *_: 1)

  class Trained(Exception):  # noqa: N818
    pass

  def groups(*_):
    raise Trained

  monkeypatch.setattr(execute, 'groups', groups)
  with pytest.raises(Trained):
    study.run(_config('cifar10', attacks=('knockoff',)), tmp_path)
  assert sorted(found) == ['cifar10', 'cifar100']


@pytest.mark.parametrize(('most', 'traces'), [('10\n', 2), ('1000000\n', 1)])
def test_a_long_study_lets_go_of_its_programs(
  most, traces, tmp_path, monkeypatch
):
  """Before a process has more memory maps than Linux lets it have."""
  (tmp_path / 'maps').write_text('a map\n' * 6)
  (tmp_path / 'most').write_text(most)
  monkeypatch.setattr(execute, '_MAPS', tmp_path / 'maps')
  monkeypatch.setattr(execute, '_MOST_MAPS', tmp_path / 'most')
  traced = []

  @jax.jit
  def double(x):
    traced.append(x)
    return 2 * x

  double(1.0)
  execute.make_room()
  double(1.0)
  assert len(traced) == traces


def test_where_nothing_counts_maps_nothing_is_let_go(tmp_path, monkeypatch):
  monkeypatch.setattr(execute, '_MAPS', tmp_path / 'none')
  execute.make_room()
