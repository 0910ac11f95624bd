"""Data sets as uint8 arrays: prepared once by tfds, then read without network.

Importing this pulls in neither tfds nor scikit-learn; loading does.
"""

import errno
import os
import pathlib
import tempfile

from undistillable import errors
from undistillable.data import (
  archives,
  batches,
  cifar,
  dataset,
  folders,
  scikit_learn,
  splits,
  tiny_imagenet,
)

DataError = dataset.DataError
Dataset = dataset.Dataset
hold_out = splits.hold_out
prepare_fn = batches.prepare_fn
take_fraction = splits.take_fraction

# Of a home, too, that is none: /dev/null, or a folder that nobody made.
_NOT_WRITABLE = (
  errno.EACCES,
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EPERM,
  errno.EROFS,
)

DATASETS = {
  'cifar10': cifar.CIFAR10,
  'cifar100': cifar.CIFAR100,
  'digits': scikit_learn.DIGITS,
  'patches': scikit_learn.PATCHES,
  'tiny_imagenet': tiny_imagenet.TINY_IMAGENET,
}

# (mean, std) by name, for a config that picks another data set's, as the
# released code does for CIFAR-100.
NORMALIZATIONS = {
  name: (source.mean, source.std) for name, source in DATASETS.items()
}


def get_source(name: str) -> dataset.Source:
  """Returns the entry of `DATASETS`, or raises a ValueError with all names."""
  errors.check_known('dataset', name, DATASETS)
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
  source = get_source(name)
  data_dir = dataset.resolve_dir(data_dir)
  if not source.archives and not folders.find(source, data_dir):
    try:
      prepare(name, data_dir=data_dir)
    except OSError as error:
      if error.errno not in _NOT_WRITABLE:
        raise
      with tempfile.TemporaryDirectory() as temporary:  # For this once.
        return load(name, data_dir=temporary)
  return folders.read(source, data_dir)


def prepare(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  archive: str | os.PathLike[str] | None = None,
  unverified: bool = False,
  show_progress: bool = False,
) -> tuple[pathlib.Path, bool]:
  """Prepares a data set, unless it is prepared already.

  Of several processes of a machine one does, and the others wait for it.

  Args:
    name: an entry of `DATASETS`.
    data_dir: the folder that holds it; None is tfds' default.
    archive: an archive on disk; None downloads the official one to
      `data_dir/downloads`.
    unverified: `archive` may be another than the official one, and hold fewer
      images.
    show_progress: draw a bar.

  Returns:
    (folder, whether it was prepared now rather than before).

  Raises:
    ValueError: unknown name.
    DataError: the archive is not an official one, or cannot be read; or what
      is prepared already is damaged.
  """
  source = get_source(name)
  data_dir = dataset.resolve_dir(data_dir)
  if folders.find(source, data_dir):
    return folders.check(source, data_dir).path, False
  path = None
  if archive is not None:
    path = archives.check(source, archive, unverified=unverified)
  with folders.alone(data_dir):
    if folders.find(source, data_dir):  # Another process was at it.
      return folders.check(source, data_dir).path, False
    if path is None and source.archives:
      path = archives.fetch(
        source.archives[0], data_dir / 'downloads', show_progress=show_progress
      )
    content = archives.read(source, path)
    path = folders.write(source, data_dir, content, show_progress=show_progress)
  return path, True
