"""Finds a prepared folder and checks it, without tfds and within a second."""

import contextlib
import dataclasses
import json
import pathlib
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from undistillable.data import dataset

# {split: [(file, number of records), ...]}.
Shards = dict[str, list[tuple[pathlib.Path, int]]]

# What tfds assumes of folders older than these fields.
_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
_FORMAT = 'tfrecord'
_VERSION = re.compile(r'\d+\.\d+\.\d+')


@dataclasses.dataclass(frozen=True)
class Folder:
  """A complete folder: where, in which format, and its files."""

  path: pathlib.Path
  file_format: str
  shards: Shards


def find(source: dataset.Source, data_dir: pathlib.Path) -> pathlib.Path | None:
  """The folder of the newest version in `data_dir`, or None."""
  root = data_dir / source.name
  if not root.is_dir():
    return None
  versions = [path for path in root.iterdir() if _VERSION.fullmatch(path.name)]
  return max(versions, key=_version_number, default=None)


def check(source: dataset.Source, data_dir: pathlib.Path) -> Folder:
  """Checks that all files of `source` are there, whole and as long as said.

  Args:
    source: the data set.
    data_dir: where it should be.

  Returns:
    The folder to read.

  Raises:
    dataset.DataError: absent, half-prepared or damaged: which file, why, and
      the command that mends it.
  """
  path = find(source, data_dir)
  prepare = f'`{source.command} --data_dir={data_dir}`'
  if path is None:
    near = _nearby(source, data_dir)
    advice = f'pass data_dir={near}' if near else f'{prepare} does it'
    raise dataset.DataError(f'{_absent(source, data_dir)}; {advice}')
  try:
    _check_features(source, path / 'features.json')
    file_format, shards = _list_shards(path / 'dataset_info.json')
    _check_counts(file_format, shards)
  except _FaultError as fault:
    raise dataset.DataError(
      f'{source.name}: {fault}. Remove {path} and prepare it again: {prepare}'
    ) from fault
  return Folder(path, file_format, shards)


def _nearby(
  source: dataset.Source, data_dir: pathlib.Path
) -> pathlib.Path | None:
  """Where `source` lies, if `data_dir` is a level or two too deep or high."""
  inside = sorted(data_dir.iterdir()) if data_dir.is_dir() else []
  above = data_dir.absolute().parents[:2]
  return next((d for d in (*above, *inside) if find(source, d)), None)


def _version_number(path: pathlib.Path) -> tuple[int, ...]:
  """(3, 0, 2) of a path that ends in 3.0.2, to compare."""
  return tuple(int(part) for part in path.name.split('.'))


class _FaultError(Exception):
  """What is wrong with which file."""


def leftovers(
  source: dataset.Source, data_dir: pathlib.Path
) -> list[pathlib.Path]:
  """What preparations left that were killed, or that still run."""
  return [
    *data_dir.glob(f'incomplete.*_{source.name}'),
    *data_dir.glob(f'{source.name}/*incomplete*'),
  ]


def _absent(source: dataset.Source, data_dir: pathlib.Path) -> str:
  """Says what is missing, and what an interrupted preparation left."""
  message = f'{source.name} is not prepared in {data_dir}'
  left = leftovers(source, data_dir)
  if left:
    message += (
      ', or only half: a preparation that was interrupted or still runs has '
      f'left {left[0]}, which can be removed if none runs'
    )
  return message


