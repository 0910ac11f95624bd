"""Prepares a folder through tfds, whole or not at all."""

import os
import pathlib
import tempfile

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
  with tempfile.TemporaryDirectory(
    prefix='incomplete.', suffix=f'_{source.name}', dir=data_dir
  ) as temp:
    with tfds_quiet.quiet():
      builder = builder_class(data_dir=temp, file_format='array_record')
      builder.download_and_prepare(download_dir=os.path.join(temp, 'downloads'))
    path.parent.mkdir(exist_ok=True)
    try:
      pathlib.Path(temp, source.name, source.version).rename(path)
    except OSError:
      if not path.is_dir():
        raise
  folders.check(source, data_dir)
  return path
