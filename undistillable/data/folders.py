"""Folders as tfds lays them out: found, checked, read and written.

The only place that imports tfds: late, and without its bars, logs and prints.
"""

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import re
import secrets
import shutil
import struct
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import psutil
import tqdm
from absl import logging

from undistillable.data import dataset

_VERSION = re.compile(r'\d+\.\d+\.\d+')
# Enough to make a call cheap; few enough to hold the encoded images twice.
_RECORDS_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True)
class Folder:
  """A complete folder."""

  path: pathlib.Path
  features: Any  # Of tfds, which read a record.
  file_format: str  # Of `_FORMATS`.
  shards: dict[str, dict[pathlib.Path, int]]  # The number of records of each.

  def num_examples(self, split: str) -> int:
    return sum(self.shards[split].values())


class _FaultError(Exception):
  """What is wrong with which file."""


def find(source: dataset.Source, data_dir: pathlib.Path) -> pathlib.Path | None:
  """The folder of the newest version in `data_dir`, or None."""
  root = data_dir / source.name
  if not root.is_dir():
    return None
  versions = [path for path in root.iterdir() if _VERSION.fullmatch(path.name)]
  return max(
    versions, key=lambda path: [*map(int, path.name.split('.'))], default=None
  )


def leftovers(
  source: dataset.Source, data_dir: pathlib.Path
) -> list[pathlib.Path]:
  """What preparations left that were killed, or that still run."""
  return [
    *data_dir.glob(f'incomplete.*_{source.name}'),
    *data_dir.glob(f'{source.name}/*incomplete*'),
  ]


def check(source: dataset.Source, data_dir: pathlib.Path) -> Folder:
  """Checks that all files of `source` are there, whole and as long as said."""
  path = find(source, data_dir)
  if path is None:
    message = f'{source.name} is not prepared in {data_dir}'
    if left := leftovers(source, data_dir):
      message += (
        ', or only half: a preparation that was interrupted or still runs has '
        f'left {left[0]}, which can be removed if none runs'
      )
    near = _nearby(source, data_dir)
    prepare = f'`{source.command} --data_dir={data_dir}` does it'
    advice = f'pass data_dir={near}' if near else prepare
    raise dataset.DataError(f'{message}; {advice}')
  with _mending(source, path):
    folder = _open(source, path)
    _check_counts(folder)
  return folder


def _nearby(
  source: dataset.Source, data_dir: pathlib.Path
) -> pathlib.Path | None:
  """Where `source` lies, if `data_dir` is a level or two too deep or high."""
  inside = sorted(data_dir.iterdir()) if data_dir.is_dir() else []
  above = data_dir.absolute().parents[:2]
  return next((d for d in (*above, *inside) if find(source, d)), None)


@contextlib.contextmanager
def _mending(source: dataset.Source, path: pathlib.Path) -> Iterator[None]:
  """Says of a fault how it is mended."""
  try:
    yield
  except _FaultError as fault:
    raise dataset.DataError(
      f'{source.name}: {fault}. Remove {path} and prepare it again: '
      f'`{source.command} --data_dir={path.parents[1]}`'
    ) from fault


