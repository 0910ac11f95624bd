"""Decoy: of images unlike the owner's nothing is told that is so."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from undistillable import data, losses, serving
from undistillable.defenses import decoy


class _Net(nn.Module):
  """Two layers."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.relu(nn.Dense(32)(images.reshape(len(images), -1)))
    return nn.Dense(10)(x)


def _images(dataset, size):
  parts = data.load(dataset)
  mean, std = data.NORMALIZATIONS['digits']
  images = parts.train['image'][:size] / 255.0
  return np.float32((images - np.array(mean)) / np.array(std))


@functools.cache
def _trained():
  """Digits, and what 300 steps on them made of a gate."""
  own = _images('digits', 1_500)
  labels = np.zeros(64, np.int32)
  method = decoy.make(_Net(), optax.adam(3e-3), decoy.Settings(), {})
  start = {'image': own[:64], 'label': labels}
  frozen = {'normal': jax.jit(_Net().init)(jax.random.key(0), own[:1])}
  state = jax.jit(method.init)(jax.random.key(1), start, frozen)
  step = jax.jit(method.step)
  rng = np.random.default_rng(0)
  for number in range(300):
    batch = {'image': own[rng.integers(1_200, size=64)], 'label': labels}
    key = jax.random.key(number)
    state, metrics = step(state, frozen, batch, key)
  return own, frozen, state, metrics


@functools.partial(jax.jit, static_argnums=3)
def _answer(variables, images, logits, settings):
  network = serving.Network(_Net(), variables)
  logits = network(images) if logits is None else logits
  query = serving.Query(images, logits, {}, network)
  told, truth = decoy.serve(query, settings), losses.log_scores(logits)
  return told, (told == truth).all(axis=-1)


def _ask(images, logits=None, **settings):
  """What is told, and who is told the truth."""
  variables = _trained()[2].variables
  found = _answer(variables, images, logits, decoy.Settings(**settings))
  return [np.asarray(x) for x in found]


def _let_in(images, **settings):
  return _ask(images, **settings)[1]


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
  rng = np.random.default_rng(0)
  logits = np.float32(9 * rng.normal(size=(2, len(foreign), 10)))
  # Nobody is let in.
  first, second = (_ask(foreign, z, threshold=1e6)[0] for z in logits)
  np.testing.assert_array_equal(first, second)
  scores = np.exp(first)
  np.testing.assert_allclose(scores.sum(-1), 1.0, rtol=1e-5)
  assert np.median(scores.max(-1)) > 0.8  # As one that is sure.
  assert len(set(scores.argmax(-1).tolist())) > 5
  openly, _ = _ask(foreign, threshold=1e6, sharpness=0.0)
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
  images = np.concatenate([own[:3], _images('patches', 3)])
  together, _ = _ask(images)
  for number in range(len(images)):
    alone, _ = _ask(images[number : number + 1])
    np.testing.assert_allclose(alone[0], together[number], atol=1e-4)


def test_an_even_image_is_told_nothing_whatever_its_shade():
  # Bytes of digits, of which no mean of 64 is what it should be to the bit.
  shades = np.linspace(-0.81, 1.85, 60, dtype=np.float32)
  images = np.broadcast_to(shades[:, None, None, None], (60, 8, 8, 1))
  told, _ = _ask(images, threshold=1e6)
  np.testing.assert_allclose(told, -np.log(10.0), rtol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def _each_fn(change, images):
  keys = jax.random.split(jax.random.key(1), len(images))
  return jax.vmap(change)(images, keys)


def _each(change, images):
  """Every image, changed with a key of its own."""
  return np.asarray(_each_fn(change, images))


@pytest.mark.parametrize('shape', [(6, 8, 8, 1), (4, 9, 11, 3), (2, 2, 3, 1)])
def test_shuffled_tiles_are_the_same_pixels(shape):
  images = np.float32(np.random.default_rng(0).normal(size=shape))
  found = _each(decoy._shuffled, images)
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
  found = _each(decoy._scrambled, images)
  spectra = [
    np.abs(np.fft.fft2(np.float64(x), axes=(1, 2))) for x in (images, found)
  ]
  np.testing.assert_allclose(*spectra, atol=1e-3)
  assert np.abs(np.corrcoef(images.ravel(), found.ravel())[0, 1]) < 0.5


def test_what_is_unlike_is_of_several_kinds_and_of_its_key():
  images = _images('digits', 200)
  unlike = jax.jit(decoy.unlike)
  found = np.asarray(unlike(images, jax.random.key(0)))
  assert found.shape == images.shape
  assert found.dtype == images.dtype
  again, other = (unlike(images, jax.random.key(key)) for key in (0, 1))
  np.testing.assert_array_equal(found, again)
  assert (found != np.asarray(other)).mean() > 0.5
  negative = 2 * images.mean(axis=(1, 2), keepdims=True) - images
  share = np.isclose(found, negative, atol=1e-5).all(axis=(1, 2, 3)).mean()
  assert 0.1 < share < 0.3


def test_outliers_are_learned_from_where_there_are_any():
  own, frozen, _, _ = _trained()
  method = decoy.make(_Net(), optax.sgd(0.1), decoy.Settings(), {})
  batch = {'image': own[:8], 'label': np.zeros(8, np.int32)}
  state = jax.jit(method.init)(jax.random.key(1), batch, frozen)
  step = jax.jit(method.step)
  _, plain = step(state, frozen, batch, jax.random.key(2))
  outlier = {'outlier': _images('patches', 8)}
  _, more = step(state, frozen, batch | outlier, jax.random.key(2))
  assert float(plain['loss']) != float(more['loss'])


@pytest.mark.parametrize(
  'settings', [{'threshold': float('nan')}, {'sharpness': -1.0}]
)
def test_settings_are_checked(settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    decoy.Settings(**settings)
