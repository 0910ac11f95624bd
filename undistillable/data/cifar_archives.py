"""Reads the official archives of CIFAR-10 and CIFAR-100, of either kind."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from undistillable.data import archives, dataset, pickles

_T = TypeVar('_T')

Names = dict[str, list[str]]  # The names of the classes, by key of the label.
_Layout = tuple[
  Callable[[str, str, bytes], dataset.Split],  # Reads a file of images.
  Callable[[str, Mapping[str, bytes]], Names],  # Reads the names.
  Mapping[str, Sequence[str]],  # Files of images, by split.
  list[str],  # Files of names.
]

COUNTS = {'train': 50_000, 'test': 10_000}
_IMAGE_BYTES = 32 * 32 * 3
# The official archives unpack to 187 MB; pickles that Python 3 wrote for
# Python 2 spell each byte above 127 as two.
_MAX_BYTES = 512 << 20

_FILES: dict[str, dict[str, tuple[str, ...]]] = {
  'cifar10': {
    'train': tuple(f'data_batch_{number}' for number in range(1, 6)),
    'test': ('test_batch',),
  },
  'cifar100': {'train': ('train',), 'test': ('test',)},
}
_META = {'cifar10': 'batches.meta', 'cifar100': 'meta'}
# Our key: (number of classes, key in the pickles, key of the names there, file
# of the names beside binary files); in the order of the bytes of a record.
_LABELS = {
  'cifar10': {'label': (10, 'labels', 'label_names', 'batches.meta.txt')},
  'cifar100': {
    'coarse_label': (
      20,
      'coarse_labels',
      'coarse_label_names',
      'coarse_label_names.txt',
    ),
    'label': (100, 'fine_labels', 'fine_label_names', 'fine_label_names.txt'),
  },
}


def read_archive(
  name: str, archive: pathlib.Path, *, allow_partial: bool = False
) -> tuple[dict[str, dataset.Split], Names]:
  """Reads and checks an official archive, of binary files or of pickles.

  Args:
    name: 'cifar10' or 'cifar100'.
    archive: cifar-10-binary.tar.gz, cifar-10-python.tar.gz or alike for 100.
    allow_partial: fewer images than the official archive has will do.

  Returns:
    ({split: {'image': uint8[N, 32, 32, 3], 'label': uint8[N], ...}},
    {'label': class names, ...}).

  Raises:
    dataset.DataError: incomplete, damaged or unsafe, and which file in it.
  """
  binary = {
    split: [f'{file}.bin' for file in files]
    for split, files in _FILES[name].items()
  }
  name_files = [names[-1] for names in _LABELS[name].values()]
  layouts: list[_Layout] = [
    (_read_binary, _read_binary_names, binary, name_files),
    (_read_pickle, _read_pickle_names, _FILES[name], [_META[name]]),
  ]
  needed = [[*f['train'], *f['test'], *meta] for _, _, f, meta in layouts]
  content = archives.read_tar(archive, set(sum(needed, [])), _MAX_BYTES)
  # The layout of which more is there, so that the error names what is missing.
  found = [sum(file in content for file in files) for files in needed]
  chosen = int(found[1] > found[0])
  read_fn, read_names_fn, files, _ = layouts[chosen]
  if missing := [file for file in needed[chosen] if file not in content]:
    raise dataset.DataError(
      f'{archive} is no complete archive of {name}: it holds no {missing[0]}'
    )

  def call(fn: Callable[..., _T], *args: Any) -> _T:
    try:
      return fn(*args)
    except ValueError as error:
      raise dataset.DataError(f'{archive}: {error}') from error

  splits: dict[str, dataset.Split] = {}
  for split in COUNTS:
    parts = [call(read_fn, name, f, content.pop(f)) for f in files[split]]
    splits[split] = {
      key: np.concatenate([part[key] for part in parts]) for key in parts[0]
    }
  dataset.check_counts(
    archive,
    {split: len(arrays['label']) for split, arrays in splits.items()},
    COUNTS,
    allow_partial,
  )
  return splits, call(read_names_fn, name, content)


def _read_binary(name: str, file: str, content: bytes) -> dataset.Split:
  """Records of one byte a label, then 3,072 of the image, planes first."""
  num_labels = len(_LABELS[name])
  if len(content) % (num_labels + _IMAGE_BYTES):
    raise ValueError(
      f'{file} is cut within an image: {len(content):,} bytes are no multiple '
      f'of {num_labels + _IMAGE_BYTES:,}'
    )
  records = np.frombuffer(content, np.uint8).reshape(
    -1, num_labels + _IMAGE_BYTES
  )
  labels = dict(zip(_LABELS[name], records.T, strict=False))
  return _check_arrays(name, file, records[:, num_labels:], labels)


def _read_pickle(name: str, file: str, content: bytes) -> dataset.Split:
  """A dict of an array of images and lists of labels."""
  loaded = _load_pickle(file, content)
  try:
    image = loaded['data']
    labels = {
      key: np.asarray(loaded[theirs])
      for key, (_, theirs, _, _) in _LABELS[name].items()
    }
  except KeyError as error:
    raise ValueError(f'{file} holds no {error}') from error
  except ValueError as error:  # Lists of unequal lengths.
    raise ValueError(f'{file}: {error}') from error
  if getattr(image, 'dtype', None) != np.uint8 or (
    image.shape[1:] != (_IMAGE_BYTES,)
  ):
    raise ValueError(f"{file} holds no 'data' of uint8[N, {_IMAGE_BYTES}]")
  return _check_arrays(name, file, image, labels)


def _load_pickle(file: str, content: bytes) -> dict[str, Any]:
  """A pickle, with its file's name in the error."""
  try:
    return pickles.load(content)
  except ValueError as error:
    raise ValueError(f'{file}: {error}') from error


