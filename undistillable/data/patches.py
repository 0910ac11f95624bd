"""Patches of the photos that scikit-learn ships: foreign images for digits.

2,400 grey patches of 8x8 pixels, embedded; what they show is nothing that a
classifier of digits knows. Their labels say which photo they are from.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import PIL.Image

from undistillable.data import dataset

_SIDE = 8  # Pixels of a patch.
_SHRINK = 4  # Of the photos, for a patch to show more than one shade.


def _read(archive: pathlib.Path | None) -> dataset.Content:
  """Patches of the photos that scikit-learn ships."""
  del archive
  image, label = _load_patches()
  num_train = PATCHES.num_examples['train']
  indices = {
    'train': range(num_train),
    'test': range(num_train, len(label)),
  }

  def examples(split: str) -> Iterator[dataset.Example]:
    for index in indices[split]:
      yield (
        index,
        {
          'id': f'patches_{index:04d}',
          'image': PIL.Image.fromarray(image[index]),
          'label': int(label[index]),
        },
      )

  return dataset.Content(
    class_names={'label': _PHOTOS},
    num_examples=PATCHES.num_examples,
    examples_fn=examples,
  )


def _load_patches() -> tuple[np.ndarray, np.ndarray]:
  """(uint8[2400, 8, 8], int64[2400]): at other places each, in any order.

  Each is stretched to 0..255, the contrast of digits: of patches as they are a
  knockoff student of digits learned half as much.
  """
  from sklearn import datasets

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
  return image, label


def _stretch(image: np.ndarray) -> np.ndarray:
  """Black for the least value of each image, white for the largest: uint8."""
  low, high = (
    fn(image, axis=(1, 2), keepdims=True).astype(np.float64)
    for fn in (np.min, np.max)
  )
  return np.round(255 * (image - low) / np.maximum(high - low, 1)).astype(
    np.uint8
  )


_PHOTOS = ('china', 'flower')

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
  read_fn=_read,
)
