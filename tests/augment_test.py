"""Crops against NumPy, rotations against Pillow, and what all of them share."""

import functools
import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from undistillable.data import augment

_crop = jax.jit(augment.crop, static_argnames=('pad', 'mode'))
_normalize = jax.jit(augment.normalize, static_argnums=(1, 2, 3))
_rotate = jax.jit(augment.rotate)


@functools.cache
def _fn(name, **kwargs):
  return jax.jit(functools.partial(augment.get_augmentation(name), **kwargs))


def _augmented(name, key, image, **kwargs):
  return np.asarray(_fn(name, **kwargs)(jax.random.key(key), image))


@pytest.fixture(scope='module')
def photos(shared):
  """uint8[96, 64, 64, 3] of Tiny-ImageNet."""
  with zipfile.ZipFile(shared / 'data' / 'tiny-imagenet-200-subset.zip') as z:
    names = [name for name in z.namelist() if name.endswith('.JPEG')][::170]
    images = [PIL.Image.open(io.BytesIO(z.read(name))) for name in names[:96]]
    return np.stack([np.asarray(image.convert('RGB')) for image in images])


@pytest.fixture(scope='module')
def noise():
  """uint8[64, 9, 6, 3], neither square nor of one size with anything else."""
  rng = np.random.default_rng(0)
  return rng.integers(1, 256, (64, 9, 6, 3), np.uint8)


def test_normalize_equals_hand_computed_value():
  image = np.full((2, 3, 3, 2), 51, np.uint8)
  given = np.asarray(_normalize(image, (0.1, 0.4), (0.5, 0.25)))
  np.testing.assert_allclose(given[0, 0, 0], [0.2, -0.8], rtol=1e-6)
  assert given.shape == image.shape


def test_normalize_rounds_once_when_it_casts():
  image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  exact = _normalize(image, (0.4914,), (0.247,))
  given = _normalize(image, (0.4914,), (0.247,), jnp.bfloat16)
  assert given.dtype == jnp.bfloat16
  np.testing.assert_array_equal(given, np.asarray(exact).astype(jnp.bfloat16))


