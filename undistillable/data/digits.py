"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels, embedded."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from undistillable.data import dataset

_EVERY = 5


def _builder_class(
  archive: pathlib.Path | None,
  *,
  allow_partial: bool,
  progress_fn: dataset.ProgressFn,
) -> type:
  """The tfds builder; scikit-learn ships the images."""
  del archive, allow_partial, progress_fn
  import PIL.Image
  import tensorflow_datasets as tfds

  # Not registered: tfds has no data set of this name, but may have one day.
  class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Optical recognition of handwritten digits."""

    VERSION = tfds.core.Version(DIGITS.version)

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        description='1,797 handwritten digits of 8x8 pixels in 17 grey levels.',
        features=tfds.features.FeaturesDict(
          {
            'id': tfds.features.Text(),
            'image': tfds.features.Image(
              shape=DIGITS.image_shape, encoding_format='png'
            ),
            'label': tfds.features.ClassLabel(num_classes=DIGITS.num_classes),
          }
        ),
        supervised_keys=('image', 'label'),
        homepage='https://archive.ics.uci.edu/dataset/80',
        citation=(
          'E. Alpaydin, C. Kaynak (1998). Optical Recognition of Handwritten '
          'Digits. UCI Machine Learning Repository.'
        ),
      )

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
      del dl_manager
      image, label = _load_digits()
      in_test = _in_test(label)
      return {
        'train': self._generate_examples(image, label, ~in_test),
        'test': self._generate_examples(image, label, in_test),
      }

    def _generate_examples(
      self, image: np.ndarray, label: np.ndarray, chosen: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
      for index in np.flatnonzero(chosen):
        yield (
          int(index),
          {
            'id': f'digits_{index:04d}',
            'image': PIL.Image.fromarray(image[index]),
            'label': int(label[index]),
          },
        )

  return Digits


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
  builder_fn=_builder_class,
)
