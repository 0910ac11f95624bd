"""Prepares a folder through tfds, whole or not at all."""

import pathlib
import secrets
import shutil

from undistillable.data import dataset, folders, tfds_quiet


def write(
  source: dataset.Source, data_dir: pathlib.Path, builder_class: type
) -> pathlib.Path:
  """Prepares `data_dir/name/version` in array_record format.

  Everything is written beside its place and renamed into it. Of several
  processes that do so at once the first wins; the others use its folder.

  Args:
    source: the data set.
    data_dir: made where it does not exist.
    builder_class: a tfds builder that needs no TensorFlow and no network.

  Returns:
    The folder.

  Raises:
    dataset.DataError: what is in the place already is damaged.
    OSError: the folder cannot be written.
  """
  data_dir.mkdir(parents=True, exist_ok=True)
  path = data_dir / source.name / source.version
  # Named before it is made, so that a signal finds no gap to fall into.
  temp = data_dir / f'incomplete.{secrets.token_hex(4)}_{source.name}'
  try:
    temp.mkdir()
    with tfds_quiet.quiet():
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
  folders.check(source, data_dir)
  return path
