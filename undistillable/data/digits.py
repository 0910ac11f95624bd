"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels, embedded."""

import pathlib
from collections.abc import Iterator

import numpy as np
import PIL.Image

from undistillable.data import dataset

_EVERY = 5


def _read(archive: pathlib.Path | None) -> dataset.Content:
  """The images that scikit-learn ships."""
  del archive
  image, label = _load_digits()
  in_test = _in_test(label)
  indices = {'train': np.flatnonzero(~in_test), 'test': np.flatnonzero(in_test)}

  def examples(split: str) -> Iterator[dataset.Example]:
    for index in map(int, indices[split]):
      yield (
        index,
        {
          'id': f'digits_{index:04d}',
          'image': PIL.Image.fromarray(image[index]),
          'label': int(label[index]),
        },
      )

  return dataset.Content(
    class_names={'label': [str(digit) for digit in range(10)]},
    num_examples={split: len(chosen) for split, chosen in indices.items()},
    examples_fn=examples,
  )


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
  """(uint8[1797, 8, 8], int64[1797]); 0..16 is stretched to 0..255."""
  from sklearn import datasets

  digits = datasets.load_digits()
  return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def _in_test(label: np.ndarray) -> np.ndarray:
  """bool[N]: every fifth image of each class, so from every writer."""
  in_test = np.zeros(len(label), bool)
  for number in np.unique(label):
    in_test[np.flatnonzero(label == number)[_EVERY - 1 :: _EVERY]] = True
  return in_test


DIGITS = dataset.Source(
  name='digits',
  version='1.0.0',
  image_shape=(8, 8, 1),
  num_classes=10,
  num_examples={'train': 1442, 'test': 355},
  mean=(0.3052,),
  std=(0.3760,),
  description=(
    '1,797 handwritten digits of 8x8 pixels in 17 grey levels; E. Alpaydin, '
    'C. Kaynak (1998), Optical Recognition of Handwritten Digits'
  ),
  read_fn=_read,
)
