"""Two small data sets from what scikit-learn ships: nothing is downloaded.

Digits: 1,797 handwritten ones. Patches of two photos: foreign images for them,
which show nothing that a classifier of digits knows; their labels say which
photo they are from.
"""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from undistillable.data import dataset

_SIDE = 8  # Pixels of a digit, and of a patch.
_EVERY = 5  # Of each class, for the test set.
_PHOTOS = ('china', 'flower')
_SHRINK = 4  # Of the photos, for a patch to show more than one shade.


def _read_digits(archive: None) -> dataset.Content:
  """0..16 is stretched to 0..255."""
  from sklearn import datasets

  del archive
  digits = datasets.load_digits()
  image = np.round(digits.images * (255 / 16)).astype(np.uint8)
  label = digits.target
  in_test = np.zeros(len(label), bool)
  # Every fifth image of each class, so from every writer.
  for number in np.unique(label):
    in_test[np.flatnonzero(label == number)[_EVERY - 1 :: _EVERY]] = True
  return _content('digits', image, label, in_test, list(map(str, range(10))))


def _read_patches(archive: None) -> dataset.Content:
  """Patches from other places each, in any order.

  Each is stretched to 0..255, the contrast of digits: of patches as they are a
  knockoff student of digits learned half as much.
  """
  from sklearn import datasets

  del archive
  rng = np.random.default_rng(0)
  number = sum(PATCHES.num_examples.values())
  label = rng.permutation(np.arange(number) % len(_PHOTOS))
  image = np.empty((number, _SIDE, _SIDE), np.uint8)
  for kind, name in enumerate(_PHOTOS):
    photo = PIL.Image.fromarray(datasets.load_sample_image(f'{name}.jpg'))
    small = np.asarray(photo.convert('L').reduce(_SHRINK))
    windows = np.lib.stride_tricks.sliding_window_view(small, (_SIDE, _SIDE))
    windows = windows.reshape(-1, _SIDE, _SIDE)
    chosen = rng.choice(len(windows), np.sum(label == kind), replace=False)
    image[label == kind] = _stretch(windows[chosen])
  in_test = np.arange(number) >= PATCHES.num_examples['train']
  return _content('patches', image, label, in_test, _PHOTOS)


def _stretch(image: np.ndarray) -> np.ndarray:
  """Black for the least value of each image, white for the largest: uint8."""
  low, high = (
    fn(image, axis=(1, 2), keepdims=True).astype(np.float64)
    for fn in (np.min, np.max)
  )
  stretched = 255 * (image - low) / np.maximum(high - low, 1)
  return np.round(stretched).astype(np.uint8)


def _content(
  name: str,
  image: np.ndarray,
  label: np.ndarray,
  in_test: np.ndarray,
  class_names: Sequence[str],
) -> dataset.Content:
  whole = {'image': image, 'label': label, 'index': np.arange(len(label))}
  return dataset.from_arrays(
    {
      split: {key: array[chosen] for key, array in whole.items()}
      for split, chosen in (('train', ~in_test), ('test', in_test))
    },
    {'label': class_names},
    name + '_{index:04d}',
  )


DIGITS = dataset.Source(
  name='digits',
  version='1.0.0',
  image_shape=(_SIDE, _SIDE, 1),
  num_classes=10,
  num_examples={'train': 1442, 'test': 355},
  mean=(0.3052,),
  std=(0.3760,),
  description=(
    '1,797 handwritten digits of 8x8 pixels in 17 grey levels; E. Alpaydin, '
    'C. Kaynak (1998), Optical Recognition of Handwritten Digits'
  ),
  read_fn=_read_digits,
)

PATCHES = dataset.Source(
  name='patches',
  version='1.0.0',
  image_shape=(_SIDE, _SIDE, 1),
  num_classes=len(_PHOTOS),
  num_examples={'train': 2000, 'test': 400},
  mean=(0.4973,),
  std=(0.3011,),
  description=(
    '2,400 grey patches of 8x8 pixels from two photos that scikit-learn ships, '
    'china.jpg and flower.jpg'
  ),
  read_fn=_read_patches,
)
