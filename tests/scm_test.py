"""SCM and its contrastive links: by hand, at their limits, and their plan."""

import bare
import config_files
import numpy as np
import pytest

from undistillable import losses
from undistillable.attacks import contrastive, kd, scm
from undistillable.graph import plan, programs

Z_S, Z_T = np.float32([bare.STUDENT]), np.float32([bare.TEACHER])
LABEL = np.array([0])


def _random(seed, size=3, num_classes=4):
  rng = np.random.default_rng(seed)
  return 3.0 * rng.normal(size=(size, num_classes)).astype(np.float32)


def _on(*networks, **settings):
  """A step of SCM from a teacher and links with these answers."""
  roles = ['teacher', *(f'link{i}' for i in range(1, len(networks)))]
  method = bare.attack(scm, dict.fromkeys(roles, bare.Bias()), **settings)
  answers = dict(zip(roles, networks, strict=True))
  return bare.take(method, bare.batch(Z_S, LABEL, **answers))


def _plans(attacks=('scm',), **changes):
  config = config_files.load('digits')
  small = {
    'teacher.model': 'cnn8',
    'students': ('cnn4',),
    'seeds': (0,),
    'defenses': ('stingy',),
    'attacks': attacks,
    'null_teacher': True,
    'contrastive.omega': 0.3,
  }
  config.update_from_flattened_dict(small | changes)
  return plan.make(config)


def test_without_links_it_is_kd():
  metrics, gradient, _ = _on(Z_T)
  expected = bare.take(bare.attack(kd), bare.batch(Z_S, LABEL, teacher=Z_T))
  assert metrics['loss'] == pytest.approx(0.913479, abs=1e-5)
  np.testing.assert_allclose(gradient, expected[1], atol=1e-6)


def test_equal_networks_are_one_and_their_order_does_not_matter():
  one, two = np.float32([(0.0, 4.0, 1.0)]), np.float32([(-2.0, 0.0, 3.0)])
  loss = _on(Z_T, Z_T, Z_T)[0]['loss']
  assert loss == pytest.approx(0.913479, abs=1e-5)
  first, second = _on(Z_T, one, two), _on(two, Z_T, one)
  np.testing.assert_allclose(first[0]['loss'], second[0]['loss'], rtol=1e-5)
  np.testing.assert_allclose(first[1], second[1], rtol=1e-4, atol=1e-6)
  assert abs(first[0]['loss'] - loss) > 0.01


def test_the_mean_is_that_of_scores_at_tau():
  z = [_random(seed) for seed in range(3)]
  z[1][0, 1:] = losses.WITHHELD
  for row in z:
    row[2, 3] = losses.WITHHELD  # By all of them.
  found = np.exp(scm.mean_scores(z, temperature=4.0))
  powers = [np.exp(row / 4.0) for row in z]
  expected = sum(p / p.sum(-1, keepdims=True) for p in powers) / 3
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert np.isfinite(scm.mean_scores(z, temperature=4.0)).all()
  assert found[2, 3] == 0.0


def test_a_contrastive_network_is_nasty_to_the_teacher():
  """The known answer, in which the student has the place of the adversary."""
  given = bare.batch(Z_T, LABEL, teacher=Z_S)
  attack = bare.attack(contrastive, omega=0.5, temperature=4.0)
  metrics, _, _ = bare.take(attack, given)
  assert 16 * metrics['kl'] == pytest.approx(0.939391, abs=1e-5)
  cross_entropy = float(losses.cross_entropy(Z_T, LABEL)[0])
  assert metrics['loss'] == pytest.approx(
    cross_entropy - 0.5 * 0.939391, abs=1e-5
  )


def test_without_omega_it_is_cross_entropy():
  metrics = bare.known(contrastive, omega=0.0)
  assert metrics['loss'] == pytest.approx(0.680270, abs=1e-5)


@pytest.mark.parametrize('scale', [1.0, 1e4])
def test_withheld_classes_bound_the_divergence(scale):
  withheld = np.float32([(0.0, losses.WITHHELD, losses.WITHHELD)])
  given = bare.batch(scale * Z_S, LABEL, teacher=withheld)
  metrics, gradient, _ = bare.take(bare.attack(contrastive), given)
  assert np.isfinite(gradient).all()
  # -log of the smallest score that is taken for none, 1e-3 / 3, at tau 4.
  assert 0 <= metrics['kl'] < -np.log(1e-3 / 3)


def test_the_plan_is_a_chain_and_ends_with_the_student():
  planned = _plans()
  students = [r for r in planned if r.method == 'scm']
  assert [r.role for r in students] == ['student'] * 3
  for run in students:
    links = [p for role, p in run.parents.items() if role != 'teacher']
    assert [link.role for link in links] == ['helper', 'helper']
    assert {link.model for link in links} == {'cnn4'}
    assert links[0].parents.get('teacher') == run.parents.get('teacher')
    assert links[1].parents['teacher'] == links[0]
    # Of nobody's links none is contrastive.
    assert {link.settings['omega'] for link in links} == (
      {0.0} if run.robs_nobody else {0.3}
    )
    asked = programs.build(run, 128).method.answer_fns
    heard = [] if run.robs_nobody else ['teacher']
    assert sorted(asked) == ['link1', 'link2', *heard]
  null = next(run for run in students if run.robs_nobody)
  for run in students:
    if run != null:
      assert run.compared_with['null'] == null
  short = _plans(**{'scm.links': 0})
  assert not any(run.role == 'helper' for run in short)


def test_bad_settings_are_refused():
  for module, changes in (
    (scm, {'links': -1}),
    (scm, {'links': 1.5}),
    (scm, {'temperature': 0.0}),
    (scm, {'alpha': 1.1}),
    (contrastive, {'omega': -0.1}),
    (contrastive, {'temperature': 0.0}),
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      module.Settings(**changes)
