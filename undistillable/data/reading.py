"""Reads a prepared folder through tfds into arrays."""

import io
import math
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

from undistillable.data import dataset, folders, tfds_quiet

# Enough to make a call cheap; few enough to hold the encoded images twice.
_RECORDS_AT_ONCE = 1000


def read(
  source: dataset.Source, data_dir: pathlib.Path
) -> tuple[dataset.Split, dataset.Split, tuple[str, ...]]:
  """Reads and decodes all images of a prepared folder.

  PIL holds Python's lock on images as small as these: two threads were slower
  than one (measured, 32x32 JPEG: 10,000 images/s against 5,500).

  Args:
    source: the data set.
    data_dir: where it is prepared.

  Returns:
    (train, test, class_names); the splits are
    {'image': uint8[N, H, W, C], 'label': int32[N]}.

  Raises:
    dataset.DataError: absent or damaged, or larger than the memory.
  """
  folder = folders.check(source, data_dir)
  _check_memory(source, folder)
  with tfds_quiet.quiet() as tfds:
    builder = tfds.builder_from_directory(folder.path)
    train, test = (
      _read_split(tfds, builder, source, folder, split)
      for split in ('train', 'test')
    )
    names = builder.info.features['label'].names
  return train, test, tuple(names)


def _check_memory(source: dataset.Source, folder: folders.Folder) -> None:
  """Stops before allocating what the machine does not have."""
  number = sum(
    length for files in folder.shards.values() for _, length in files
  )
  needed = number * math.prod(source.image_shape)
  available = available_bytes()
  if available is not None and needed > available:
    raise dataset.DataError(
      f'{source.name} needs {needed / 2**30:.1f} GiB of memory as arrays, and '
      f'{available / 2**30:.1f} GiB are free; a data set is read as a whole: '
      'use a machine with more memory, or a smaller data set'
    )


def available_bytes() -> int | None:
  """Memory that can still be had, or None where the system does not say."""
  try:
    lines = pathlib.Path('/proc/meminfo').read_text(encoding='ascii')
  except OSError:
    return None
  for line in lines.splitlines():
    if line.startswith('MemAvailable:'):
      return int(line.split()[1]) * 1024
  return None


def _read_split(
  tfds: types.ModuleType,
  builder: Any,
  source: dataset.Source,
  folder: folders.Folder,
  split: str,
) -> dataset.Split:
  """One split as arrays."""
  files = folder.shards[split]
  number = sum(length for _, length in files)
  image = np.empty((number, *source.image_shape), np.uint8)
  label = np.empty(number, np.int32)
  index = -1
  try:
    for index, example in enumerate(_examples(tfds, builder, folder, split)):
      image[index] = _decode(example['image'], source.image_shape)
      label[index] = example['label']
  # array_record and protobuf raise their own kinds for damaged bytes.
  except Exception as error:
    raise dataset.DataError(
      f'{source.name}: record {index + 1} of {split}, in '
      f'{_file_of(files, index + 1)}, cannot be read ({error}). Remove '
      f'{folder.path} and prepare it again: `{source.command} '
      f'--data_dir={folder.path.parents[1]}`'
    ) from error
  if label.min() < 0 or label.max() >= source.num_classes:
    raise dataset.DataError(
      f'{source.name}: {split} in {folder.path} has labels from {label.min()} '
      f'to {label.max()}, expected 0 to {source.num_classes - 1}'
    )
  return {'image': image, 'label': label}


def _examples(
  tfds: types.ModuleType, builder: Any, folder: folders.Folder, split: str
) -> Iterator[dict[str, Any]]:
  """Yields {'image': encoded bytes, 'label': int, ...}."""
  decoders = {'image': tfds.decode.SkipDecoding()}
  if folder.file_format == 'tfrecord':
    for file, _ in folder.shards[split]:
      for record in folders.tfrecords(file):
        yield builder.info.features.deserialize_example_np(
          record, decoders=decoders
        )
    return
  records = builder.as_data_source(split, decoders=decoders)
  for first in range(0, len(records), _RECORDS_AT_ONCE):
    last = min(first + _RECORDS_AT_ONCE, len(records))
    yield from records.__getitems__(list(range(first, last)))


def _decode(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
  """One image: uint8[H, W, C]."""
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    mode = 'L' if shape[-1] == 1 else 'RGB'
    if image.size != (shape[1], shape[0]):
      raise ValueError(f'an image of {image.size} pixels')
    converted = image if image.mode == mode else image.convert(mode)
    return np.asarray(converted, np.uint8).reshape(shape)


def _file_of(files: list[tuple[pathlib.Path, int]], index: int) -> pathlib.Path:
  """The file that holds record `index` of a split."""
  ends = np.cumsum([length for _, length in files])
  return files[np.searchsorted(ends, index, side='right')][0]
