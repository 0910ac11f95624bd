"""Tiny-ImageNet: 110,000 labelled images of 64x64 pixels in 200 classes.

Source: Stanford CS231n; a subset of ImageNet. The official validation set is
our test set, since the images of the official test set have no labels. Labels
count the sorted WordNet ids, as torchvision's ImageFolder does.
"""

import pathlib
from collections.abc import Iterator

from undistillable.data import archives, dataset, tiny_imagenet_archive

# The official archive unpacks to 262 MB.
_MAX_BYTES = 1 << 30


def _read(archive: pathlib.Path, *, allow_partial: bool) -> dataset.Content:
  """The list of the images; they stay in the archive until they are written."""
  with archives.open_zip(archive, _MAX_BYTES) as (read_fn, names):
    splits, class_names = tiny_imagenet_archive.list_archive(
      archive, read_fn, names, allow_partial=allow_partial
    )

  def examples(split: str) -> Iterator[dataset.Example]:
    with archives.open_zip(archive, _MAX_BYTES) as (read_fn, _):
      for name, label in splits[split]:
        try:
          content = tiny_imagenet_archive.to_rgb_bytes(read_fn(name))
        except ValueError as error:
          if isinstance(error, dataset.DataError):
            raise
          raise dataset.DataError(f'{archive}: {name}: {error}') from error
        key = name.rpartition('/')[2]
        yield key, {'id': key, 'image': content, 'label': label}

  return dataset.Content(
    class_names={'label': class_names},
    num_examples={split: len(images) for split, images in splits.items()},
    examples_fn=examples,
  )


TINY_IMAGENET = dataset.Source(
  name='tiny_imagenet',
  version='1.0.0',
  image_shape=tiny_imagenet_archive.SHAPE,
  num_classes=200,
  num_examples=tiny_imagenet_archive.COUNTS,
  # As released; the std of the pixels themselves is .2770 .2691 .2821.
  mean=(0.4802, 0.4481, 0.3975),
  std=(0.2302, 0.2265, 0.2262),
  description=(
    '200 classes of ImageNet, 64x64 pixels; the official validation set is the '
    'test set.'
  ),
  homepage='http://cs231n.stanford.edu',
  citation='Y. Le, X. Yang (2015). Tiny ImageNet Visual Recognition.',
  read_fn=_read,
  archives=('tiny-imagenet-200.zip',),
)
