"""Evaluation: every example once, numbers by hand, withheld classes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import method as method_lib, models
from undistillable.data import batches
from undistillable.training import evaluate, parallel

MODEL = models.get_model('cnn8', 10)
PLAIN = batches.prepare_fn((0.5,), (0.25,))


def _arrays(number):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (number, 8, 8, 1)).astype(np.uint8),
    'label': rng.integers(0, 10, number).astype(np.int32),
  }


@functools.cache
def _init():
  """Compiled once for all seeds."""
  init = functools.partial(MODEL.init, train=False)
  return jax.jit(lambda key: init(key, jnp.zeros((1, 8, 8, 1))))


def test_a_prediction_is_compiled_once():
  """Whatever the number of batches, a shorter one among them, and networks."""
  chex.clear_trace_counter()
  apply_fn = chex.assert_max_traces(method_lib.frozen_fn(MODEL), n=1)
  for seed, number in ((0, 37), (1, 9)):
    variables = _init()(jax.random.key(seed))
    evaluate.predict(apply_fn, variables, _arrays(number), PLAIN, batch_size=16)


@pytest.mark.parametrize('batch_size', [3, 16, 512])
def test_prediction_covers_every_example(batch_size):
  arrays = _arrays(37)
  variables = _init()(jax.random.key(0))
  logits = evaluate.predict(
    method_lib.frozen_fn(MODEL),
    variables,
    arrays,
    PLAIN,
    batch_size=batch_size,
  )
  images = (arrays['image'] / np.float32(255) - 0.5) / np.float32(0.25)
  apply = jax.jit(functools.partial(MODEL.apply, train=False))
  expected = apply(variables, jnp.asarray(images))
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_scores_by_hand():
  logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
  scores = evaluate.scores(logits, np.array([0, 1]))
  assert scores['accuracy'] == 50.0
  np.testing.assert_allclose(scores['nll'], -np.log(0.5 * 0.1) / 2)


def test_fidelity_by_hand():
  p, q = np.log([[0.75, 0.25]]), np.log([[0.25, 0.75]])
  found = evaluate.fidelity(q, p)
  assert found['agreement'] == 0.0
  np.testing.assert_allclose(found['kl'], 0.5 * np.log(3))


def test_a_class_that_is_withheld_takes_no_part():
  """1/4 and 3/4 of the other two, against 1/3 each."""
  teacher = np.array([[0.0, -np.inf, np.log(3.0)]], np.float32)
  student = np.zeros((1, 3), np.float32)
  expected = 0.25 * np.log(3 / 4) + 0.75 * np.log(9 / 4)
  found = evaluate.fidelity(student, teacher)
  np.testing.assert_allclose(found['kl'], expected, rtol=1e-6)
  assert evaluate.fidelity(teacher, teacher)['kl'] == 0


def test_a_withheld_truth_costs_as_much_as_one_in_ten_thousand():
  """The probabilities of all classes are then mixed with that floor."""
  teacher = np.array([[0.0, -np.inf, np.log(3.0)]], np.float32)
  for label, probability in ((1, 0.0), (2, 0.75)):
    found = evaluate.scores(teacher, np.array([label]))['nll']
    expected = -np.log((1 - 3e-4) * probability + 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_whatever_is_withheld_is_judged_with_numbers():
  withholding = np.array([[0.0, -np.inf, 1.0]], np.float32)
  values = [
    *evaluate.scores(withholding, np.array([1])).values(),
    *evaluate.fidelity(withholding, np.zeros((1, 3))).values(),
    *evaluate.fidelity(withholding[:, ::-1], withholding).values(),
    *evaluate.fidelity(withholding[:, [1, 0, 2]], withholding).values(),
  ]
  assert np.isfinite(values).all()


def _log(*rows):
  with np.errstate(divide='ignore'):
    return np.log(np.array(rows))


def test_a_price_by_hand():
  """Sure by 0.7 and right, by 0.62 and wrong."""
  served = _log([0.7, 0.2, 0.1], [0.1, 0.62, 0.28])
  normal = _log([0.6, 0.3, 0.1], [0.1, 0.2, 0.7])
  found = evaluate.price(served, normal, np.array([0, 2]))
  floored = (1 - 3e-4) * np.array([0.7, 0.28]) + 1e-4
  expected = {
    'accuracy': 50.0,
    'flipped': 50.0,
    'brier': (0.09 + 0.04 + 0.01 + 0.01 + 0.62**2 + 0.72**2) / 2,
    'nll': -np.log(floored).mean(),
    # Each answer is alone in its bin.
    'ece': 100 * (0.3 + 0.62) / 2,
    # Of the three classes; of the last, 0.1 and 0.28 are in two bins.
    'classwise_ece': 100 * (0.3 + 0.1 + 0.2 + 0.62 + 0.1 + 0.72) / 6,
    # No error among the surest one, half of both are wrong.
    'aurc': 100 * (0 + 0.5) / 2,
    'l1': (0.2 + 0.84) / 2,
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


def test_answers_of_one_bin_may_make_up_for_each_other():
  """As sure as they are right on average, 2 of 3: no error."""
  served = _log(*[[0.665, 0.335]] * 3)
  found = evaluate.price(served, served, np.array([0, 0, 1]))
  np.testing.assert_allclose(found['ece'], 100 * (2 / 3 - 0.665), rtol=1e-9)


@pytest.mark.parametrize('top', [0.4, 0.6, 0.8])
def test_answers_on_the_edge_of_a_bin_are_all_in_it(top):
  """Rounding of the logarithms would tell equal scores apart."""
  others = np.random.default_rng(0).dirichlet(np.full(3, 200.0), 200)
  served = np.c_[np.full(200, top), (1 - top) * others]
  served = np.log(served).astype(np.float32)
  right = np.arange(200) % 10 < 10 * top
  found = evaluate.price(served, served, np.where(right, 0, 1))
  np.testing.assert_allclose(found['ece'], 0, atol=1e-4)


def test_who_is_equally_sure_of_all_ranks_nothing():
  """Then the risk is the error rate at every coverage, in whatever order."""
  labels = np.array([1, 0, 0, 0, 1, 0, 0, 0])
  served = _log(*[[1.0, 0.0]] * 8)
  found = evaluate.price(served, served, labels)
  np.testing.assert_allclose(found['aurc'], 25.0)
  assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize('right', [[True, False], [False, True]])
def test_equally_sure_answers_of_other_shapes_rank_nothing(right):
  """Their logarithms are rounded each in its own way."""
  served = _log([0.8, 0.2, 0.0], [0.8, 0.1, 0.1]).astype(np.float32)
  served = np.tile(served, (10, 1))
  labels = np.where(np.tile(right, 10), 0, 1)
  found = evaluate.price(served, served, labels)
  np.testing.assert_allclose(found['aurc'], 50.0)


@pytest.mark.parametrize('labels', [[1], [0, 1, 4], [0, -1, 1], [-1, -1, -1]])
def test_labels_that_do_not_fit_have_no_price(labels):
  """A single one would be that of all images, and -1 the last class."""
  answers, fitting = np.zeros((3, 4)), np.array([0, 1, 2])
  with pytest.raises(ValueError, match='labels'):
    evaluate.price(answers, answers, np.array(labels))
  with pytest.raises(ValueError, match='labels'):
    evaluate.price(answers, answers, fitting, (answers, np.array(labels)))


def test_a_price_does_not_depend_on_the_order_of_images():
  rng = np.random.default_rng(0)
  served = np.round(rng.normal(size=(40, 7)), 1)
  normal, labels = rng.normal(size=(40, 7)), rng.integers(0, 7, 40)
  order = rng.permutation(40)
  one = evaluate.price(served, normal, labels)
  other = evaluate.price(served[order], normal[order], labels[order])
  assert 0 < one['top5'] < 100
  for name, value in one.items():
    np.testing.assert_allclose(other[name], value, rtol=1e-9, err_msg=name)


def test_what_serves_the_normal_answers_costs_nothing():
  rng = np.random.default_rng(0)
  normal = rng.normal(size=(30, 10))
  found = evaluate.price(normal + 3.0, normal, rng.integers(0, 10, 30))
  assert found['flipped'] == 0
  np.testing.assert_allclose(found['l1'], 0, atol=1e-12)


def test_a_client_finds_the_temperature_that_the_owner_has_taken():
  """Labels are drawn as logits say; what is served is three times as sure."""
  rng = np.random.default_rng(0)
  logits = 2.0 * rng.normal(size=(8_000, 6))
  noise = rng.gumbel(size=logits.shape)
  labels = (logits + noise).argmax(-1)
  served, held_out = (3 * logits[:4_000], 3 * logits[4_000:])
  found = evaluate.price(
    served, logits[:4_000], labels[:4_000], (held_out, labels[4_000:])
  )
  honest = evaluate.price(logits[:4_000], logits[:4_000], labels[:4_000])
  np.testing.assert_allclose(found['temperature'], 3, rtol=0.1)
  np.testing.assert_allclose(found['fitted_nll'], honest['nll'], rtol=0.01)
  assert found['fitted_ece'] < 3 < 10 < found['ece']
  assert found['fitted_classwise_ece'] < found['classwise_ece']


def test_of_several_minima_a_client_finds_the_least():
  """Many answers are hardly sure, and some very sure and wrong."""
  logits = np.zeros((100, 10))
  logits[:60, 0] = 0.1
  logits[60:, 1] = 40.0
  labels = np.zeros(100, int)
  found = evaluate.price(logits, logits, labels, (logits, labels))

  def loss(temperature):
    p = np.exp(
      logits / temperature - logits.max(1, keepdims=True) / temperature
    )
    p /= p.sum(1, keepdims=True)
    return -np.log((1 - 1e-3) * p[:, 0] + 1e-4).mean()

  least = min(map(loss, np.geomspace(0.02, 50, 1_000)))
  np.testing.assert_allclose(found['fitted_nll'], least, rtol=1e-3)


def test_a_class_that_is_withheld_stays_so_at_every_temperature():
  served = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
  labels = np.array([0, 0])
  found = evaluate.price(served, served, labels, (served, labels))
  nll = -(np.log(1 - 1e-4) + np.log(1e-4)) / 2
  np.testing.assert_allclose([found['nll'], found['fitted_nll']], nll)


def test_the_largest_change_is_one_of_scores_and_not_of_logits():
  logits = np.array([[0.0, 0.0], [5.0, 5.0]])
  other = np.array([[7.0, 7.0], [np.log(0.7), np.log(0.3)]])
  np.testing.assert_allclose(evaluate.largest_change(logits, other), 0.2)
  assert evaluate.largest_change(logits, logits + 3.0) == 0
  with pytest.raises(ValueError, match='expected the same .N, K.'):
    evaluate.largest_change(logits, other[:1])


def test_hits_are_packed_into_text_and_back():
  hits = np.random.default_rng(0).random(37) < 0.5
  text = evaluate.pack(hits)
  assert len(text) == 10
  np.testing.assert_array_equal(evaluate.unpack(text, 37), hits)


def test_weights_are_read_where_others_lay_before():
  """As in a study of many networks: memory is given back, and used again.

  XLA of JAX 0.7.2 and 0.8.0 multiplied by those before, if it was allowed to.
  """
  network = models.get_model('mlp', 10)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 8, 8, 1), np.uint8)
  arrays = {'image': images, 'label': np.zeros(20, np.int32)}
  init = jax.jit(lambda key: network.init(key, jnp.zeros((1, 8, 8, 1))))
  ask, prepare = (
    method_lib.frozen_fn(network),
    batches.prepare_fn((0.3,), (0.4,)),
  )
  for seed in range(40):
    variables = parallel.replicate(init(jax.random.key(seed)))
    x = (images.reshape(20, -1) / np.float32(255) - 0.3) / 0.4
    for layer in ('fc1', 'fc2', 'fc3'):
      weights = jax.tree.map(np.array, variables['params'][layer])
      x = np.maximum(x @ weights['kernel'] + weights['bias'], 0)
    found = evaluate.predict(ask, variables, arrays, prepare)
    np.testing.assert_allclose(found, x, atol=1e-4)
    del variables
