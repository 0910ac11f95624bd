"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels.

Source: A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny
Images. What is prepared here equals, record by record, what tfds prepares with
TensorFlow, so either reads the other's folder.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from undistillable.data import cifar_archives, dataset

_SHAPE = (32, 32, 3)


def _builder_class(
  name: str,
  archive: pathlib.Path,
  *,
  allow_partial: bool = False,
  progress_fn: dataset.ProgressFn,
) -> type:
  """The tfds builder of an archive that has been read."""
  import PIL.Image
  import tensorflow_datasets as tfds

  source = {'cifar10': CIFAR10, 'cifar100': CIFAR100}[name]
  splits, class_names = cifar_archives.read_archive(
    name, archive, allow_partial=allow_partial
  )

  # Not registered: tfds' own builder has the name.
  class Cifar(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR, as tfds writes it, but without TensorFlow."""

    VERSION = tfds.core.Version(source.version)

    def _info(self) -> tfds.core.DatasetInfo:
      labels = {
        key: tfds.features.ClassLabel(names=names)
        for key, names in class_names.items()
      }
      return tfds.core.DatasetInfo(
        builder=self,
        description=f'60,000 colour images of 32x32 pixels, {name}.',
        features=tfds.features.FeaturesDict(
          {
            'id': tfds.features.Text(),
            'image': tfds.features.Image(shape=_SHAPE),
            **labels,
          }
        ),
        supervised_keys=('image', 'label'),
        homepage='https://www.cs.toronto.edu/~kriz/cifar.html',
        citation='A. Krizhevsky (2009), Learning Multiple Layers of Features.',
      )

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
      del dl_manager
      return {
        split: self._generate_examples(split, arrays)
        for split, arrays in splits.items()
      }

    def _generate_examples(
      self, split: str, arrays: dataset.Split
    ) -> Iterator[tuple[int, dict[str, Any]]]:
      # The key is the index, as in tfds: it decides the order of the records.
      for index in progress_fn(range(len(arrays['label'])), desc=split):
        yield (
          index,
          {
            'id': f'{split}_{index:05d}',
            'image': PIL.Image.fromarray(arrays['image'][index]),
            **{key: int(arrays[key][index]) for key in class_names},
          },
        )

  Cifar.name = name
  return Cifar


CIFAR10 = dataset.Source(
  name='cifar10',
  version='3.0.2',
  image_shape=_SHAPE,
  num_classes=10,
  num_examples=cifar_archives.COUNTS,
  # As released; the std of the pixels themselves is .2470 .2435 .2616.
  mean=(0.4914, 0.4822, 0.4465),
  std=(0.247, 0.243, 0.261),
  builder_fn=functools.partial(_builder_class, 'cifar10'),
  archives=('cifar-10-binary.tar.gz', 'cifar-10-python.tar.gz'),
)

CIFAR100 = dataset.Source(
  name='cifar100',
  version='3.0.2',
  image_shape=_SHAPE,
  num_classes=100,
  num_examples=cifar_archives.COUNTS,
  # Its own; the released code normalises it with the constants of CIFAR-10.
  mean=(0.5071, 0.4865, 0.4409),
  std=(0.2673, 0.2564, 0.2762),
  builder_fn=functools.partial(_builder_class, 'cifar100'),
  archives=('cifar-100-binary.tar.gz', 'cifar-100-python.tar.gz'),
)
