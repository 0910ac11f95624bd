"""Data sets as uint8 arrays: prepared once by tfds, then read without network.

Importing this pulls in neither tfds nor scikit-learn; loading does.
"""

import contextlib
import errno
import os
import pathlib
import tempfile

from undistillable import errors
from undistillable.data import (
  batches,
  cifar,
  dataset,
  digits,
  folders,
  splits,
  tiny_imagenet,
)

DataError = dataset.DataError
Dataset = dataset.Dataset
hold_out = splits.hold_out
prepare_fn = batches.prepare_fn
take_fraction = splits.take_fraction

DATASETS = {
  'cifar10': cifar.CIFAR10,
  'cifar100': cifar.CIFAR100,
  'digits': digits.DIGITS,
  'tiny_imagenet': tiny_imagenet.TINY_IMAGENET,
}

# (mean, std) by name, for a config that picks another data set's, as the
# released code does for CIFAR-100.
NORMALIZATIONS = {
  name: (source.mean, source.std) for name, source in DATASETS.items()
}


def get_source(name: str) -> dataset.Source:
  """Returns the entry of `DATASETS`, or raises a ValueError with all names."""
  if name not in DATASETS:
    known = ', '.join(DATASETS)
    raise errors.InputError(f'unknown dataset {name!r}; known: {known}')
  return DATASETS[name]


def check(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> None:
  """Checks within a second that `load` will find a whole data set.

  Args:
    name: an entry of `DATASETS`.
    data_dir: the folder that holds it; None is tfds' default.

  Raises:
    ValueError: unknown name.
    DataError: absent, half-prepared or damaged: which file, and the command
      that prepares it. An embedded data set may be absent.
  """
  source = get_source(name)
  data_dir = dataset.resolve_dir(data_dir)
  if source.archives or folders.find(source, data_dir):
    folders.check(source, data_dir)


def load(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> dataset.Dataset:
  """Reads a data set into memory; embedded ones are prepared on first use.

  Args:
    name: an entry of `DATASETS`.
    data_dir: the folder that holds it; None is tfds' default, the environment
      variable TFDS_DATA_DIR or ~/tensorflow_datasets.

  Returns:
    The data set. CIFAR takes about 9 seconds, the digits less than one.

  Raises:
    ValueError: unknown name.
    DataError: as `check`; also an image that cannot be decoded, and a data set
      larger than the memory.

  Example:
    >>> load('digits').image_shape
    (8, 8, 1)
  """
  from undistillable.data import reading

  source = get_source(name)
  with contextlib.ExitStack() as stack:
    data_dir = dataset.resolve_dir(data_dir)
    if not source.archives and not folders.find(source, data_dir):
      data_dir = _prepare_embedded(source, data_dir, stack)
    train, test, class_names = reading.read(source, data_dir)
  return dataset.Dataset(
    name=source.name,
    train=train,
    test=test,
    class_names=class_names,
    mean=source.mean,
    std=source.std,
  )


def prepare(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  archive: str | os.PathLike[str] | None = None,
  allow_partial: bool = False,
  show_progress: bool = False,
) -> tuple[pathlib.Path, bool]:
  """Prepares a data set once, from an official archive or the network.

  Args:
    name: an entry of `DATASETS`.
    data_dir: the folder that holds it; None is tfds' default.
    archive: the archive on disk; None downloads it to `data_dir/downloads`.
    allow_partial: fewer images than the official archive has will do.
    show_progress: draw a bar.

  Returns:
    (folder, whether it was prepared now rather than before).

  Raises:
    ValueError: unknown name.
    DataError: the archive is incomplete, damaged or unsafe, and which file in
      it; or what is prepared already is damaged.
  """
  from undistillable.data import preparing

  return preparing.prepare(
    get_source(name),
    dataset.resolve_dir(data_dir),
    archive=archive,
    allow_partial=allow_partial,
    show_progress=show_progress,
  )


def _prepare_embedded(
  source: dataset.Source, data_dir: pathlib.Path, stack: contextlib.ExitStack
) -> pathlib.Path:
  """Prepares in `data_dir`, or for this once where that cannot be written."""
  from undistillable.data import preparing

  try:
    preparing.prepare(source, data_dir)
  except OSError as error:
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
      raise
    data_dir = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    preparing.prepare(source, data_dir)
  return data_dir
