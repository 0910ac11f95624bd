"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels.

Source: A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny
Images. What is prepared here equals, record by record, what tfds prepares with
TensorFlow, so either reads the other's folder.
"""

import functools
import pathlib
from collections.abc import Iterator

import PIL.Image

from undistillable.data import cifar_archives, dataset

_SHAPE = (32, 32, 3)
_HOMEPAGE = 'https://www.cs.toronto.edu/~kriz/cifar.html'
_CITATION = 'A. Krizhevsky (2009), Learning Multiple Layers of Features.'


def _read(
  name: str, archive: pathlib.Path, *, allow_partial: bool
) -> dataset.Content:
  """All images of an archive, in memory."""
  splits, class_names = cifar_archives.read_archive(
    name, archive, allow_partial=allow_partial
  )

  def examples(split: str) -> Iterator[dataset.Example]:
    arrays = splits[split]
    # The key is the index, as in tfds: it decides the order of the records.
    for index, image in enumerate(arrays['image']):
      yield (
        index,
        {
          'id': f'{split}_{index:05d}',
          'image': PIL.Image.fromarray(image),
          **{key: int(arrays[key][index]) for key in class_names},
        },
      )

  return dataset.Content(
    class_names=class_names,
    num_examples={s: len(arrays['label']) for s, arrays in splits.items()},
    examples_fn=examples,
  )


CIFAR10 = dataset.Source(
  name='cifar10',
  version='3.0.2',
  image_shape=_SHAPE,
  num_classes=10,
  num_examples=cifar_archives.COUNTS,
  # As released; the std of the pixels themselves is .2470 .2435 .2616.
  mean=(0.4914, 0.4822, 0.4465),
  std=(0.247, 0.243, 0.261),
  description='60,000 colour images of 32x32 pixels in 10 classes.',
  homepage=_HOMEPAGE,
  citation=_CITATION,
  read_fn=functools.partial(_read, 'cifar10'),
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
  description='60,000 colour images of 32x32 pixels in 100 classes.',
  homepage=_HOMEPAGE,
  citation=_CITATION,
  read_fn=functools.partial(_read, 'cifar100'),
  archives=('cifar-100-binary.tar.gz', 'cifar-100-python.tar.gz'),
)