def _check_arrays(
  name: str, file: str, image: np.ndarray, labels: dataset.Split
) -> dataset.Split:
  """Puts channels last; every image needs each of its labels, in range."""
  for key, (num_classes, *_) in _LABELS[name].items():
    label = labels[key]
    if label.shape != (len(image),):
      raise ValueError(
        f'{file} holds {len(image):,} images and labels of shape {label.shape}'
      )
    if not np.issubdtype(label.dtype, np.integer):
      raise ValueError(f'{file} holds a {key} that is no integer')
    wrong = np.flatnonzero((label < 0) | (label >= num_classes))
    if wrong.size:
      raise ValueError(
        f'{file}: image {wrong[0]} has {key} {label[wrong[0]]}, expected 0 to '
        f'{num_classes - 1}'
      )
  image = image.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return {'image': image, **labels}


def _read_binary_names(name: str, content: Mapping[str, bytes]) -> Names:
  """{label key: names}, from text files of one name a line."""
  names = {
    key: content[file].decode('latin1').split()
    for key, (_, _, _, file) in _LABELS[name].items()
  }
  return _check_names(name, names)


def _read_pickle_names(name: str, content: Mapping[str, bytes]) -> Names:
  """{label key: names}, from the pickle of names."""
  meta = _load_pickle(_META[name], content[_META[name]])
  names = {}
  for key, (_, _, theirs, _) in _LABELS[name].items():
    given = meta.get(theirs)
    if not isinstance(given, list):
      raise ValueError(f'{_META[name]} holds no list {theirs!r}')
    names[key] = [
      text.decode('latin1') if isinstance(text, bytes) else str(text)
      for text in given
    ]
  return _check_names(name, names)


def _check_names(name: str, names: Names) -> Names:
  """One name a class, all different."""
  for key, (num_classes, *_) in _LABELS[name].items():
    if len(set(names[key])) != num_classes or len(names[key]) != num_classes:
      raise ValueError(
        f'{len(set(names[key]))} different names of {key}, expected '
        f'{num_classes}'
      )
  return names
