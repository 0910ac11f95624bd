"""Decoy: of images unlike the owner's nothing is told that is so."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable import data, losses, serving
from undistillable.data import augment
from undistillable.defenses import decoy


class _Net(nn.Module):
  """Two layers."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.relu(nn.Dense(32)(images.reshape(len(images), -1)))
    return nn.Dense(10)(x)


def _images(dataset, size):
  parts = data.load(dataset)
  images = parts.train['image'][:size]
  return augment.normalize(images, *data.NORMALIZATIONS['digits'], jnp.float32)


@functools.cache
def _trained():
  """Digits, and what 300 steps on them made of a gate."""
  own = _images('digits', 1_500)
  labels = jnp.zeros(64, jnp.int32)
  method = decoy.make(_Net(), optax.adam(3e-3), decoy.Settings(), {})
  start = {'image': own[:64], 'label': labels}
  frozen = {'normal': _Net().init(jax.random.key(0), own[:1])}
  state = jax.jit(method.init)(jax.random.key(1), start, frozen)
  step = jax.jit(method.step)
  rng = np.random.default_rng(0)
  for number in range(300):
    batch = {'image': own[rng.integers(1_200, size=64)], 'label': labels}
    key = jax.random.fold_in(jax.random.key(2), number)
    state, metrics = step(state, frozen, batch, key)
  return own, frozen, state, metrics


def _query(images, logits=None):
  _, _, state, _ = _trained()
  network = serving.Network(_Net(), state.variables)
  logits = network(images) if logits is None else logits
  return serving.Query(images, logits, {}, network)


def _let_in(images, **settings):
  """Who is told the truth."""
  query = _query(images)
  told = decoy.serve(query, decoy.Settings(**settings))
  truth = losses.log_scores(query.logits)
  return np.asarray((told == truth).all(axis=-1))


def test_the_served_network_is_the_normal_one():
  _, frozen, state, _ = _trained()
  jax.tree.map(
    np.testing.assert_array_equal,
    state.variables['params'],
    frozen['normal']['params'],
  )


def test_the_gate_knows_images_that_it_has_never_seen():
  own, _, _, metrics = _trained()
  assert metrics['accuracy'] > 90.0
  assert _let_in(own[1_200:]).mean() > 0.97
  foreign = _images('patches', 1_000)  # Of photos; none was ever shown to it.
  assert _let_in(foreign).mean() < 0.05


def test_other_images_are_told_nothing_that_the_network_says():
  foreign = _images('patches', 50)
  settings = decoy.Settings(threshold=1e6)  # Nobody is let in.
  logits = jax.random.normal(jax.random.key(0), (2, len(foreign), 10))
  first, second = (
    decoy.serve(_query(foreign, z), settings) for z in (9 * logits)
  )
  np.testing.assert_array_equal(first, second)
  scores = np.exp(first)
  np.testing.assert_allclose(scores.sum(-1), 1.0, rtol=1e-5)
  assert np.median(scores.max(-1)) > 0.8  # As one that is sure.
  assert len(set(scores.argmax(-1).tolist())) > 5
  openly = decoy.serve(_query(foreign), decoy.Settings(1e6, sharpness=0.0))
  np.testing.assert_allclose(openly, -np.log(10.0), rtol=1e-5)


def test_the_lower_the_threshold_the_more_are_told_the_truth():
  foreign = _images('patches', 200)
  levels = [_let_in(foreign, threshold=t) for t in (1e6, 3.0, -3.0, -1e6)]
  assert not levels[0].any()
  assert levels[-1].all()
  for higher, lower in zip(levels, levels[1:], strict=False):
    assert (lower >= higher).all()


def test_no_answer_depends_on_its_batch():
  own = _trained()[0]
  images = jnp.concatenate([own[:3], _images('patches', 3)])
  together = decoy.serve(_query(images), decoy.Settings())
  for number in range(len(images)):
    alone = decoy.serve(_query(images[number : number + 1]), decoy.Settings())
    np.testing.assert_allclose(alone[0], together[number], atol=1e-4)


def test_an_even_image_is_told_nothing_whatever_its_shade():
  # Bytes of digits, of which no mean of 64 is what it should be to the bit.
  shades = jnp.linspace(-0.81, 1.85, 60)[:, None, None, None]
  images = jnp.broadcast_to(shades, (60, 8, 8, 1))
  told = decoy.serve(_query(images), decoy.Settings(threshold=1e6))
  np.testing.assert_allclose(told, -np.log(10.0), rtol=1e-4)


@pytest.mark.parametrize('shape', [(6, 8, 8, 1), (4, 9, 11, 3), (2, 2, 3, 1)])
def test_shuffled_tiles_are_the_same_pixels(shape):
  images = jax.random.normal(jax.random.key(0), shape)
  keys = jax.random.split(jax.random.key(1), shape[0])
  found = jax.vmap(decoy._shuffled)(images, keys)
  assert found.shape == images.shape
  for before, after in zip(images, found, strict=True):
    pixels = [
      sorted(map(tuple, x.reshape(-1, shape[-1]).tolist()))
      for x in (before, after)
    ]
    assert pixels[0] == pixels[1]
  if shape[1] > 4:
    assert all((a != b).any() for a, b in zip(images, found, strict=True))


def test_scrambled_images_keep_their_mean_and_spectrum():
  images = _images('digits', 20)
  keys = jax.random.split(jax.random.key(1), 20)
  found = jax.vmap(decoy._scrambled)(images, keys)
  spectra = [
    np.abs(np.fft.fft2(np.float64(x), axes=(1, 2))) for x in (images, found)
  ]
  np.testing.assert_allclose(*spectra, atol=1e-3)
  assert np.abs(np.corrcoef(images.ravel(), found.ravel())[0, 1]) < 0.5


def test_what_is_unlike_is_of_several_kinds_and_of_its_key():
  images = _images('digits', 200)
  found = decoy.unlike(images, jax.random.key(0))
  assert found.shape == images.shape
  assert found.dtype == images.dtype
  np.testing.assert_array_equal(found, decoy.unlike(images, jax.random.key(0)))
  negative = 2 * images.mean(axis=(1, 2), keepdims=True) - images
  share = np.isclose(found, negative, atol=1e-5).all(axis=(1, 2, 3)).mean()
  assert 0.1 < share < 0.3


def test_outliers_are_learned_from_where_there_are_any():
  own, frozen, _, _ = _trained()
  method = decoy.make(_Net(), optax.sgd(0.1), decoy.Settings(), {})
  batch = {'image': own[:8], 'label': jnp.zeros(8, jnp.int32)}
  state = jax.jit(method.init)(jax.random.key(1), batch, frozen)
  step = jax.jit(method.step)
  _, plain = step(state, frozen, batch, jax.random.key(2))
  outlier = {'outlier': _images('patches', 8)}
  _, more = step(state, frozen, batch | outlier, jax.random.key(2))
  assert plain['loss'] != more['loss']


@pytest.mark.parametrize(
  'settings', [{'threshold': float('nan')}, {'sharpness': -1.0}]
)
def test_settings_are_checked(settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    decoy.Settings(**settings)
