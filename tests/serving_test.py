"""Serving: what a defense knows when it answers, and what a client sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from undistillable import losses, method, models, serving

MODEL = models.get_model('mlp', 3)
OTHER = models.get_model('cnn4', 3)
IMAGES = np.float32(np.random.default_rng(0).normal(size=(4, 8, 8, 1)))


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
  served = jax.jit(serving.answer_fn(MODEL))(variables, IMAGES)
  expected = jax.jit(method.frozen_fn(MODEL))(variables, IMAGES)
  np.testing.assert_array_equal(served, expected)


def test_a_defense_knows_the_question_its_network_and_its_parents(variables):
  seen = []

  def serve(query, settings):
    seen.append((query, settings))
    return query.logits + settings * query.parents['adversary'](query.images)

  @jax.jit
  def both(variables, images):
    answer = serving.answer_fn(MODEL, serve, 0.5, {'adversary': OTHER})
    found = answer(variables, images)
    ((query, settings),) = seen
    assert settings == 0.5
    assert query.images is images
    assert list(query.parents) == ['adversary']
    adversary = variables['parents']['adversary']
    assert query.parents['adversary'].module is OTHER
    assert query.parents['adversary'].variables is adversary
    own = MODEL.apply(variables, images, train=False)
    theirs = OTHER.apply(adversary, images, train=False)
    return found, query.logits, own, theirs

  found, logits, own, theirs = map(np.asarray, both(variables, IMAGES))
  np.testing.assert_allclose(found, own + 0.5 * theirs, rtol=1e-6)
  np.testing.assert_array_equal(logits, own)


def test_a_defense_without_parents_needs_no_variables_of_any(variables):
  own = {'params': variables['params']}
  answer = serving.answer_fn(MODEL, lambda query, settings: -query.logits)
  logits = jax.jit(method.frozen_fn(MODEL))(own, IMAGES)
  np.testing.assert_array_equal(
    jax.jit(answer)(own, IMAGES), -np.asarray(logits)
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

  grads = jax.jit(jax.grad(total, (0, 1)))(variables, IMAGES)
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_a_class_that_is_withheld_is_served_as_a_finite_score(variables):
  def serve(query, settings):
    return query.logits.astype(jnp.bfloat16).at[:, 1].set(-jnp.inf)

  served = jax.jit(serving.answer_fn(MODEL, serve))(variables, IMAGES)
  assert served.dtype == jnp.float32
  served = np.asarray(served)
  assert np.isfinite(served).all()
  assert (served[:, 1] == losses.WITHHELD).all()
  assert (scipy.special.softmax(served, axis=-1)[:, 1] == 0).all()


def test_an_answer_of_another_shape_is_refused(variables):
  served = serving.answer_fn(MODEL, lambda query, _: query.logits[:, :1])
  with pytest.raises(ValueError, match='expected one score a class'):
    jax.eval_shape(served, variables, IMAGES)
