"""The oracle: what a thief is told, what not, and how often it has asked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable import attacks, losses, method, models, oracle

MODEL = models.get_model('mlp', 3)
IMAGES = jnp.arange(24.0).reshape(6, 2, 2, 1) / 24
VARIABLES = {'weight': jnp.array([[1.0, 0.0, 2.0]] * 4)}


def _linear(variables, images):
  """A teacher that would let gradients through."""
  return images.reshape(len(images), -1) @ variables['weight']


def _fixed(*answers):
  """A teacher that answers the same to whatever it is asked."""
  return lambda variables, images: jnp.asarray(answers)


def test_who_tells_labels_alone_refuses_scores():
  asked = oracle.Oracle(_linear, labels_only=True)
  with pytest.raises(ValueError, match="ACCESS = 'labels'; declare 'scores'"):
    asked.scores(VARIABLES, IMAGES)
  expected = _linear(VARIABLES, IMAGES).argmax(-1)
  np.testing.assert_array_equal(asked.labels(VARIABLES, IMAGES), expected)


def test_a_refusal_is_no_query():
  asked = oracle.Oracle(_linear, labels_only=True)
  with oracle.counting() as count, pytest.raises(ValueError):
    asked.scores(VARIABLES, IMAGES)
  assert not count


def test_of_equal_scores_the_first_is_the_top_class():
  asked = oracle.as_oracle(_fixed([0.0, 2.0, 2.0], [1.0, 1.0, 1.0]))
  labels = asked.labels({}, IMAGES[:2])
  np.testing.assert_array_equal(labels, [1, 0])
  assert labels.dtype == jnp.int32


def test_no_gradient_reaches_images_or_variables():
  asked = oracle.as_oracle(_linear)

  def total(ask, variables, images):
    return ask(variables, images).sum()

  for ask, flows in ((_linear, True), (asked.scores, False)):
    grads = jax.grad(total, (1, 2))(ask, VARIABLES, IMAGES)
    assert [bool(g.any()) for g in jax.tree.leaves(grads)] == [flows] * 2


def test_scores_are_finite_float32_where_a_class_is_withheld():
  half = jnp.asarray([[0.5, -jnp.inf, 1.0]], jnp.bfloat16)
  scores = oracle.as_oracle(lambda variables, images: half).scores({}, IMAGES)
  assert scores.dtype == jnp.float32
  np.testing.assert_array_equal(scores, [[0.5, losses.WITHHELD, 1.0]])


def test_queries_are_counted_in_every_open_block():
  asked = oracle.as_oracle(_linear)
  asked.scores(VARIABLES, IMAGES)  # Nobody counts.
  with oracle.counting() as outer:
    asked.scores(VARIABLES, IMAGES)
    with oracle.counting() as inner:
      asked.labels(VARIABLES, IMAGES[:2])
    asked.scores(VARIABLES, IMAGES[:1])
  asked.scores(VARIABLES, IMAGES)
  assert outer == [6, 2, 1]
  assert inner == [2]


def test_a_block_that_closes_leaves_an_equal_one_open():
  """Also where an error closes it."""
  asked = oracle.as_oracle(_linear)
  with oracle.counting() as outer:
    with pytest.raises(KeyError), oracle.counting() as inner:
      raise KeyError
    assert inner == outer == []
    asked.scores(VARIABLES, IMAGES)
  assert (inner, outer) == ([], [6])


def _theft():
  """A student of a module, and all that a step of it takes."""
  student = attacks.kd.make(
    MODEL, optax.sgd(0.1), attacks.kd.Settings(), {'teacher': MODEL}
  )
  variables = MODEL.init(jax.random.key(0), IMAGES, train=False)
  batch = {'image': IMAGES, 'label': jnp.zeros(len(IMAGES), jnp.int32)}
  frozen = {'teacher': variables}
  state = student.init(jax.random.key(1), batch, frozen)
  return student, state, frozen, batch


def test_a_traced_step_counts_its_queries():
  student, state, frozen, batch = _theft()
  key = jax.random.key(0)
  assert oracle.queries(student.step, state, frozen, batch, key) == 6
  # Whoever was told before does not ask again.
  told = {**batch, 'answers': {'teacher': jnp.zeros((6, 3))}}
  assert oracle.queries(student.step, state, {}, told, key) == 0


def test_a_module_is_open_and_a_function_is_not():
  opened = oracle.as_oracle(MODEL)
  assert oracle.open_module(opened) is oracle.open_module(MODEL) is MODEL
  assert oracle.as_oracle(opened) is opened
  for closed in (oracle.as_oracle(_linear), _linear):
    with pytest.raises(ValueError, match='does not give them away'):
      oracle.open_module(closed)
  # An owner who serves other answers may have given its weights away too.
  served = oracle.Oracle(_linear, MODEL)
  assert oracle.open_module(served) is MODEL


def test_a_module_answers_as_in_an_evaluation():
  _, _, frozen, _ = _theft()
  np.testing.assert_array_equal(
    oracle.as_oracle(MODEL).scores(frozen['teacher'], IMAGES),
    method.frozen_fn(MODEL)(frozen['teacher'], IMAGES),
  )


def test_what_was_traced_before_is_counted_again():
  """As the one step that seeds and teachers share."""
  ask = oracle.as_oracle(lambda variables, images: images)

  def step(images):
    return ask.scores({}, images)

  images = np.zeros((5, 10), np.float32)
  assert [oracle.queries(step, images) for _ in range(3)] == [5, 5, 5]