@contextlib.contextmanager
def _reading(file: pathlib.Path) -> Iterator[Any]:
  """Yields what a JSON file says; what it does not say is its fault."""
  try:
    yield json.loads(file.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise _FaultError(
      f'{file} is missing; the folder is half-prepared'
    ) from None
  except (KeyError, OSError, TypeError, ValueError) as error:
    raise _FaultError(
      f'{file} does not describe the data set ({error!r})'
    ) from error


def _check_features(source: dataset.Source, file: pathlib.Path) -> None:
  """The images and labels must be those of `source`."""
  with _reading(file) as content:
    features = content['featuresDict']['features']
    shape = features['image']['image']['shape']['dimensions']
    shape = tuple(int(size) for size in shape)
    num_classes = int(features['label']['classLabel']['numClasses'])
  if (shape, num_classes) != (source.image_shape, source.num_classes):
    raise _FaultError(
      f'{file} says images of {shape} in {num_classes} classes, expected '
      f'{source.image_shape} in {source.num_classes}'
    )


def _list_shards(file: pathlib.Path) -> tuple[str, Shards]:
  """(format, the files of each split with the number of records in each)."""
  shards: Shards = {}
  with _reading(file) as info:
    splits = {split['name']: split for split in info['splits']}
    for name in ('train', 'test'):
      lengths = [int(length) for length in splits[name]['shardLengths']]
      template = splits[name].get('filepathTemplate', _TEMPLATE)
      shards[name] = [
        (file.parent / _format(template, info, name, i, len(lengths)), length)
        for i, length in enumerate(lengths)
      ]
      if not sum(lengths):
        raise _FaultError(f'{file} says {name} is empty')
    return info.get('fileFormat', _FORMAT), shards


def _format(
  template: str,
  info: Mapping[str, Any],
  split: str,
  index: int,
  num_shards: int,
) -> str:
  """The name of a shard; `replace`, since the template comes from a file."""
  fields = {
    'DATASET': info['name'],
    'SPLIT': split,
    'FILEFORMAT': info.get('fileFormat', _FORMAT),
    'SHARD_INDEX': f'{index:05d}',
    'NUM_SHARDS': f'{num_shards:05d}',
    'SHARD_X_OF_Y': f'{index:05d}-of-{num_shards:05d}',
  }
  for key, value in fields.items():
    template = template.replace('{' + key + '}', value)
  return template


def _check_counts(file_format: str, shards: Shards) -> None:
  """Every file must be there, and hold as many records as was written."""
  count_fns = {'array_record': _count_array_record, 'tfrecord': _count_tfrecord}
  if file_format not in count_fns:
    raise _FaultError(
      f'its files are in {file_format!r} format; known: ' + ', '.join(count_fns)
    )
  for file, expected in sum(shards.values(), []):
    if not file.is_file():
      raise _FaultError(f'{file} is missing')
    given = count_fns[file_format](file)
    if given != expected:
      raise _FaultError(
        f'{file} holds {given:,} records, but dataset_info.json says '
        f'{expected:,}'
      )


def _count_array_record(file: pathlib.Path) -> int:
  """The number of records, from the end of the file."""
  from array_record.python import array_record_module

  reader = array_record_module.ArrayRecordReader(str(file), '')
  readable, count = reader.ok(), reader.num_records()
  try:
    reader.close()
  except RuntimeError as error:
    raise _FaultError(f'{file} is truncated or damaged ({error})') from error
  if not readable:
    raise _FaultError(f'{file} is truncated or damaged')
  return count


def _count_tfrecord(file: pathlib.Path) -> int:
  """The number of records."""
  return sum(1 for _ in tfrecords(file, skip=True))


def tfrecords(file: pathlib.Path, *, skip: bool = False) -> Iterator[bytes]:
  """Yields the records of a TFRecord file, without TensorFlow.

  A record is a length, its checksum, that many bytes, and their checksum. The
  checksums are passed over: the images are decoded anyway.

  Args:
    file: a path.
    skip: walk over the records without reading them.
  """
  size = file.stat().st_size
  with file.open('rb') as stream:
    while head := stream.read(12):
      length = struct.unpack('<Q', head[:8])[0] if len(head) == 12 else size
      end = stream.tell() + length + 4
      if end > size:
        raise _FaultError(f'{file} is truncated or damaged')
      yield b'' if skip else stream.read(length)
      stream.seek(end)