def test_crop_equals_hand_computed_shift():
  image = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
  given = np.asarray(_crop(image, np.array([[0, 2]]), pad=1))
  # Up by one row and right by one column of the padded image.
  np.testing.assert_array_equal(
    given[0, :, :, 0], [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
  )


def test_crop_equals_numpy_at_every_shift(noise):
  pad = 3
  shifts = [(y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
  image = noise[: len(shifts)]
  given = np.asarray(_crop(image, np.array(shifts), pad=pad))
  for b, (y, x) in enumerate(shifts):
    padded = np.pad(image[b], ((pad, pad), (pad, pad), (0, 0)))
    expected = padded[y : y + 9, x : x + 6]
    np.testing.assert_array_equal(given[b], expected)


def test_crop_can_mirror_the_image_at_its_edges(noise):
  pad = 2
  shift = np.array([[0, 0], [4, 3]])
  given = np.asarray(_crop(noise[:2], shift, pad=pad, mode='reflect'))
  for b, (y, x) in enumerate([(0, 0), (4, 3)]):
    padded = np.pad(noise[b], ((pad, pad), (pad, pad), (0, 0)), 'reflect')
    np.testing.assert_array_equal(given[b], padded[y : y + 9, x : x + 6])


def test_reflect_crop_flip_shifts_by_up_to_two_pixels_and_mirrors(noise):
  image = np.repeat(noise[:1], 2_000, axis=0)
  given = _augmented('reflect_crop_flip', 5, image)
  padded = np.pad(noise[0], ((2, 2), (2, 2), (0, 0)), 'reflect')
  views = [padded[y : y + 9, x : x + 6] for y in range(5) for x in range(5)]
  views = np.stack([v[:, ::m] for v in views for m in (1, -1)])
  found = [int((views == one).all((1, 2, 3)).argmax()) for one in given]
  assert (views[found] == given).all()
  counts = np.bincount(found, minlength=50)
  assert (abs(counts - 40) < 5 * np.sqrt(40)).all(), counts


def test_pad_crop_draws_every_shift_equally_often():
  pad = 1
  image = np.zeros((9000, 3, 3, 1), np.uint8)
  image[:, 1, 1] = 1  # After the crop this pixel tells the shift.
  given = _augmented('pad_crop', 1, image, pad=pad)
  counts = given.astype(np.int32).sum((0, 3))
  assert counts.sum() == 9000
  assert (abs(counts - 1000) < 5 * np.sqrt(1000)).all(), counts


def test_pad_crop_flip_mirrors_half_of_the_images(noise):
  image = np.concatenate([noise] * 20)
  given = _augmented('pad_crop_flip', 2, image, pad=0)
  mirrored = (given == image[:, :, ::-1]).all((1, 2, 3))
  kept = (given == image).all((1, 2, 3))
  assert (mirrored ^ kept).all()
  assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(image))


def test_rotate_equals_pillow(photos):
  degrees = np.random.default_rng(0).uniform(-20, 20, len(photos))
  degrees = degrees.astype(np.float32)
  expected = [
    PIL.Image.fromarray(image).rotate(float(angle))
    for image, angle in zip(photos, degrees, strict=True)
  ]
  given = _rotate(photos, degrees)
  different = (np.stack(expected) != np.asarray(given)).any(-1)
  # Measured 1e-6 on 512 photographs: float32 sine and cosine, at ties.
  assert different.mean() < 3e-5


@pytest.mark.parametrize('angle', [0, 90, 180, -90, 20, -20])
def test_rotate_equals_pillow_off_square(noise, angle):
  expected = [np.asarray(PIL.Image.fromarray(x).rotate(angle)) for x in noise]
  degrees = np.full(len(noise), angle, np.float32)
  given = np.asarray(_rotate(noise, degrees))
  # Quarter turns fall on pixel borders, where 6e-8 of a cosine decides; a
  # border of one pixel is all that may differ.
  inner = np.s_[:, 1:-1, 1:-1]
  np.testing.assert_array_equal(given[inner], np.stack(expected)[inner])


def test_rotate_flip_turns_by_angles_within_bounds():
  image = np.full((512, 33, 33, 1), 255, np.uint8)
  still = _augmented('rotate_flip', 0, image, max_degrees=0.0)
  np.testing.assert_array_equal(still, image)
  turned = _augmented('rotate_flip', 0, image)
  # The black corners grow with the angle: 20 degrees takes this many pixels.
  most = (np.asarray(_rotate(image[:1], np.full(1, 20.0))) == 0).sum()
  black = (turned == 0).sum((1, 2, 3))
  assert black.max() <= most
  assert black.max() > 0.9 * most
  assert black.min() < 0.1 * most


def test_rotate_flip_turns_either_way_whether_it_flips_or_not():
  number, size = 2000, 33
  image = np.zeros((number, size, size, 1), np.uint8)
  image[:, size // 2, -6:-1] = 1  # Right of the centre: up if turned left.
  given = _augmented('rotate_flip', 4, image).astype(np.float32)[..., 0]
  middle = np.arange(size) - size // 2
  height = (given.sum(2) * middle).sum(1)
  side = np.sign((given.sum(1) * middle).sum(1))
  bound = 5 / np.sqrt(number)
  assert abs(side.mean()) < bound
  assert abs(np.sign(height).mean()) < bound + (height == 0).mean()
  assert abs(np.corrcoef(height, side)[0, 1]) < bound


@pytest.mark.parametrize('name', sorted(augment.AUGMENTATIONS))
class TestEveryAugmentation:
  def test_keeps_shape_and_dtype(self, noise, name):
    fn, key = augment.get_augmentation(name), jax.random.key(0)
    given = jax.eval_shape(fn, key, noise)
    assert (given.shape, given.dtype) == (noise.shape, np.uint8)

  def test_is_the_same_under_jit_and_scan(self, noise, name):
    augment_fn = augment.get_augmentation(name)
    keys = jax.random.split(jax.random.key(3), 2)

    def step(carry, key):
      return carry, augment_fn(key, noise)

    _, scanned = jax.jit(lambda keys: jax.lax.scan(step, 0, keys))(keys)
    for key, given in zip(keys, np.asarray(scanned), strict=True):
      np.testing.assert_array_equal(given, augment_fn(key, noise))

  def test_draws_for_each_example_and_each_key(self, noise, name):
    image = np.repeat(noise[:1], 32, axis=0)
    given, other = (_augmented(name, key, image) for key in (0, 1))
    varies = name != 'none'
    assert (len(np.unique(given, axis=0)) > 5) == varies
    assert (given != other).any() == varies


@pytest.mark.parametrize('name', sorted(augment.AUGMENTATIONS))
def test_an_image_becomes_the_same_on_two_devices(name, noise):
  def share(rng, image):
    with augment.spread('batch'):
      return augment.get_augmentation(name)(rng, image)

  key, halves = jax.random.key(3), noise.reshape(2, -1, *noise.shape[1:])
  found = jax.pmap(share, axis_name='batch', in_axes=(None, 0))(key, halves)
  found = np.asarray(found).reshape(noise.shape)
  np.testing.assert_array_equal(found, _augmented(name, 3, noise))
  # No longer than that: one who has a whole batch draws for all of it.
  np.testing.assert_array_equal(
    augment.get_augmentation(name)(key, noise), _augmented(name, 3, noise)
  )


def test_get_augmentation_names_those_that_there_are():
  message = "unknown augmentation 'pad'; known: none, pad_crop"
  with pytest.raises(ValueError, match=message):
    augment.get_augmentation('pad')
