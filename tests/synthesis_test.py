"""Made-up images: bytes, grids and what a set is worth."""

import jax
import numpy as np
import PIL.Image
import pytest

from undistillable import data, models
from undistillable.attacks import synthesis
from undistillable.data import augment

MEAN, STD = (0.3, 0.5, 0.9), (0.2, 0.3, 0.05)


def test_bytes_come_back_from_what_normalize_made_of_them():
  values = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
  image = np.concatenate([values, 255 - values, values // 2], axis=-1)
  normal = augment.normalize(image, MEAN, STD)
  np.testing.assert_array_equal(synthesis.to_uint8(normal, MEAN, STD), image)
  outside = np.array([-99.0, 0.0, 99.0]).reshape(1, 1, 1, 3)
  found = synthesis.to_uint8(outside, MEAN, STD)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found.ravel(), [0, 128, 255])


def test_the_range_is_what_normalize_makes_of_0_and_255():
  ends = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, -1)
  for name, (mean, std) in data.NORMALIZATIONS.items():
    shown = ends[..., : len(mean)]
    expected = np.array(augment.normalize(shown, mean, std)).reshape(2, -1)
    found = synthesis.value_range(name)
    np.testing.assert_allclose(found['low'], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found['high'], expected[1], rtol=1e-6)


def test_a_grid_is_filled_row_by_row():
  image = np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1, 1)
  image = image.repeat(2, 1).repeat(2, 2)
  expected = [
    [1, 1, 0, 2, 2],
    [1, 1, 0, 2, 2],
    [0, 0, 0, 0, 0],
    [3, 3, 0, 0, 0],
    [3, 3, 0, 0, 0],
  ]
  np.testing.assert_array_equal(
    synthesis.image_grid(image, 2)[..., 0], expected
  )


def test_class_balance_by_hand():
  logits = np.array([[3.0, 1, 0], [2, 1, 0], [0, 9, 0], [1, 0, 0]])
  np.testing.assert_array_equal(
    synthesis.class_balance(logits), [0.75, 0.25, 0]
  )


@pytest.mark.parametrize('batch_size', [3, 8, 100])
def test_the_distance_of_a_set_does_not_depend_on_its_batches(batch_size):
  rng = np.random.default_rng(0)
  arrays = {
    'image': rng.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8),
    'label': np.zeros(8, np.int32),
  }
  model, prepare = models.get_model('cnn4', 10), data.prepare_fn(MEAN, STD)
  variables = jax.jit(model.init)(jax.random.key(0), arrays['image'][:1] / 255)
  images = augment.normalize(arrays['image'], MEAN, STD)
  # One step of training moves the running statistics by a tenth of the gap.
  _, updates = model.apply(variables, images, True, mutable=['batch_stats'])
  moved = updates['batch_stats']['bn1']['mean'] / 0.1
  found = synthesis.batch_norm_distance(
    model, variables, arrays, prepare, batch_size=batch_size
  )
  whole = synthesis.batch_norm_distance(model, variables, arrays, prepare)
  np.testing.assert_allclose(found, whole, rtol=1e-4)
  # Four layers; the first one's mean alone contributes this much.
  assert found > np.linalg.norm(moved) / 4 > 0


def test_a_network_without_batch_norm_is_at_no_distance():
  arrays = {
    'image': np.zeros((2, 8, 8, 3), np.uint8),
    'label': np.zeros(2, np.int32),
  }
  model = models.get_model('mlp', 10)
  variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
  prepare = data.prepare_fn(MEAN, STD)
  assert synthesis.batch_norm_distance(model, variables, arrays, prepare) == 0


@pytest.mark.parametrize('channels', [1, 3])
def test_a_grid_is_written_as_a_picture_of_the_images(tmp_path, channels):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (5, 8, 8, channels), np.uint8)
  path = tmp_path / 'images.png'
  synthesis.write_grid(path, image)
  with PIL.Image.open(path) as found:
    pixels = np.asarray(found).reshape(*found.size[::-1], channels)
  # Three columns, and every pixel four times as wide and high.
  assert pixels.shape == (4 * 17, 4 * 26, channels)
  np.testing.assert_array_equal(pixels[:32:4, 36:68:4], image[1])
  assert list(tmp_path.iterdir()) == [path]