@contextlib.contextmanager
def _quiet() -> Iterator[types.ModuleType]:
  """Yields the module `tensorflow_datasets`, silent for as long.

  tfds prints with `print`, logs at INFO (which absl's `app.run` shows) and
  draws several bars for a preparation of half a second.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield tfds
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _describing(file: pathlib.Path) -> Iterator[None]:
  """What cannot be had from a file is its fault."""
  if not file.is_file():
    raise _FaultError(f'{file} is missing; the folder is half-prepared')
  try:
    yield
  # tfds, protobuf and json raise kinds of their own.
  except Exception as error:
    raise _FaultError(
      f'{file} does not describe the data set ({error!r})'
    ) from error


def _open(source: dataset.Source, path: pathlib.Path) -> Folder:
  """What its two files say of a folder."""
  file = path / 'features.json'
  with _quiet() as tfds, _describing(file):
    features = tfds.features.FeaturesDict.from_config(str(path))
    found = features['image'].shape, features['label'].num_classes
  if found != (source.image_shape, source.num_classes):
    raise _FaultError(
      f'{file} says images of {found[0]} in {found[1]} classes, expected '
      f'{source.image_shape} in {source.num_classes}'
    )
  file = path / 'dataset_info.json'
  with _quiet() as tfds, _describing(file):
    info = tfds.builder_from_directory(path).info
    splits = {name: info.splits[name] for name in ('train', 'test')}
    shards = {
      name: dict(
        zip(
          map(pathlib.Path, split.filepaths), split.shard_lengths, strict=True
        )
      )
      for name, split in splits.items()
    }
    file_format = info.file_format.value
  for name, numbers in shards.items():
    if not sum(numbers.values()):
      raise _FaultError(f'{file} says {name} is empty')
  return Folder(path, features, file_format, shards)


def _check_counts(folder: Folder) -> None:
  """Every file must be there, and hold as many records as was written."""
  if folder.file_format not in _FORMATS:
    raise _FaultError(
      f'its files are in {folder.file_format!r} format; known: '
      + ', '.join(_FORMATS)
    )
  count_fn, _ = _FORMATS[folder.file_format]
  for file, expected in (
    folder.shards['train'] | folder.shards['test']
  ).items():
    if not file.is_file():
      raise _FaultError(f'{file} is missing')
    given = count_fn(file)
    if given != expected:
      raise _FaultError(
        f'{file} holds {given:,} records, but dataset_info.json says '
        f'{expected:,}'
      )


def _open_array_record(file: pathlib.Path) -> Any:
  from array_record.python import array_record_module

  return array_record_module.ArrayRecordReader(str(file), '')


def _count_array_record(file: pathlib.Path) -> int:
  """The number of records, from the end of the file."""
  reader = _open_array_record(file)
  readable, count = reader.ok(), reader.num_records()
  try:
    reader.close()
  except RuntimeError as error:
    raise _FaultError(f'{file} is truncated or damaged ({error})') from error
  if not readable:
    raise _FaultError(f'{file} is truncated or damaged')
  return count


def _read_array_record(file: pathlib.Path) -> Iterator[bytes]:
  with contextlib.closing(_open_array_record(file)) as reader:
    number = reader.num_records()
    for first in range(0, number, _RECORDS_AT_ONCE):
      yield from reader.read(first, min(first + _RECORDS_AT_ONCE, number))


def _count_tfrecord(file: pathlib.Path) -> int:
  return sum(1 for _ in _read_tfrecord(file, skip=True))


def _read_tfrecord(file: pathlib.Path, skip: bool = False) -> Iterator[bytes]:
  """The records of a TFRecord file, or b'' of each, without TensorFlow.

  A record is a length, its checksum, that many bytes, and their checksum. The
  checksums are passed over: the images are decoded anyway.
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


_FORMATS = {
  'array_record': (_count_array_record, _read_array_record),
  'tfrecord': (_count_tfrecord, _read_tfrecord),
}


def read(source: dataset.Source, data_dir: pathlib.Path) -> dataset.Dataset:
  """Reads and decodes all images of a prepared folder.

  PIL holds Python's lock on images as small as these: two threads were slower
  than one (measured, 32x32 JPEG: 10,000 images/s against 5,500).
  """
  folder = check(source, data_dir)
  _check_memory(source, folder)
  with _mending(source, folder.path):
    train, test = (_read_split(source, folder, s) for s in ('train', 'test'))
  return dataset.Dataset(
    name=source.name,
    train=train,
    test=test,
    class_names=tuple(folder.features['label'].names),
    mean=source.mean,
    std=source.std,
  )


def _check_memory(source: dataset.Source, folder: Folder) -> None:
  """Stops before allocating what the machine does not have."""
  number = sum(map(folder.num_examples, folder.shards))
  needed = number * math.prod(source.image_shape)
  available = psutil.virtual_memory().available
  if needed > available:
    raise dataset.DataError(
      f'{source.name} needs {needed / 2**30:.1f} GiB of memory as arrays, and '
      f'{available / 2**30:.1f} GiB are free; a data set is read as a whole: '
      'use a machine with more memory, or a smaller data set'
    )


