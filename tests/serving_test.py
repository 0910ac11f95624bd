"""Serving: what a defense knows when it answers, and what a client sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import losses, method, models, serving

MODEL = models.get_model('mlp', 3)
OTHER = models.get_model('cnn4', 3)
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))


@pytest.fixture(scope='module')
def variables():
  """Of a network whose adversary is another."""
  own, adversary = (
    jax.jit(lambda key, model=model: model.init(key, IMAGES, train=False))(
      jax.random.key(1)
    )
    for model in (MODEL, OTHER)
  )
  return {**own, 'parents': {'adversary': adversary}}


def test_without_a_defense_the_logits_are_served(variables):
  served = serving.answer_fn(MODEL)(variables, IMAGES)
  expected = method.frozen_fn(MODEL)(variables, IMAGES)
  np.testing.assert_array_equal(served, expected)


def test_a_defense_knows_the_question_its_network_and_its_parents(variables):
  seen = []

  def serve(query, settings):
    seen.append((query, settings))
    return query.logits + settings * query.parents['adversary'](query.images)

  answer = serving.answer_fn(MODEL, serve, 0.5, {'adversary': OTHER})
  found = answer(variables, IMAGES)
  own = MODEL.apply(variables, IMAGES, train=False)
  adversary = variables['parents']['adversary']
  theirs = OTHER.apply(adversary, IMAGES, train=False)
  np.testing.assert_allclose(found, own + 0.5 * theirs, rtol=1e-6)
  ((query, settings),) = seen
  assert settings == 0.5
  np.testing.assert_array_equal(query.images, IMAGES)
  np.testing.assert_array_equal(query.logits, own)
  assert list(query.parents) == ['adversary']
  assert query.parents['adversary'].module is OTHER
  assert query.parents['adversary'].variables is adversary


def test_a_defense_without_parents_needs_no_variables_of_any(variables):
  own = {'params': variables['params']}
  answer = serving.answer_fn(MODEL, lambda query, settings: -query.logits)
  np.testing.assert_array_equal(
    answer(own, IMAGES), -method.frozen_fn(MODEL)(own, IMAGES)
  )


def test_no_gradient_leads_through_what_is_served(variables):
  def serve(query, settings):
    del settings
    parent = query.parents['adversary']
    kernel = jax.tree.leaves(parent.variables)[0]
    return query.logits + query.images.sum() + kernel.sum()

  answer = serving.answer_fn(MODEL, serve, None, {'adversary': OTHER})

  def total(*args):
    return answer(*args).sum()

  grads = jax.grad(total, (0, 1))(variables, IMAGES)
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_a_class_that_is_withheld_is_served_as_a_finite_score(variables):
  def serve(query, settings):
    return query.logits.astype(jnp.bfloat16).at[:, 1].set(-jnp.inf)

  served = serving.answer_fn(MODEL, serve)(variables, IMAGES)
  assert served.dtype == jnp.float32
  assert np.isfinite(served).all()
  assert (served[:, 1] == losses.WITHHELD).all()
  assert (jax.nn.softmax(served)[:, 1] == 0).all()


def test_an_answer_of_another_shape_is_refused(variables):
  served = serving.answer_fn(MODEL, lambda query, _: query.logits[:, :1])
  with pytest.raises(ValueError, match='expected one score a class'):
    served(variables, IMAGES)
