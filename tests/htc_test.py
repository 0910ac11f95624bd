"""HTC: its divergence by hand, and what it becomes at both ends of T."""

import bare
import numpy as np
import pytest

from undistillable import losses
from undistillable.attacks import htc, kd

Z_S, Z_T = np.float32([bare.STUDENT]), np.float32([bare.TEACHER])
LABEL = np.array([0])


def test_the_divergence_is_the_known_answer():
  metrics = bare.known(htc, temperature=50.0, alpha=0.9)
  assert metrics['divergence'] == pytest.approx(0.075392, abs=1e-5)
  expected = 0.9 * 0.075392 + 0.1 * 0.680270
  assert metrics['loss'] == pytest.approx(expected, abs=1e-5)


def test_far_up_it_is_label_smoothing_but_for_a_constant():
  given = bare.batch(Z_S, LABEL, teacher=Z_T)
  attack = bare.attack(htc, temperature=1e6, alpha=0.3)
  metrics, gradient, _ = bare.take(attack, given)
  assert metrics['divergence'] == pytest.approx(0.081657, abs=1e-5)
  smooth = losses.label_smoothing(Z_S, LABEL, epsilon=0.3)
  entropy = 0.3 * np.log(3)
  assert metrics['loss'] == pytest.approx(float(smooth[0]) - entropy, abs=1e-5)
  target = 0.7 * np.eye(3)[0] + 0.1
  expected = np.exp(losses.log_scores(Z_S))[0] - target
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize(
  'settings, temperature',
  [
    ({'temperature': 1.0}, 1.0),
    ({'temperature': 4.0, 'form': 'symmetric'}, 4.0),
  ],
)
def test_at_one_temperature_it_is_kd(settings, temperature):
  given = bare.batch(Z_S, LABEL, teacher=Z_T)
  found = bare.take(bare.attack(htc, **settings), given)
  other = bare.attack(kd, temperature=temperature, alpha=0.9)
  expected = bare.take(other, given)
  np.testing.assert_allclose(found[0]['loss'], expected[0]['loss'], rtol=1e-5)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


def test_without_alpha_it_is_cross_entropy():
  metrics = bare.known(htc, alpha=0.0)
  assert metrics['loss'] == pytest.approx(0.680270, abs=1e-5)


def test_a_withheld_class_stays_withheld_and_finite():
  withheld = np.array(Z_T)
  withheld[:, 1:] = losses.WITHHELD
  given = bare.batch(1e4 * Z_S, LABEL, teacher=withheld)
  metrics, gradient, _ = bare.take(bare.attack(htc), given)
  # Certain of the label at any temperature: cross entropy.
  cross_entropy = losses.cross_entropy(1e4 * Z_S, LABEL)[0]
  assert metrics['loss'] == pytest.approx(float(cross_entropy), abs=1e-6)
  assert np.isfinite(gradient).all()


def test_bad_settings_are_refused():
  for changes, message in (
    ({'temperature': 0.0}, 'temperature=0.0'),
    ({'alpha': 1.1}, 'alpha=1.1'),
    ({'form': 'both'}, "'both'; known: asymmetric, symmetric"),
  ):
    with pytest.raises(ValueError, match=message):
      htc.Settings(**changes)