def _read_split(
  source: dataset.Source, folder: Folder, split: str
) -> dataset.Split:
  import tensorflow_datasets as tfds

  decoders = {'image': tfds.decode.SkipDecoding()}
  _, read_fn = _FORMATS[folder.file_format]
  number, index = folder.num_examples(split), 0
  image = np.empty((number, *source.image_shape), np.uint8)
  label = np.empty(number, np.int32)
  for file in folder.shards[split]:
    try:
      for record in read_fn(file):
        example = folder.features.deserialize_example_np(
          record, decoders=decoders
        )
        image[index] = _decode(example['image'], source.image_shape)
        label[index] = example['label']
        index += 1
    # array_record and protobuf raise their own kinds for damaged bytes.
    except Exception as error:
      raise _FaultError(
        f'record {index} of {split}, in {file}, cannot be read ({error})'
      ) from error
  if label.min() < 0 or label.max() >= source.num_classes:
    raise _FaultError(
      f'{split} has labels from {label.min()} to {label.max()}, expected 0 to '
      f'{source.num_classes - 1}'
    )
  return {'image': image, 'label': label}


def _decode(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
  """One image: uint8[H, W, C]."""
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    mode = 'L' if shape[-1] == 1 else 'RGB'
    if image.size != (shape[1], shape[0]):
      raise ValueError(f'an image of {image.size} pixels')
    converted = image if image.mode == mode else image.convert(mode)
    return np.asarray(converted, np.uint8).reshape(shape)


@contextlib.contextmanager
def alone(data_dir: pathlib.Path) -> Iterator[None]:
  """Lets one process of a machine at a time prepare something in a folder.

  The folder itself is locked, so that nothing is left in it. Where that cannot
  be had, as on Windows and on some network disks, nobody waits.
  """
  missing = [p for p in (data_dir, *data_dir.parents) if not p.exists()]
  data_dir.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:

    @stack.callback
    def remove_what_is_empty() -> None:
      with contextlib.suppress(OSError):  # That one is not.
        for path in missing:
          path.rmdir()

    with contextlib.suppress(ImportError, OSError):
      import fcntl

      number = os.open(data_dir, os.O_RDONLY)
      stack.callback(os.close, number)  # And lets the next one in.
      try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        logging.warning('waits for whoever prepares data in %s', data_dir)
        fcntl.flock(number, fcntl.LOCK_EX)
    yield


def write(
  source: dataset.Source,
  data_dir: pathlib.Path,
  content: dataset.Content,
  *,
  show_progress: bool,
) -> pathlib.Path:
  """Prepares `data_dir/name/version` in array_record format.

  Everything is written beside its place and renamed into it. Should another
  process have done so meanwhile, its folder stays, which this returns.
  """
  builder_class = _builder_class(source, content, show_progress)
  data_dir.mkdir(parents=True, exist_ok=True)
  path = data_dir / source.name / source.version
  # Named before it is made, so that a signal finds no gap to fall into.
  temp = data_dir / f'incomplete.{secrets.token_hex(4)}_{source.name}'
  try:
    temp.mkdir()
    with _quiet():
      builder = builder_class(data_dir=str(temp), file_format='array_record')
      builder.download_and_prepare(download_dir=str(temp / 'downloads'))
    path.parent.mkdir(exist_ok=True)
    try:
      (temp / source.name / source.version).rename(path)
    except OSError:
      if not path.is_dir():
        raise
  finally:
    if temp.exists():
      shutil.rmtree(temp)
  check(source, data_dir)
  return path


def _builder_class(
  source: dataset.Source, content: dataset.Content, show_progress: bool
) -> Any:
  """The tfds builder, which needs no TensorFlow and no network."""
  import tensorflow_datasets as tfds

  # Not registered: tfds has builders of some of these names.
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes what it is given."""

    name = source.name
    VERSION = tfds.core.Version(source.version)

    def _info(self) -> tfds.core.DatasetInfo:
      features = {
        'id': tfds.features.Text(),
        'image': tfds.features.Image(shape=source.image_shape),
      }
      for key, names in content.class_names.items():
        features[key] = tfds.features.ClassLabel(names=names)
      return tfds.core.DatasetInfo(
        builder=self,
        description=source.description,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=('image', 'label'),
      )

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
      del dl_manager
      return {
        split: self._generate_examples(split) for split in content.num_examples
      }

    def _generate_examples(self, split: str) -> Iterator[dataset.Example]:
      yield from tqdm.tqdm(
        content.examples_fn(split),
        desc=split,
        total=content.num_examples[split],
        disable=not show_progress,
      )

  return Builder
