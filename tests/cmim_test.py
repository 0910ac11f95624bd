"""CMIM: its estimate by hand and in the limit, its means, what is trained."""

import functools

import bare
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import losses
from undistillable.defenses import cmim, none

SIZE, CLASSES = 12, 5
TAUS = (1.0, 4.0, 20.0)
LABELS = np.arange(SIZE) % (CLASSES - 1)  # The last class is never seen.
enter = jax.jit(cmim.enter, static_argnames=('temperatures', 'decay'))
divergence = jax.jit(cmim.divergence, static_argnames='temperatures')
# Of equal settings it is compiled once.
defense = functools.cache(functools.partial(bare.attack, cmim, {}))


def _random(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return scale * rng.normal(size=(SIZE, CLASSES)).astype(np.float32)


def _exact(logits, labels, temperatures=TAUS):
  """The divergence from the means of exactly these logits."""
  table = cmim.empty(logits.shape[-1], len(temperatures))
  given = {'labels': labels, 'temperatures': temperatures}
  table = enter(table, logits, **given, decay=0.99)
  return np.asarray(divergence(table, logits, **given))


def _softmax(logits):
  scores = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
  return scores / scores.sum(-1, keepdims=True)


@pytest.mark.parametrize(
  ('temperature', 'expected', 'tolerance'),
  [
    (1.0, 0.216673, 1e-5),
    (10.0, 0.257138, 1e-5),
    # Here float32 knows the scores to 1e-4 of their differences.
    (1000.0, 0.250083, 1e-4),
  ],
)
def test_one_class_has_the_known_estimates(temperature, expected, tolerance):
  logits = np.float32([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
  found = _exact(logits, np.zeros(2, int), (temperature,)).mean()
  assert found == pytest.approx(expected, abs=tolerance)
  # The limit: 1 / 2K of the variance of the centred logits.
  centred = logits - logits.mean(-1, keepdims=True)
  limit = np.square(centred - centred.mean(0)).sum(-1).mean() / 6
  assert limit == pytest.approx(0.25, abs=1e-6)
  assert (abs(found - limit) < 2e-4) == (temperature == 1000.0)


def test_it_is_0_where_the_logits_of_a_class_are_equal():
  logits = _random(0)[LABELS]
  np.testing.assert_allclose(_exact(logits, LABELS), 0.0, atol=1e-6)
  assert _exact(_random(0), LABELS).min() > 1e-3


def test_what_is_added_to_all_logits_of_an_example_changes_nothing():
  logits, shift = _random(0), _random(1, 10.0)[:, :1]
  expected = _exact(logits, LABELS)
  np.testing.assert_allclose(
    _exact(logits + shift, LABELS), expected, rtol=1e-3
  )


@pytest.mark.parametrize('scale', [1.0, 10.0, 1e3])
def test_it_is_the_entropy_of_the_mean_less_the_mean_entropy(scale):
  """By the definition, in float64, one class and temperature at a time."""
  logits = _random(0, scale)
  found = _exact(logits, LABELS)
  for label in range(CLASSES - 1):
    terms = []
    for tau in TAUS:
      p = _softmax(logits[label == LABELS] / tau)
      q = p.mean(0)
      entropy, mean = (
        -(x * np.log(np.where(x > 0, x, 1.0))).sum(-1).mean() for x in (q, p)
      )
      assert entropy - mean <= np.log(CLASSES)
      terms.append(tau**2 * (entropy - mean))
    found_here = found[label == LABELS].mean()
    np.testing.assert_allclose(found_here, np.mean(terms), rtol=1e-4)


def test_the_means_move_and_are_unbiased_from_the_first_batch_on():
  table = cmim.empty(CLASSES, len(TAUS))
  mean = np.zeros((len(TAUS), CLASSES, CLASSES))
  weight = np.zeros(CLASSES)
  for seed, labels in enumerate((LABELS, LABELS % 2, np.zeros_like(LABELS))):
    logits = _random(seed)
    table = enter(table, logits, labels, temperatures=TAUS, decay=0.9)
    for label in set(labels):
      p = [_softmax(logits[labels == label] / tau).mean(0) for tau in TAUS]
      # Each batch counts 0.9 times what the next one counts.
      weight[label] = 0.9 * weight[label] + 1.0
      mean[:, label] += (np.array(p) - mean[:, label]) / weight[label]
  seen = slice(CLASSES - 1)
  found = table['scores'] / np.maximum(table['weights'], 1e-9)[None, :, None]
  np.testing.assert_allclose(found[:, seen], mean[:, seen], rtol=1e-5)
  assert not table['scores'][:, -1].any()
  assert table['weights'][-1] == 0


@pytest.mark.parametrize(
  ('step', 'weight'), [(1, 0.0), (2, 0.75), (5, 3.0), (9, 3.0)]
)
def test_a_step_is_the_loss_as_written_and_moves_the_table(step, weight):
  """From a table that batches before it have left."""
  before = enter(
    cmim.empty(CLASSES, len(TAUS)),
    _random(1),
    LABELS,
    temperatures=TAUS,
    decay=0.9,
  )
  given = bare.batch(_random(0), LABELS)
  method = defense(
    weight=3.0, temperatures=TAUS, decay=0.9, delay_steps=2, ramp_steps=4
  )
  state = bare.start(method, given)
  metrics, gradient, after = bare.take(
    method, given, state.replace(extra=before, step=jnp.int32(step))
  )
  table = enter(before, _random(0), LABELS, temperatures=TAUS, decay=0.9)

  def loss(bias):
    logits = _random(0) + bias[None]
    cmi = divergence(table, logits, LABELS, temperatures=TAUS)
    return (losses.cross_entropy(logits, LABELS) + weight * cmi).mean()

  value, expected = jax.jit(jax.value_and_grad(loss))(jnp.zeros(CLASSES))
  assert metrics['weight'] == pytest.approx(weight)
  assert metrics['loss'] == pytest.approx(float(value), rel=1e-5)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
  for name, array in table.items():
    np.testing.assert_allclose(after.extra[name], array, rtol=1e-5)


def test_without_weight_it_is_cross_entropy():
  given = bare.batch(_random(0, 30.0), LABELS)
  plain, expected, _ = bare.take(bare.attack(none, {}), given)
  for settings in ({'weight': 0.0, 'delay_steps': 0}, {'delay_steps': 1}):
    metrics, gradient, _ = bare.take(defense(**settings), given)
    assert metrics['loss'] == pytest.approx(float(plain['loss']), rel=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    assert metrics['cmi'] > 1.0


def test_a_large_weight_makes_the_scores_of_a_class_alike():
  """A descent in the logits themselves, with the labels for company."""
  logits = jnp.asarray(_random(0, 3.0))
  table = cmim.empty(CLASSES, len(TAUS))

  @jax.jit
  def step(logits, table):
    given = {'labels': LABELS, 'temperatures': TAUS}
    table = cmim.enter(table, logits, **given, decay=0.9)

    def loss(z):
      cmi = cmim.divergence(table, z, **given)
      return (losses.cross_entropy(z, LABELS) + 3.0 * cmi).sum()

    return logits - 0.1 * jax.grad(loss)(logits), table

  for _ in range(300):
    logits, table = step(logits, table)
  assert (logits.argmax(-1) == LABELS).all()
  assert (
    _exact(logits, LABELS).max() < 1e-2 * _exact(_random(0, 3.0), LABELS).max()
  )


@pytest.mark.parametrize('scale', [1e4, -losses.WITHHELD])
def test_the_extremes_leave_everything_finite(scale):
  given = bare.batch(_random(0, scale), LABELS)
  method = defense(delay_steps=0, ramp_steps=0)
  state = bare.start(method, given)
  for _ in range(2):
    metrics, gradient, state = bare.take(method, given, state)
    assert np.isfinite(list(metrics.values())).all()
    assert np.isfinite(gradient).all()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.extra))


def test_the_table_is_no_part_of_what_is_served():
  state = bare.start(defense(), bare.batch(_random(0), LABELS))
  assert state.extra['scores'].shape == (4, CLASSES, CLASSES)
  assert set(state.variables) == {'params', 'batch_stats'}


def test_a_training_that_ends_before_the_ramp_says_so():
  settings = cmim.Settings(weight=3.0, ramp_steps=60)
  text = cmim.warning({'weight': 1.25}, settings)
  assert 'lambda has risen to 1.2 of 3 only' in text
  assert 'cmim.ramp_steps (now 60)' in text
  assert cmim.warning({'weight': 3.0}, settings) is None
  assert cmim.warning({'weight': 0.0}, cmim.Settings(weight=0.0)) is None
  assert 'cmim.weight (now 3.0)' in cmim.remedy(settings)


def test_bad_settings_are_refused():
  for changes in (
    {'weight': -0.1},
    {'temperatures': ()},
    {'temperatures': (1.0, 1.0)},
    {'temperatures': (0.0,)},
    {'decay': 1.0},
    {'decay': float('nan')},
    {'delay_steps': -1},
    {'ramp_steps': 1.5},
  ):
    with pytest.raises(ValueError, match=next(iter(changes))):
      cmim.Settings(**changes)
