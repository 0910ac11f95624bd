"""Official archives, known by their sha256: checked, downloaded and read.

What has a pinned sha256 is what its authors published, and is trusted. Another
file, such as a subset, needs `unverified`; it is read alike: nothing of it is
unpacked to disk, and its pickles make arrays and call nothing else.
"""

import contextlib
import hashlib
import http.client
import os
import pathlib
import secrets
import shutil
import urllib.request
from collections.abc import Iterator

import tqdm

from undistillable import errors
from undistillable.data import dataset
from undistillable.storage import paths

_TIMEOUT_SECS = 60


def check(
  source: dataset.Source, path: str | os.PathLike[str], *, unverified: bool
) -> pathlib.Path:
  """The path of an official archive of `source`, or of any file."""
  archive = paths.local(path, 'archive')
  if not source.archives:
    raise dataset.DataError(f'{archive}: {source.name} takes no archive')
  names = ' or '.join(official.name for official in source.archives)
  if archive.is_dir():
    raise dataset.DataError(
      f'{archive} is a folder; {source.name} takes {names} as it was published'
    )
  if not archive.is_file():
    raise dataset.DataError(
      f'there is no file {archive}; {source.name} takes {names}'
    )
  if not unverified:
    digest = _sha256(archive)
    if digest not in [official.sha256 for official in source.archives]:
      raise dataset.DataError(
        f'{archive} is not the official {names}: its sha256 is {digest}; fetch '
        'it again, or pass --unverified to prepare what it holds'
      )
  return archive


def fetch(
  official: dataset.Archive, folder: pathlib.Path, *, show_progress: bool
) -> pathlib.Path:
  """Downloads the file of the published sha256, unless `folder` has it."""
  path = folder / official.name
  if path.is_file() and _sha256(path) == official.sha256:
    return path
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / f'incomplete.{secrets.token_hex(4)}_{official.name}'
  try:
    _download(official.url, partial, show_progress)
    digest = _sha256(partial)
    if digest != official.sha256:
      raise dataset.DataError(
        f'{official.url} gave {partial.stat().st_size:,} bytes of sha256 '
        f'{digest}, expected {official.sha256}; it was thrown away. Try again, '
        'or pass --archive'
      )
    partial.replace(path)
  except (OSError, http.client.HTTPException) as error:
    raise dataset.DataError(
      f'cannot download {official.url} ({error}); fetch it by other means and '
      f'pass --archive=path/to/{official.name}'
    ) from error
  finally:
    partial.unlink(missing_ok=True)
  return path


def read(
  source: dataset.Source, archive: pathlib.Path | None
) -> dataset.Content:
  """Reads an archive; None for an embedded data set."""
  with naming(archive or source.name):
    content = source.read_fn(archive)
    num_names = len(set(content.class_names['label']))
    if num_names != source.num_classes:
      raise ValueError(
        f'it names {num_names} classes, expected {source.num_classes}'
      )
    for split, number in content.num_examples.items():
      if not number:
        raise ValueError(f'it holds no {split} images')
      expected = source.num_examples[split]
      # An archive may be a subset; what is embedded has one size.
      if archive is None and number != expected:
        raise ValueError(
          f'it holds {number:,} {split} images; its source says {expected:,}'
        )
  return content


@contextlib.contextmanager
def naming(file: pathlib.Path | str | None) -> Iterator[None]:
  """Says in one sentence what is wrong with `file`."""
  try:
    yield
  except errors.InputError:
    raise
  # zlib, tarfile, zipfile, pickle, NumPy and Pillow each raise kinds of their
  # own for damaged bytes.
  except Exception as error:
    raise dataset.DataError(f'{file} cannot be read: {error}') from error


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


def _download(url: str, path: pathlib.Path, show_progress: bool) -> None:
  with (
    urllib.request.urlopen(url, timeout=_TIMEOUT_SECS) as stream,
    path.open('wb') as file,
    tqdm.tqdm.wrapattr(
      stream,
      'read',
      total=int(stream.headers['Content-Length'] or 0) or None,
      desc=path.name,
      disable=not show_progress,
    ) as counted,
  ):
    shutil.copyfileobj(counted, file)
