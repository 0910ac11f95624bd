"""Tiny-ImageNet: 110,000 labelled images of 64x64 pixels in 200 classes.

Source: Stanford CS231n; a subset of ImageNet. The official validation set is
our test set, since the images of the official test set have no labels. Labels
count the sorted WordNet ids, as torchvision's ImageFolder does.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from undistillable.data import archives, dataset, tiny_imagenet_archive

# The official archive unpacks to 262 MB.
_MAX_BYTES = 1 << 30


def _builder_class(
  archive: pathlib.Path, *, allow_partial: bool, progress_fn: dataset.ProgressFn
) -> type:
  """The tfds builder of an archive, which stays where it is, packed."""
  import tensorflow_datasets as tfds

  # Listed before tfds begins, so that most errors come at once.
  with archives.open_zip(archive, _MAX_BYTES) as (read_fn, names):
    splits, class_names = tiny_imagenet_archive.list_archive(
      archive, read_fn, names, allow_partial=allow_partial
    )

  # Not registered: tfds has no data set of this name, but may have one day.
  class TinyImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Tiny-ImageNet with its validation set as test set."""

    VERSION = tfds.core.Version(TINY_IMAGENET.version)

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        description=(
          '200 classes of ImageNet, 64x64 pixels; the official validation set '
          'is the test set.'
        ),
        features=tfds.features.FeaturesDict(
          {
            'id': tfds.features.Text(),
            'image': tfds.features.Image(
              shape=tiny_imagenet_archive.SHAPE, encoding_format='jpeg'
            ),
            'label': tfds.features.ClassLabel(names=class_names),
          }
        ),
        supervised_keys=('image', 'label'),
        homepage='http://cs231n.stanford.edu',
        citation='Y. Le, X. Yang (2015). Tiny ImageNet Visual Recognition.',
      )

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
      del dl_manager
      return {
        split: self._generate_examples(split, images)
        for split, images in splits.items()
      }

    def _generate_examples(
      self, split: str, images: tiny_imagenet_archive.Images
    ) -> Iterator[tuple[str, dict[str, Any]]]:
      with archives.open_zip(archive, _MAX_BYTES) as (read_fn, _):
        for name, label in progress_fn(images, desc=split):
          try:
            content = tiny_imagenet_archive.to_rgb_bytes(read_fn(name))
          except ValueError as error:
            if isinstance(error, dataset.DataError):
              raise
            raise dataset.DataError(f'{archive}: {name}: {error}') from error
          key = name.rpartition('/')[2]
          yield key, {'id': key, 'image': content, 'label': label}

  return TinyImagenet


TINY_IMAGENET = dataset.Source(
  name='tiny_imagenet',
  version='1.0.0',
  image_shape=tiny_imagenet_archive.SHAPE,
  num_classes=200,
  num_examples=tiny_imagenet_archive.COUNTS,
  # As released; the std of the pixels themselves is .2770 .2691 .2821.
  mean=(0.4802, 0.4481, 0.3975),
  std=(0.2302, 0.2265, 0.2262),
  builder_fn=_builder_class,
  archives=('tiny-imagenet-200.zip',),
)
