"""From an archive, or the network, to a folder that `load` reads."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import tqdm

from undistillable.data import dataset, downloads, folders, writing


def prepare(
  source: dataset.Source,
  data_dir: pathlib.Path,
  *,
  archive: str | os.PathLike[str] | None = None,
  allow_partial: bool = False,
  show_progress: bool = False,
) -> tuple[pathlib.Path, bool]:
  """Prepares a data set, unless it is prepared already.

  Args:
    source: the data set.
    data_dir: the folder that holds data sets.
    archive: an official archive on disk; None downloads it to
      `data_dir/downloads`.
    allow_partial: fewer images than the official archive has will do.
    show_progress: draw a bar.

  Returns:
    (folder, whether it was prepared now).

  Raises:
    dataset.DataError: the archive, or what is prepared already, is damaged.
  """
  if folders.find(source, data_dir):
    return folders.check(source, data_dir).path, False

  def progress_fn(iterable: Iterable[Any], **kwargs: Any) -> Iterable[Any]:
    return tqdm.tqdm(iterable, disable=not show_progress, **kwargs)

  if archive is not None:
    archive = pathlib.Path(archive).expanduser()
    if not source.archives:
      raise dataset.DataError(f'{archive}: {source.name} takes no archive')
    if not archive.is_file():
      expected = ' or '.join(source.archives)
      raise dataset.DataError(
        f'{archive} is no file; {source.name} takes {expected}'
      )
  elif source.archives:
    archive = downloads.fetch(
      source.archives[0], data_dir / 'downloads', progress_fn=progress_fn
    )
  content = source.read_fn(archive, allow_partial=allow_partial)
  return writing.write(source, data_dir, content, progress_fn), True
