"""Tiny-ImageNet: 110,000 labelled images of 64x64 pixels in 200 classes.

Source: Stanford CS231n; a subset of ImageNet. The official validation set is
our test set, since the images of the official test set have no labels. Labels
count the sorted WordNet ids, as torchvision's ImageFolder does.
"""

import collections
import io
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping

import PIL.Image

from undistillable.data import archives, dataset

_SHAPE = (64, 64, 3)
_IMAGE = re.compile(
  r'(?:train/(?P<wnid>[^/]+)|val)/images/(?P<file>[^/.][^/]*\.jpe?g)',
  re.IGNORECASE,
)


def _read(archive: pathlib.Path) -> dataset.Content:
  """Finds the images, which stay in the archive until they are written."""
  with zipfile.ZipFile(archive) as opened:
    names = opened.namelist()
    root = _find_root(names)
    wnids, words, annotations = (
      _read_table(opened, root + name)
      for name in ('wnids.txt', 'words.txt', 'val/val_annotations.txt')
    )
  label = {wnid: index for index, wnid in enumerate(sorted(wnids))}
  # {file name: (name in the archive, label)}.
  splits: dict[str, dict[str, tuple[str, int]]] = {'train': {}, 'test': {}}
  for name in names:
    match = _IMAGE.fullmatch(name.removeprefix(root))
    if not match:
      continue
    split = 'train' if match['wnid'] else 'test'
    wnid = match['wnid'] or annotations.get(match['file'], '')
    if wnid not in label:
      raise ValueError(f'the class of {name} is not in wnids.txt')
    if match['file'] in splits[split]:
      raise ValueError(f'two {split} images are called {match["file"]}')
    splits[split][match['file']] = name, label[wnid]

  def examples(split: str) -> Iterator[dataset.Example]:
    with zipfile.ZipFile(archive) as opened:
      for file, (name, label) in splits[split].items():
        with archives.naming(f'{archive}: {name}'):
          image = _to_rgb(opened.read(name))
        # The key decides the order of the records.
        yield file, {'id': file, 'image': image, 'label': label}

  return dataset.Content(
    class_names={'label': _class_names(list(label), words)},
    num_examples={split: len(images) for split, images in splits.items()},
    examples_fn=examples,
  )


def _find_root(names: list[str]) -> str:
  """The folder that holds wnids.txt, with a slash at the end, or ''."""
  found = [name for name in names if name.rpartition('/')[2] == 'wnids.txt']
  if not found:
    raise ValueError('it holds no wnids.txt')
  return min(found, key=len).removesuffix('wnids.txt')


def _read_table(opened: zipfile.ZipFile, name: str) -> dict[str, str]:
  """{first column: second column or ''} of a text file with tabs."""
  lines = opened.read(name).decode('utf-8-sig').splitlines()
  rows = [[*line.split('\t'), ''] for line in lines if line.strip()]
  return {first.strip(): second.strip() for first, second, *_ in rows}


def _class_names(wnids: list[str], words: Mapping[str, str]) -> list[str]:
  """What the classes are called; tfds needs names that differ."""
  for wnid in wnids:
    if not words.get(wnid):
      raise ValueError(f'words.txt has no words for {wnid}')
  often = collections.Counter(words[wnid] for wnid in wnids)
  return [
    f'{words[wnid]} ({wnid})' if often[words[wnid]] > 1 else words[wnid]
    for wnid in wnids
  ]


def _to_rgb(content: bytes) -> bytes:
  """The same bytes of an RGB image, so that nothing is encoded twice.

  Grayscale images, about 2 %, become RGB in a PNG, which loses nothing.
  """
  # PNG as well: in ImageNet some files called JPEG are none.
  with PIL.Image.open(io.BytesIO(content), formats=('JPEG', 'PNG')) as image:
    if image.size != _SHAPE[1::-1]:
      raise ValueError(f'{image.size} pixels, expected {_SHAPE[1::-1]}')
    image.load()  # A damaged one ends here, not when the folder is read.
    if image.mode == 'RGB':
      return content
    rgb = io.BytesIO()
    image.convert('RGB').save(rgb, format='PNG')
    return rgb.getvalue()


TINY_IMAGENET = dataset.Source(
  name='tiny_imagenet',
  version='1.0.0',
  image_shape=_SHAPE,
  num_classes=200,
  num_examples={'train': 100_000, 'test': 10_000},
  # As released; the std of the pixels themselves is .2770 .2691 .2821.
  mean=(0.4802, 0.4481, 0.3975),
  std=(0.2302, 0.2265, 0.2262),
  description=(
    '200 classes of ImageNet, 64x64 pixels; the official validation set is the '
    'test set; Y. Le, X. Yang (2015), Tiny ImageNet Visual Recognition'
  ),
  read_fn=_read,
  archives=(
    # Not in tfds: several projects agree on it.
    dataset.Archive(
      'http://cs231n.stanford.edu/tiny-imagenet-200.zip',
      '6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821',
    ),
  ),
)
