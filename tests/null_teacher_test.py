"""Attacks on nobody: what they hear, and that they read no teacher."""

import bare
import config_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import losses, models, null_teacher
from undistillable.attacks import ATTACKS, hard_label, htc, kd, knockoff, mkd
from undistillable.graph import execute, plan, programs, store as store_lib

Z_S = np.float32([bare.STUDENT])
# Who hears answers, and does not have the weights.
HEARERS = [
  name
  for name, module in ATTACKS.items()
  if 'teacher' in module.PARENTS
  and getattr(module, 'ACCESS', 'scores') != 'weights'
]


def _on_nobody(module, **settings):
  """A bare attack on nobody."""
  labels_only = getattr(module, 'ACCESS', 'scores') == 'labels'
  door = null_teacher.nobody(3, labels_only=labels_only)
  method = bare.attack(module, {'teacher': door}, **settings)
  return null_teacher.on_nobody(method)


def _take(module, label, **settings):
  metrics, gradient, _ = bare.take(
    _on_nobody(module, **settings), bare.batch(Z_S, [label])
  )
  return float(metrics['loss']), gradient


def _config(**changes):
  config = config_files.load('digits')
  small = {
    'teacher.model': 'mlp',
    'students': ('cnn4',),
    'seeds': (0,),
    'progress': False,
    'defenses': ('none', 'stingy'),
    'attacks': tuple(ATTACKS),
    'null_teacher': True,
    'recipe.epochs': 1,
    'limit': 200,
    'dfme.budget': 10_000,
    'dfme.student_steps': 1,
    'maze.student_steps': 2,
    'maze.replay_steps': 1,
    'kd_tuned.alphas': (0.1, 0.9),
    'kd_tuned.temperatures': (4.0,),
  }
  config.update_from_flattened_dict(small | changes)
  return config


@pytest.fixture(scope='module')
def planned():
  return plan.make(_config())


def _nulls(planned, role='student'):
  return {r.method: r for r in planned if r.robs_nobody and r.role == role}


def test_kd_of_nobody_learns_the_label_at_tau():
  loss, gradient = _take(kd, 0, temperature=4.0, alpha=0.9)
  log_p = losses.log_scores(Z_S, 4.0)[0]
  expected = -0.9 * 16 * float(log_p[0]) + 0.1 * 0.680270
  assert loss == pytest.approx(expected, abs=1e-4)
  label = np.eye(3)[0]
  at_tau, at_one = (np.exp(losses.log_scores(Z_S, t))[0] for t in (4.0, 1.0))
  expected = 0.9 * 4 * (at_tau - label) + 0.1 * (at_one - label)
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_htc_of_nobody_is_cross_entropy():
  """At any temperature: one label has no classes to soften it with."""
  assert _take(htc, 0)[0] == pytest.approx(0.680270, abs=1e-5)


def test_hard_label_of_nobody_is_cross_entropy_with_the_own_label():
  for label in range(3):
    expected = float(losses.cross_entropy(Z_S, np.array([label]))[0])
    assert _take(hard_label, label)[0] == pytest.approx(expected, rel=1e-5)


def test_mkd_of_nobody_learns_soft_labels():
  """Of each class a row of its matrix, which is trained like the rest."""
  method, given = _on_nobody(mkd, alpha=1.0), bare.batch(Z_S, [0])
  matrices = bare.start(method, given).extra
  metrics, _, after = bare.take(method, given)
  row = (np.eye(3) + matrices['u'][0] @ matrices['v'][0].T)[:1]
  kl = losses.kl_divergence(jnp.asarray(row), jnp.asarray(Z_S / 4.0))
  assert metrics['loss'] == pytest.approx(16 * float(kl[0]), rel=1e-4)
  assert np.abs(after.extra['v'][0] - matrices['v'][0]).max() > 1e-4
  np.testing.assert_array_equal(after.extra['v'][1], matrices['v'][1])


def test_without_a_label_nothing_is_known():
  loss, gradient = _take(knockoff, -1)
  log_p = losses.log_scores(Z_S)[0]
  assert loss == pytest.approx(-float(log_p.mean()), rel=1e-5)
  np.testing.assert_allclose(gradient, np.exp(log_p) - 1 / 3, atol=1e-6)


def _reads_teacher(run):
  """Whether anything in a step depends on the weights of a teacher.

  Nothing is computed: their use is looked for in what is traced.
  """
  method = programs.build(run, 128).method
  image, key = jnp.zeros((4, 8, 8, 1)), jax.random.key(0)
  batch = {'image': image, 'label': jnp.arange(4), 'index': jnp.arange(4)}
  names = {'teacher': 'mlp'} | {k: v.model for k, v in run.parents.items()}
  frozen = {
    role: jax.eval_shape(models.get_model(name, 10).init, key, image)
    for role, name in names.items()
  }
  state = jax.eval_shape(method.init, key, batch, frozen)
  traced = jax.make_jaxpr(method.step)(state, frozen, batch, key).jaxpr
  # In the order of the arguments, and of frozen by its keys.
  which = [
    any(getattr(part, 'key', None) == 'teacher' for part in path)
    for path, _ in jax.tree.leaves_with_path((state, frozen, batch, key))
  ]
  used = {id(v) for equation in traced.eqns for v in equation.invars}
  return any(
    id(variable) in used
    for variable, wanted in zip(traced.invars, which, strict=True)
    if wanted
  )


@pytest.mark.parametrize(
  'name', [name for name in HEARERS if ATTACKS[name].make]
)
def test_no_weight_of_a_teacher_has_a_part_in_value_or_gradient(name, planned):
  assert not _reads_teacher(_nulls(planned)[name])
  robbing = next(r for r in planned if r.method == name and not r.robs_nobody)
  assert _reads_teacher(robbing)


def test_every_attack_that_hears_answers_is_run_on_nobody_once(planned):
  """For all teachers, and for the normal one as well."""
  nulls = _nulls(planned)
  assert sorted(nulls) == sorted(HEARERS)
  students = [run for run in planned if run.role == 'student']
  for name, null in nulls.items():
    assert sum(run.robs_nobody for run in students if run.method == name) == 1
    assert null.compared_with.keys() == {'control'}
    assert 'teacher' not in null.parents
  for run in students:
    expected = nulls.get(run.method)
    if 'images' not in run.parents and not run.robs_nobody:
      assert run.compared_with.get('null') == expected
  quiet = plan.make(_config(null_teacher=False))
  assert not any(run.robs_nobody for run in quiet)
  # Who picks from others, or has helpers, has them on nobody too.
  added = set(planned) - set(quiet) - set(nulls.values())
  assert {run.role for run in added} == {'helper'}
  candidates = nulls['kd_tuned'].candidates.values()
  assert all(run.robs_nobody for run in candidates)


def test_an_attack_on_nobody_is_a_run_like_any_other(tmp_path, planned):
  run = _nulls(planned)['kd']
  store = store_lib.Store(tmp_path, str(tmp_path / 'data'))
  (result,) = execute.run_group([run], store)
  assert result['status'] == 'finished'
  assert result['queries'] is None
  assert result['parents'] == {}
  assert run.label == 'student cnn4 kd seed 0'
