"""What defenses serve: known answers, and what holds for every one of them.

A defense that serves has its neutral settings in `NEUTRAL`; whether it keeps
the top class stands in `KEEPS_TOP`.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from undistillable import defenses, losses, serving
from undistillable.defenses import (
  adaptive_misinformation,
  decoy,
  grad2,
  linear_program,
  mad,
  modelguard_s,
  modelguard_w,
  reverse_sigmoid,
  rounding,
  stingy,
  top_k,
)

Y = np.float32([[0.6, 0.25, 0.1, 0.05]])
# Settings with which each is no defense.
NEUTRAL = {
  'adaptive_misinformation': [{'tau': 0.0}],
  'decoy': [{'threshold': -1e6}],
  'grad2': [{'epsilon': 0.0}],
  'mad': [
    {'epsilon': 0.0, 'oracle': oracle}
    for oracle in ('argmax', 'extreme', 'lp_argmax', 'lp_extreme')
  ],
  'modelguard_s': [{'epsilon': 0.0, 'miss': 'exact'}],
  'modelguard_w': [{'epsilon': 0.0}],
  'reverse_sigmoid': [{'beta': 0.0}, {'gamma': 0.0}],
  'rounding': [{'decimals': None}],
  'stingy': [{'ratio': 1.0}],
  'top_k': [{'k': 10}, {'k': 1000}],
}
# Settings with which the top class is the same for every answer.
KEEPS_TOP = {
  'adaptive_misinformation': [],
  'decoy': [],
  'grad2': [],
  'mad': [{}, {'epsilon': 2.0}, {'epsilon': 2.0, 'oracle': 'argmax'}],
  'modelguard_s': [{}, {'miss': 'exact', 'epsilon': 0.2}],
  'modelguard_w': [{}, {'epsilon': 2.0}],
  'reverse_sigmoid': [{}],
  'rounding': [],
  'stingy': [{}, {'ratio': 0.7}],
  'top_k': [{}, {'k': 3}],
}
IMPOSSIBLE = [
  (adaptive_misinformation, {'nu': 0.0}),
  (adaptive_misinformation, {'tau': -0.1}),
  (grad2, {'direction': 'left'}),
  (grad2, {'epsilon': -1.0}),
  (grad2, {'seed': 0.5}),
  (mad, {'epsilon': -1.0}),
  (mad, {'oracle': 'lp'}),
  (modelguard_s, {'epsilon': float('nan')}),
  (modelguard_s, {'miss': 'first'}),
  (modelguard_s, {'words': 0}),
  (modelguard_w, {'epsilon': -1.0}),
  (reverse_sigmoid, {'beta': -0.1}),
  (reverse_sigmoid, {'gamma': float('inf')}),
  (rounding, {'decimals': -1}),
  (rounding, {'decimals': 0.5}),
  (stingy, {'ratio': 1.5}),
  (top_k, {'k': 0}),
  (top_k, {'k': True}),
]


def _logits(rows=64, classes=10, scale=3.0):
  rng = np.random.default_rng(0)
  return np.float32(scale * rng.normal(size=(rows, classes)))


def _softmax(z):
  return scipy.special.softmax(np.asarray(z), axis=-1)


def _log_softmax(z):
  return scipy.special.log_softmax(np.asarray(z), axis=-1)


class _Net(nn.Module):
  """A network of two layers, or of one."""

  classes: int
  width: int = 4

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    if self.width:
      x = nn.tanh(nn.Dense(self.width)(x))
    return nn.Dense(self.classes)(x)


def _images(rows):
  return np.float32(np.random.default_rng(2).normal(size=(rows, 2, 2, 1)))


@functools.cache
def _network(classes, width=4):
  """With all that any defense trains beside it."""
  net = _Net(classes, width)
  init = jax.jit(net.init)
  own, wrong, surrogate = (
    init(jax.random.key(seed), _images(1)) for seed in range(3)
  )
  book, _ = jax.jit(modelguard_s.enter)(
    modelguard_s.empty(classes, 4), _logits(16, classes)[::-1], 1.0
  )
  beside = {
    'misinformation': wrong,
    'surrogate': surrogate,
    'book': book.variables,
    'gate': {
      **wrong,
      'projection': {'kernel': np.ones((4, classes), np.float32)},
    },
  }
  return serving.Network(net, {**own, **beside})


@functools.cache
def _serve_fn(module, settings):
  """Compiled once for all answers of a shape."""

  def serve(logits, images, variables):
    net = _Net(logits.shape[-1])
    network = serving.Network(net, variables)
    return module.serve(serving.Query(images, logits, {}, network), settings)

  return jax.jit(serve)


def _serve(module, logits, images=None, **settings):
  if images is None:
    images = _images(len(logits))
  variables = _network(logits.shape[-1]).variables
  serve = _serve_fn(module, module.Settings(**settings))
  return np.asarray(serve(logits, images, variables))


def _served(module, y, **settings):
  """What is served in place of scores."""
  with np.errstate(divide='ignore'):
    return np.exp(_serve(module, np.log(np.float32(y)), **settings))


SERVED = list(NEUTRAL)
_cheapest = jax.jit(linear_program.cheapest)


def test_no_defense_is_forgotten():
  serving_ones = {
    n for n, m in defenses.DEFENSES.items() if hasattr(m, 'serve')
  }
  assert set(NEUTRAL) == set(KEEPS_TOP) == serving_ones


@pytest.mark.parametrize(
  ('module', 'settings', 'expected'),
  [
    (
      mad,
      {'oracle': 'extreme', 'epsilon': 0.4},
      [0.473684, 0.197368, 0.078947, 0.25],
    ),
    (
      mad,
      {'oracle': 'argmax', 'epsilon': 0.4},
      [0.496774, 0.153226, 0.190323, 0.159677],
    ),
    (mad, {'oracle': 'lp_extreme', 'epsilon': 0.4}, [0.4, 0.25, 0.1, 0.25]),
    (mad, {'oracle': 'lp_argmax', 'epsilon': 0.4}, [0.4, 0.25, 0.1, 0.25]),
    (mad, {'oracle': 'lp_extreme', 'epsilon': 0.8}, [0.2, 0.25, 0.1, 0.45]),
    (modelguard_w, {'epsilon': 0.4}, [0.4, 0.25, 0.1, 0.25]),
    (modelguard_w, {'epsilon': 0.8}, [0.2751, 0.1749, 0.275, 0.275]),
    (modelguard_w, {'epsilon': 1.2}, [0.3334, 0, 0.3333, 0.3333]),
    (
      reverse_sigmoid,
      {'beta': 0.21, 'gamma': 0.2},
      [0.562027, 0.246689, 0.115762, 0.075522],
    ),
    (rounding, {'decimals': 1}, [0.666667, 0.222222, 0.111111, 0]),
    (rounding, {'decimals': 0}, [1, 0, 0, 0]),
    (stingy, {'ratio': 0.5}, [0.705882, 0.294118, 0, 0]),
    (stingy, {'ratio': 0.1}, [1, 0, 0, 0]),
    (top_k, {'k': 2}, [0.705882, 0.294118, 0, 0]),
    (top_k, {}, [1, 0, 0, 0]),
  ],
)
def test_known_answers(module, settings, expected):
  served = _softmax(_serve(module, np.log(Y), **settings))
  np.testing.assert_allclose(served, [expected], atol=1e-5)
  np.testing.assert_array_equal(served == 0, np.equal([expected], 0))


@pytest.mark.parametrize('name', SERVED)
def test_neutral_settings_serve_what_nobody_defends(name):
  module, logits = defenses.get(name), _logits()
  expected = _log_softmax(logits)
  for settings in NEUTRAL[name]:
    served = _log_softmax(_serve(module, logits, **settings))
    np.testing.assert_allclose(served, expected, atol=1e-5)
  other = _log_softmax(_serve(module, logits))
  assert np.abs(other - expected).max() > 0.01


@pytest.mark.parametrize('name', SERVED)
def test_answers_are_finite_scores_even_where_a_score_is_zero_or_one(name):
  _check_extremes(defenses.get(name), jnp.float32)


@pytest.mark.parametrize('module', [rounding, stingy])
def test_half_precision_is_no_exception(module):
  _check_extremes(module, jnp.bfloat16)


def _check_extremes(module, dtype):
  extreme = [[1e4] + [0] * 9, [-np.inf, *range(9)], [0] * 10, [50] + [49] * 9]
  logits = np.concatenate([extreme, 1e3 * _logits()])[:64]
  served = _serve(module, logits.astype(dtype))
  assert served.dtype == np.float32
  assert np.isfinite(served).all()
  assert served.min() >= losses.WITHHELD
  if module is not stingy:  # It serves logits, as they are.
    np.testing.assert_allclose(np.exp(served).sum(-1), 1, rtol=2e-6)


@pytest.mark.parametrize('name', SERVED)
def test_the_top_class_is_kept_where_that_is_promised(name):
  for settings in KEEPS_TOP[name]:
    for scale in (0.1, 3.0):
      logits = _logits(scale=scale)
      served = _serve(defenses.get(name), logits, **settings)
      np.testing.assert_array_equal(served.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize('name', SERVED)
def test_an_answer_does_not_depend_on_its_batch(name):
  module, logits, images = defenses.get(name), _logits(), _images(64)
  served = _serve(module, logits, images)
  # Alone among other companions, and at another place.
  others = _serve(
    module,
    np.concatenate([5 * logits[8:], logits[:8]]),
    np.concatenate([5 * images[8:], images[:8]]),
  )
  np.testing.assert_allclose(np.exp(served[:8]), np.exp(others[-8:]), atol=1e-6)


@pytest.mark.parametrize('oracle', ['argmax', 'extreme'])
def test_where_mad_has_no_choice_none_depends_on_the_batch(oracle):
  logits = np.zeros((4, 10), np.float32)
  served = _serve(mad, logits, oracle=oracle)
  alone = _serve(mad, logits[:1], oracle=oracle)
  np.testing.assert_allclose(np.exp(served), np.exp(alone[[0] * 4]), atol=1e-6)


@pytest.mark.parametrize('name', SERVED)
def test_a_student_of_what_is_served_has_finite_losses(name):
  teacher = 10 * _logits()
  served = _serve(defenses.get(name), teacher)
  for temperature in (1.0, 20.0, 1000.0):
    loss, grad = _kd(_logits()[::-1], served, teacher, temperature)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()


@jax.jit
@jax.value_and_grad
def _kd(student, served, teacher, temperature):
  return losses.distillation(
    student,
    served,
    teacher.argmax(-1),
    temperature=temperature,
    alpha=1.0,
  ).sum()


@pytest.mark.parametrize(('module', 'settings'), IMPOSSIBLE)
def test_impossible_settings_are_named(module, settings):
  (name,) = settings
  with pytest.raises(ValueError, match=f'{name}='):
    module.Settings(**settings)


def test_scores_that_are_left_keep_their_logarithms():
  """Also where they are too small for float32."""

  @jax.jit
  def served(logits, factors):
    query = serving.Query(None, logits, {})
    y = serving.scores(query)
    return serving.log_scores(y * factors, query), losses.log_scores(logits)

  logits = np.float32([[0.0, -200.0, -1.0]])
  same, expected = served(logits, np.ones((1, 3), np.float32))
  np.testing.assert_array_equal(same, expected)
  half, expected = map(
    np.asarray, served(logits, np.float32([[0.5, 1.0, 0.0]]))
  )
  np.testing.assert_allclose(half[0, 0], expected[0, 0] - np.log(2), rtol=1e-5)
  assert half[0, 1] == expected[0, 1]
  assert half[0, 2] == losses.WITHHELD


@pytest.mark.parametrize('classes', [2, 10, 100])
@pytest.mark.parametrize('decimals', [0, 1, 3])
def test_rounding_rounds_to_decimals_and_normalises(classes, decimals):
  logits = _logits(32, classes)
  y = np.float64(_softmax(logits))
  served = np.exp(_serve(rounding, logits, decimals=decimals))
  rounded = np.round(y, decimals)
  assert np.abs(rounded - y).max() <= 0.5 * 10.0**-decimals + 1e-6
  total = rounded.sum(-1, keepdims=True)
  top = np.eye(classes)[y.argmax(-1)]
  expected = np.where(total > 0, rounded, top) / np.where(total > 0, total, 1)
  np.testing.assert_allclose(served, expected, atol=1e-6)


def test_rounding_leaves_the_top_class_where_nothing_else_is_left():
  flat = np.zeros((1, 100), np.float32)
  flat[0, 7] = 0.1
  served = _serve(rounding, flat)
  assert served[0, 7] == 0
  assert (served == losses.WITHHELD).sum() == 99


def test_rounding_is_idempotent_but_for_the_sum():
  even = np.float32([[0.5, 0.3, 0.2, 0.0]])
  np.testing.assert_allclose(_served(rounding, even), even, atol=1e-6)
  # Halves go to the even neighbour.
  halves = np.float32([[0.25, 0.75]])
  np.testing.assert_allclose(_served(rounding, halves), [[0.2, 0.8]], atol=1e-6)


def test_top_k_is_stingy_with_a_number():
  logits = _logits()
  logits[0] = 1.0
  for k in (1, 3, 10):
    np.testing.assert_allclose(
      _softmax(_serve(top_k, logits, k=k)),
      _softmax(_serve(stingy, logits, ratio=k / 10)),
      atol=1e-6,
    )
  served = _serve(top_k, logits)
  assert ((served == 0).sum(-1) == 1).all()
  assert served[0].argmax() == 0


def test_adaptive_misinformation_by_hand():
  z, wrong = np.log(Y), np.log(np.float32([[0.1, 0.2, 0.3, 0.4]]))

  def mix(tau):
    settings = adaptive_misinformation.Settings(tau=tau)
    found = jax.jit(adaptive_misinformation.mix, static_argnums=2)
    return np.exp(found(z, wrong, settings))

  # At the threshold itself, half of each.
  score_fn = jax.jit(lambda z: serving.scores(serving.Query(None, z, {})))
  top = float(np.asarray(score_fn(z)).max())
  np.testing.assert_allclose(mix(top), [[0.35, 0.225, 0.2, 0.225]], atol=1e-4)
  np.testing.assert_allclose(mix(0.5), Y, atol=1e-6)
  np.testing.assert_allclose(mix(1.1), np.exp(wrong), atol=1e-6)


def test_adaptive_misinformation_lies_between_the_answers_of_both():
  logits = _logits()
  wrong = _network(10).variables['misinformation']
  theirs = _softmax(jax.jit(_Net(10).apply)(wrong, _images(64)))
  y = _softmax(logits)
  served = np.exp(_serve(adaptive_misinformation, logits, tau=0.8, nu=2.0))
  assert (served >= np.minimum(y, theirs) - 1e-6).all()
  assert (served <= np.maximum(y, theirs) + 1e-6).all()
  assert np.abs(served - y).max() > 0.1
  assert np.abs(served - theirs).max() > 0.1


def test_unlikelihood_by_hand():
  labels = np.array([0, 1])

  @jax.jit
  def loss_and_grad(z):
    def total(z):
      loss = adaptive_misinformation.unlikelihood(z, labels)
      return loss.sum(), loss

    grad, loss = jax.grad(total, has_aux=True)(z)
    return loss, grad

  found, _ = loss_and_grad(np.log(np.float32([[0.6, 0.25, 0.15]] * 2)))
  np.testing.assert_allclose(found, -np.log([0.4, 0.75]), rtol=1e-5)
  sure = np.float32([[1e4, 0.0, 0.0]] * 2)
  loss, grad = map(np.asarray, loss_and_grad(sure))
  assert np.isfinite(loss).all()
  # The class that it must not name falls, at most one for one.
  np.testing.assert_allclose(grad[0], [1, -0.5, -0.5], atol=1e-6)
  np.testing.assert_allclose(grad[1], [0, 0, 0], atol=1e-6)


def _cosine(q, y):
  """Of the gradients, to a surrogate that knows nothing."""
  q, y = np.float64(q) - 1 / q.shape[-1], np.float64(y) - 1 / y.shape[-1]
  return (
    (q * y).sum(-1) / np.linalg.norm(q, axis=-1) / np.linalg.norm(y, axis=-1)
  )


@pytest.mark.parametrize(
  ('oracle', 'expected'),
  [
    ('extreme', 0.843630),
    ('argmax', 0.920699),
    ('lp_argmax', 0.821995),
    ('lp_extreme', 0.821995),
  ],
)
def test_how_far_mad_turns_the_gradient(oracle, expected):
  served = _served(mad, Y, oracle=oracle, epsilon=0.4)
  assert _cosine(served, Y) == pytest.approx(expected, abs=2e-5)


def test_the_objective_of_mad_is_that_cosine_whatever_the_features():
  rng = np.random.default_rng(3)
  q, y, p = rng.dirichlet([1.0] * 5, size=3)

  @jax.jit
  def gradient(scores, features):
    def loss(weights):
      logits = weights @ features + np.log(p)
      return -jnp.sum(scores * jax.nn.log_softmax(logits))

    return jax.grad(loss)(jnp.zeros((5, 7)))

  for features in rng.normal(size=(2, 7)):
    of_q, of_y = (np.ravel(gradient(scores, features)) for scores in (q, y))
    cosine = of_q @ of_y / np.linalg.norm(of_q) / np.linalg.norm(of_y)
    assert cosine == pytest.approx(
      (q - p) @ (y - p) / np.linalg.norm(q - p) / np.linalg.norm(y - p),
      abs=1e-5,
    )


def test_the_extreme_scores_of_mad_are_the_best_of_all_sets():
  y = np.float32(np.random.default_rng(4).dirichlet([0.5] * 10, size=64))
  sets = np.array(list(itertools.product([0.0, 1.0], repeat=10)))
  sets = sets[(sets.sum(-1) > 0) & (sets.sum(-1) < 10)]
  extreme = sets / sets.sum(-1, keepdims=True)
  served = np.asarray(_served(mad, y, oracle='argmax', epsilon=2.0))
  single = np.asarray(_served(mad, y, oracle='extreme', epsilon=2.0))
  for one in range(len(y)):
    mine = sets[:, y[one].argmax()] > 0
    cosines = _cosine(extreme, y[one])
    assert _cosine(served[one], y[one]) == pytest.approx(
      cosines[mine].min(), abs=1e-4
    )
    assert _cosine(single[one], y[one]) == pytest.approx(
      cosines[sets.sum(-1) == 1].min(), abs=1e-4
    )


@pytest.mark.parametrize(
  ('module', 'settings'),
  [
    (grad2, {}),
    *[(mad, {'oracle': setting['oracle']}) for setting in NEUTRAL['mad']],
    (modelguard_s, {'miss': 'exact'}),
    (modelguard_w, {}),
  ],
)
def test_a_budget_is_kept(module, settings):
  logits = _logits()
  served = np.exp(_serve(module, logits, epsilon=0.5, **settings))
  distance = np.abs(served - _softmax(logits)).sum(-1)
  assert distance.max() <= 0.5 + 3e-6
  assert distance.mean() > 0.01


def test_without_a_top_class_to_keep_modelguard_w_is_mad():
  """Every cost that rises with y gives the same scores."""
  y = _softmax(_logits())
  logarithm = _cheapest(np.log(y + np.float32(1e-6)), y, 0.7)
  linear = np.exp(_serve(mad, _logits(), oracle='lp_extreme', epsilon=0.7))
  np.testing.assert_allclose(logarithm, linear, atol=2e-6)


def test_modelguard_s_answers_alike_what_is_near():
  asked = np.float32(
    [
      [0.6, 0.3, 0.1],
      [0.9, 0.05, 0.05],
      [0.5, 0.1, 0.4],
      [0.4, 0.35, 0.25],
      [0.34, 0.33, 0.33],
    ]
  )
  book, (is_new, is_full) = jax.jit(modelguard_s.enter)(
    modelguard_s.empty(3, 4), np.log(asked), 0.5
  )
  assert is_new.tolist() == [True, True, True, False, False]
  assert not np.asarray(is_full).any()
  assert book.count.tolist() == [3, 0, 0]
  # A class without a word is answered as it is; and what is near two words by
  # the first of them, though the second be nearer.
  more = np.float32([[0.1, 0.2, 0.7], [0.78, 0.14, 0.08]])
  others = np.concatenate([asked, more])
  look_up = jax.jit(modelguard_s.look_up, static_argnums=2)
  settings = modelguard_s.Settings(epsilon=0.5)
  served = np.exp(look_up(book, np.log(others), settings))
  np.testing.assert_allclose(served, others[[0, 1, 2, 0, 2, 5, 0]], atol=1e-6)


def test_the_words_of_modelguard_s_are_far_apart_and_served_as_they_are():
  logits = _logits(64, 4)
  y = _softmax(logits)
  enter = jax.jit(modelguard_s.enter)
  look_up = jax.jit(modelguard_s.look_up, static_argnums=2)
  for epsilon in (0.3, 1.0):
    book, (is_new, _) = enter(modelguard_s.empty(4, 64), logits, epsilon)
    settings = modelguard_s.Settings(epsilon=epsilon)
    words, count = np.exp(book.words), np.asarray(book.count)
    for one, number in zip(words, count, strict=True):
      apart = np.abs(one[:number, None] - one[None, :number]).sum(-1)
      assert (apart > epsilon).sum() == number * (number - 1)
    # Whoever was entered gets a word within the budget: one that was there.
    served = np.exp(look_up(book, logits, settings))
    distance = np.abs(served - y).sum(-1)
    assert distance.max() <= epsilon + 1e-6
    np.testing.assert_allclose(distance[is_new], 0, atol=1e-6)
    again = np.exp(look_up(book, np.log(served), settings))
    np.testing.assert_allclose(again, served, atol=1e-6)
  # At epsilon 2 everything is near: one word a class.
  book, _ = enter(modelguard_s.empty(4, 64), logits, 2.0)
  np.testing.assert_array_equal(book.count, [1] * 4)


@pytest.mark.parametrize('epsilon', [0.3, 0.7, 1.0])
def test_all_sure_answers_of_a_class_share_a_word_of_modelguard_s(epsilon):
  """All with a top score of 1 - epsilon / 2 or more; not all of fewer."""
  rng = np.random.default_rng(0)
  top = 1 - epsilon / 2
  rest = rng.dirichlet([0.1] * 4, size=200)  # Most of it on one class.
  share = (1 - top) * np.where(
    np.arange(200) < 100, 0.999, rng.uniform(size=200)
  )
  place = np.arange(200) % 5
  y = np.stack(
    [
      np.insert(a * b, one, 1 - a)
      for one, a, b in zip(place, share, rest, strict=True)
    ]
  )
  enter = jax.jit(modelguard_s.enter)
  logits = np.float32(np.log(np.maximum(y, 1e-12)))
  book, (is_new, _) = enter(modelguard_s.empty(5, 8), logits, epsilon)
  assert book.count.tolist() == [1] * 5
  assert np.flatnonzero(is_new).tolist() == list(range(5))
  served = modelguard_s.look_up(
    book, logits, modelguard_s.Settings(epsilon=epsilon)
  )
  np.testing.assert_allclose(np.exp(served), y[place], atol=1e-6)
  # Two that are a little less sure, of other classes besides: two words.
  less, half, none = top - 0.01, (1.01 - top) / 2, 1e-9
  two = np.float32([[less, half, half, none, none]])
  two = np.concatenate([two, two[:, [0, 3, 4, 1, 2]]])
  book, _ = enter(modelguard_s.empty(5, 8), np.log(two), epsilon)
  assert book.count.tolist() == [2, 0, 0, 0, 0]


def test_a_full_book_of_modelguard_s_takes_no_more():
  asked = np.log(np.float32([[0.9, 0.1], [0.7, 0.3], [0.55, 0.45]]))
  book, (is_new, is_full) = jax.jit(modelguard_s.enter)(
    modelguard_s.empty(2, 2), asked, 0.1
  )
  assert is_new.tolist() == [True, True, False]
  assert is_full.tolist() == [False, False, True]
  np.testing.assert_allclose(np.asarray(book.words)[0], asked[:2], atol=1e-6)
  for miss, expected in (('nearest', asked[1]), ('exact', asked[2])):
    settings = modelguard_s.Settings(epsilon=0.1, miss=miss)
    served = jax.jit(modelguard_s.look_up, static_argnums=2)(
      book, asked[2:], settings
    )
    np.testing.assert_allclose(np.asarray(served)[0], expected, atol=1e-6)


def _jacobian(network, images):
  """d log p_k / d weights, [B, K, D], by one gradient a number."""
  flat, unflatten = jax.flatten_util.ravel_pytree(
    jax.device_get(network.variables['params'])
  )

  def log_scores(flat):
    variables = {'params': unflatten(flat)}
    return jax.nn.log_softmax(network.module.apply(variables, images))

  return np.asarray(jax.jit(jax.jacrev(log_scores))(flat)), unflatten


def test_grad2_knows_how_scores_change_along_a_direction():
  images, logits = _images(64), _logits()
  net, variables = _network(10)
  network = serving.Network(net, variables['surrogate'])
  jacobian, unflatten = _jacobian(network, images)
  v = np.float32(np.random.default_rng(4).normal(size=jacobian.shape[-1:]))
  along = jax.jit(lambda v: grad2.along(network, images, unflatten(v)))
  np.testing.assert_allclose(along(v), jacobian @ v, atol=1e-4)
  y = _softmax(logits)
  ones = jacobian.sum(-1)

  @jax.jit
  def draw(params):
    signs = optax.tree.random_like(
      jax.random.key(7), params, jax.random.rademacher
    )
    return jax.flatten_util.ravel_pytree(signs)[0]

  signs = np.asarray(draw(network.variables['params']))
  assert set(signs) == {-1.0, 1.0}
  own = np.einsum('bkd,bjd,bj->bk', jacobian, jacobian, y, optimize=True)
  for direction, cost in (
    ('ones', -ones),
    ('signs', jacobian @ signs),
    ('back', own),
  ):
    served = _serve(grad2, logits, direction=direction, seed=7)
    expected = _cheapest(cost, y, 1.0)
    np.testing.assert_allclose(np.exp(served), expected, atol=1e-4)


def test_a_surrogate_of_one_layer_says_nothing_of_all_ones():
  """A shift of all logits changes no score."""
  images = _images(8)
  net, variables = _network(10, width=0)
  network = serving.Network(net, variables['surrogate'])
  ones = jax.tree.map(np.ones_like, network.variables['params'])
  found = jax.jit(lambda v: grad2.along(network, images, v))(ones)
  np.testing.assert_allclose(found, 0, atol=1e-5)


def test_what_was_not_trained_is_missed():
  query = serving.Query(_images(1), np.zeros((1, 10), np.float32), {})
  settings = grad2.Settings()
  with pytest.raises(ValueError, match="reads 'surrogate'"):
    grad2.serve(query, settings)
  network = serving.Network(_Net(10), {'params': {}})
  with pytest.raises(ValueError, match="reads 'surrogate'"):
    grad2.serve(query._replace(network=network), settings)


@pytest.mark.parametrize(
  'module', [adaptive_misinformation, decoy, grad2, modelguard_s]
)
def test_what_is_trained_beside_a_network_leaves_it_as_it_is(module):
  net, variables = _network(10)
  normal = {'params': variables['params']}
  frozen = {'normal': {**normal, serving.PARENTS: {}}}
  method = module.make(net, optax.sgd(0.1), module.Settings(), {'normal': net})
  batch = {'image': _images(64), 'label': np.arange(64) % 10}
  # Not that of the normal network, or a surrogate would have nothing to learn.
  key = jax.random.key(3)
  before = jax.jit(method.init)(key, batch, frozen)
  after, _ = jax.jit(method.step)(before, frozen, batch, key)
  assert (before.step, after.step) == (0, 1)
  assert set(after.variables) == {'params', after.name}
  jax.tree.map(
    np.testing.assert_array_equal, after.variables['params'], normal['params']
  )
  changed = jax.tree.map(
    lambda x, y: np.not_equal(x, y).any(),
    before.variables[before.name],
    after.variables[after.name],
  )
  assert any(jax.tree.leaves(changed))

  @jax.jit
  def serve(variables, images):
    network = serving.Network(net, variables)
    query = serving.Query(images, net.apply(normal, images), {}, network)
    return module.serve(query, module.Settings())

  assert np.isfinite(serve(after.variables, batch['image'])).all()


@pytest.mark.parametrize(
  ('oracle', 'expected'),
  [('argmax', 0.97), ('extreme', 0.74), ('lp_argmax', 0.69)],
)
def test_mad_turns_a_gradient_as_far_as_it_says(oracle, expected):
  y = np.random.default_rng(0).dirichlet(np.full(10, 0.3), size=2000)
  logits = np.log(np.float32(y) + np.float32(1e-30))
  log_q = _serve(mad, logits, epsilon=0.5, oracle=oracle)
  a, b = np.exp(log_q) - 0.1, y - 0.1
  size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  assert np.mean((a * b).sum(1) / size) == pytest.approx(expected, abs=0.015)
