"""Tuned distillation: what it tries, how it chooses; one pair is kd."""

import dataclasses
import sys
import types

import config_files
import fabricated
import jax
import numpy as np
import pytest

from undistillable import attacks, errors
from undistillable.attacks import kd_tuned
from undistillable.graph import execute, plan, store as store_lib
from undistillable.report import summary


def _config(name='digits', **changes):
  config = config_files.load(name)
  small = {
    'teacher.model': 'mlp',
    'students': ('mlp',),
    'seeds': (0,),
    'progress': False,
    'defenses': ('none',),
    'attacks': ('kd', 'kd_tuned'),
    'recipe.epochs': 1,
    'limit': 200,
    'kd_tuned.temperatures': (1.0, 8.0),
    'kd_tuned.alphas': (0.1, 0.9),
  }
  config.update_from_flattened_dict(small | changes)
  return config


def _tuned(planned):
  return next(run for run in planned if run.method == 'kd_tuned')


def test_every_pair_of_the_grid_is_a_run_of_kd():
  planned = plan.make(_config())
  tuned = _tuned(planned)
  helpers = [run for run in planned if run.role == 'helper']
  assert [run.method for run in helpers] == ['kd'] * 4
  assert list(tuned.candidates.values()) == helpers
  found = {(r.settings['temperature'], r.settings['alpha']) for r in helpers}
  assert found == {(t, a) for t in (1.0, 8.0) for a in (0.1, 0.9)}
  # All of them hear the same answers, and are trained side by side.
  assert tuned.parents['teacher'] == helpers[0].parents['teacher']
  assert tuned.compared_with.keys() == {'control'}
  whole = kd_tuned.Settings()
  assert len(whole.temperatures) * len(whole.alphas) == 42


def test_a_whole_number_in_the_grid_is_no_other_network():
  found = [
    _tuned(plan.make(_config(**{'kd_tuned.temperatures': grid}))).candidates
    for grid in ((1.0, 8.0), (1, 8))
  ]
  assert found[0] == found[1]


def test_who_robs_a_protected_teacher_is_compared_with_his_like():
  planned = plan.make(_config(defenses=('stingy',)))
  for run in planned:
    teacher = run.parents.get('teacher')
    if run.role in ('student', 'helper') and teacher:
      twin = run.compared_with.get('normal')
      assert bool(twin) == (teacher.method == 'stingy')
      if twin:
        assert (twin.role, twin.settings) == (run.role, run.settings)


def test_a_grid_of_one_pair_is_kd(tmp_path):
  config = _config(
    **{'kd_tuned.temperatures': (8.0,), 'kd_tuned.alphas': (0.9,)}
  )
  store = store_lib.Store(tmp_path, str(tmp_path / 'data'))
  found = {}
  for group in execute.groups(plan.make(config), 4):
    for run in group:
      if run.method != 'scratch':
        (result,) = execute.run_group([run], store)
        found[run.role, run.method] = run, result
  helper, _ = found['helper', 'kd']
  plain, expected = found['student', 'kd']
  tuned, result = found['student', 'kd_tuned']
  assert result['picked'] == {'id': helper.id, 'settings': dict(plain.settings)}
  for key in (
    'status',
    'test_accuracy',
    'test_nll',
    'test_teacher_agreement',
    'val_accuracy',
    'queries',
  ):
    assert result[key] == expected[key]
  jax.tree.map(
    np.testing.assert_array_equal,
    store.variables(tuned),
    store.variables(plain),
  )


def test_the_choice_sees_the_held_out_part_alone(monkeypatch, tmp_path):
  tuned = _tuned(plan.make(_config()))
  store = store_lib.Store(tmp_path)
  others = tuned.candidates.values()
  for best in others:
    told = {
      run: {'status': 'finished', 'val_accuracy': 100.0 * (run == best)}
      for run in others
    }
    monkeypatch.setattr(store, 'result', told.get)
    assert store.source(tuned) == best


def test_who_diverged_is_not_picked_and_stops_nobody(monkeypatch, tmp_path):
  tuned = _tuned(plan.make(_config()))
  teacher = tuned.parents['teacher']
  store = store_lib.Store(tmp_path)
  first, *others = tuned.candidates.values()
  good = {'status': 'finished', 'val_accuracy': 50.0}
  told = dict.fromkeys(others, good) | {first: {'status': 'diverged'}}
  monkeypatch.setattr(store, 'result', told.get)
  assert store.source(tuned) == others[0]
  results = {run.id: one for run, one in told.items()} | {teacher.id: good}
  assert execute._failed(tuned, results) is None
  for run in others:
    results[run.id] = {'status': 'diverged'}
  assert execute._failed(tuned, results) == first.id
  results = dict.fromkeys(results, good) | {teacher.id: {'status': 'skipped'}}
  assert execute._failed(tuned, results) == teacher.id


def test_of_equals_the_first_is_picked():
  assert kd_tuned.pick({'a': 1.0, 'b': 3.0, 'c': 3.0, 'd': 2.0}) == 'b'


def test_helpers_are_in_no_table():
  entries = fabricated.make_study((90.0,), (91.0,), (70.0,))
  expected = summary.summarize(entries)
  more = [e | {'id': f'{e["id"]}-', 'role': 'helper'} for e in entries[-2:]]
  assert summary.summarize(entries + more) == expected


def test_without_a_held_out_part_there_is_nothing_to_choose_by():
  with pytest.raises(
    errors.InputError, match='val_fraction=0; expected a part'
  ):
    plan.make(_config(val_fraction=0.0))


def test_what_is_not_trained_is_no_group():
  """Whatever it hears: two settings of one defense are two networks."""
  config = _config('cifar10', attacks=('kd',), defenses=('stingy',))
  run = next(r for r in plan.make(config) if r.method == 'stingy')
  other = dataclasses.replace(run, settings={**run.settings, 'ratio': 0.9})
  assert not run.asks_once
  assert execute.groups([run, other], 4) == [[run], [other]]


def test_an_attack_that_trains_nothing_has_to_pick(monkeypatch):
  module = types.ModuleType('somebodys.idle')
  module.make, module.PARENTS, module.Settings = None, (), kd_tuned.Settings
  module.serve = print  # Which an attack does not.
  monkeypatch.setitem(sys.modules, module.__name__, module)
  with pytest.raises(errors.InputError, match='neither trains .* nor picks'):
    attacks.get(module.__name__)
  module.pick = kd_tuned.pick
  assert attacks.get(module.__name__) is module


def test_bad_settings_are_refused():
  for changes, message in (
    ({'temperatures': ()}, r'temperatures=\(\); expected one number or more'),
    ({'alphas': (0.5, 0.5)}, 'once'),
    ({'alphas': (1.5,)}, 'alpha=1.5'),
    ({'temperatures': (0.0,)}, 'temperatures=0.0'),
  ):
    with pytest.raises(ValueError, match=message):
      kd_tuned.Settings(**changes)
