"""The ensemble: its mean, whom it asks, and what the report makes of them."""

import types

import bare
import config_files
import jax
import numpy as np
import pytest

from undistillable import models, oracle
from undistillable.attacks import ensemble, kd
from undistillable.graph import execute, plan, programs
from undistillable.report import entries

Z_S, Z_T = np.float32([bare.STUDENT]), np.float32([bare.TEACHER])
LABEL = np.array([0])


def _on(*networks, **settings):
  """A step of the attack on networks with these answers."""
  roles = ['teacher', *(f'partner{i}' for i in range(1, len(networks)))]
  method = bare.attack(ensemble, dict.fromkeys(roles, bare.Bias()), **settings)
  answers = dict(zip(roles, networks, strict=True))
  return bare.take(method, bare.batch(Z_S, LABEL, **answers))


def test_equal_networks_are_kd():
  expected = bare.take(bare.attack(kd), bare.batch(Z_S, LABEL, teacher=Z_T))
  for number in (1, 3):
    metrics, gradient, _ = _on(*[Z_T] * number)
    assert metrics['loss'] == pytest.approx(0.913479, abs=1e-5)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-6)


def test_their_order_does_not_matter():
  one, two = np.float32([(0.0, 4.0, 1.0)]), np.float32([(-2.0, 0.0, 3.0)])
  first, second = _on(Z_T, one, two), _on(two, Z_T, one)
  np.testing.assert_allclose(first[0]['loss'], second[0]['loss'], rtol=1e-5)
  np.testing.assert_allclose(first[1], second[1], rtol=1e-4, atol=1e-6)


def test_false_peaks_of_single_networks_average_out():
  """Three that add a peak each, elsewhere, are one without."""
  flat = 4.0 * np.ones((1, 3), np.float32)
  peaks = [flat + 40.0 * np.eye(3, dtype=np.float32)[[k]] for k in range(3)]
  _, alone, _ = _on(flat, alpha=1.0)
  _, mean, _ = _on(*peaks, alpha=1.0)
  np.testing.assert_allclose(mean, alone, atol=1e-5)


def _planned(defense, **changes):
  config = config_files.load('digits')
  small = {
    'teacher.model': 'cnn8',
    'students': ('cnn4',),
    'seeds': (7,),
    'defenses': (defense,),
    'attacks': ('ensemble',),
    'null_teacher': True,
  }
  config.update_from_flattened_dict(small | changes)
  runs = plan.make(config)
  students = [run for run in runs if run.method == 'ensemble']
  (null,) = (run for run in students if run.robs_nobody)
  robbing = next(r for r in students if _teacher(r) == defense)
  return runs, robbing, null


def _teacher(run):
  return run.parents['teacher'].method if 'teacher' in run.parents else None


@pytest.mark.parametrize('defense', ['nasty', 'stingy', 'modelguard_s'])
def test_partners_are_protected_alike_and_trained_apart(defense):
  runs, run, null = _planned(defense)
  assert not null.parents
  assert run.compared_with['null'] == null
  teacher, *partners = run.parents.values()
  assert len(partners) == 2
  assert len({one.seed for one in run.parents.values()}) == 3
  for one in partners:
    assert one.role == 'partner'
    assert (one.method, one.settings) == (defense, teacher.settings)
    assert one.recipe == teacher.recipe
    (normal,) = one.parents.values()
    assert normal.role == 'partner'
    assert (normal.method, normal.seed) == ('none', one.seed)
    # Planned, once, and in an order in which they can be trained.
    assert runs.count(normal) == runs.count(one) == 1
    assert runs.index(normal) < runs.index(one) < runs.index(run)


def test_of_an_owner_with_weights_in_a_file_there_are_no_others(tmp_path):
  path = tmp_path / 'weights'
  path.write_bytes(b'any')
  changes = {'teacher.init_from': str(path)}
  for defense in ('none', 'stingy'):
    _, run, _ = _planned(defense, **changes)
    assert run.parents.keys() == {'teacher'}
  # What is trained against it is another network with every seed.
  _, run, _ = _planned('nasty', **changes)
  teacher, *partners = run.parents.values()
  for one in partners:
    assert one.parents['adversary'].init_from == str(path)
    assert one.parents['adversary'].seed == 0
  assert len({one.seed for one in (teacher, *partners)}) == 3


def test_each_of_them_is_asked_as_it_serves_and_counted():
  _, run, _ = _planned('stingy', **{'teacher.model': 'mlp'})
  program = programs.build(run, 640)
  for door in program.parents.values():
    assert isinstance(door, oracle.Oracle)
    assert door.module is None
  assert program.method.answer_fns.keys() == run.parents.keys()
  image = np.ones((2, 8, 8, 1), np.float32)
  network = models.get_model('mlp', 10)
  variables = jax.jit(network.init)(jax.random.key(0), image)
  ask = jax.jit(program.method.answer_fns['partner1'])
  served = ask({**variables, 'parents': {}}, image)
  assert ((served > -1e8).sum(-1) == 2).all()  # What `stingy` leaves of 10.
  material = types.SimpleNamespace(
    run=run, program=program, frozen={}, examples={'label': np.zeros(640)}
  )
  assert execute.num_queries(material) == 3 * 640


def test_a_partner_is_no_row_of_the_report():
  entry = {
    'id': 'a',
    'seed': 0,
    'role': 'partner',
    'teacher': None,
    'test_accuracy': 90.0,
  }
  assert entries.usable([entry]) == ([], [])
  kept, _ = entries.usable([{**entry, 'role': 'teacher'}])
  assert len(kept) == 1


def test_bad_settings_are_refused():
  for changes in (
    {'networks': 0},
    {'networks': 21},
    {'temperature': 0.0},
    {'alpha': 1.1},
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      ensemble.Settings(**changes)
