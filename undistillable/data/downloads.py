"""Fetches official archives, and keeps only what has the published checksum."""

import hashlib
import http.client
import pathlib
import secrets
import urllib.request

from undistillable.data import dataset

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECS = 60

# File: (address, bytes, sha256). Those of CIFAR as published in tfds, in
# `url_checksums`; Tiny-ImageNet is not in tfds: several projects agree on it.
FILES = {
  'cifar-10-binary.tar.gz': (
    'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
    170_052_171,
    'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
  ),
  'cifar-100-binary.tar.gz': (
    'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
    168_513_733,
    '58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
  ),
  'tiny-imagenet-200.zip': (
    'http://cs231n.stanford.edu/tiny-imagenet-200.zip',
    248_100_043,
    '6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821',
  ),
}


def fetch(
  name: str, folder: pathlib.Path, *, progress_fn: dataset.ProgressFn
) -> pathlib.Path:
  """Downloads an archive, unless it lies in `folder` already.

  Args:
    name: an entry of `FILES`.
    folder: made where it does not exist.
    progress_fn: wraps an iterable, with its `total` and `desc`.

  Returns:
    The file, of the published length and checksum.

  Raises:
    dataset.DataError: unreachable, or another file than the published one.
  """
  url, num_bytes, sha256 = FILES[name]
  path = folder / name
  if path.is_file() and path.stat().st_size == num_bytes:
    with path.open('rb') as stream:
      if hashlib.file_digest(stream, 'sha256').hexdigest() == sha256:
        return path
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / f'incomplete.{secrets.token_hex(4)}_{name}'
  try:
    digest = _download(url, partial, num_bytes, progress_fn)
    if digest != sha256:
      raise dataset.DataError(
        f'{url} gave {partial.stat().st_size:,} bytes of sha256 {digest}, '
        f'expected {num_bytes:,} bytes of {sha256}; it was thrown away. Try '
        'again, or pass --archive'
      )
    partial.replace(path)
  except (OSError, http.client.HTTPException) as error:
    raise dataset.DataError(
      f'cannot download {url} ({error}); fetch it by other means and pass '
      f'--archive=path/to/{name}'
    ) from error
  finally:
    partial.unlink(missing_ok=True)
  return path


def _download(
  url: str, path: pathlib.Path, max_bytes: int, progress_fn: dataset.ProgressFn
) -> str:
  """Writes at most `max_bytes` and one chunk; returns the sha256."""
  digest = hashlib.sha256()
  request = urllib.request.urlopen(url, timeout=_TIMEOUT_SECS)
  with request as stream, path.open('wb') as file:
    chunks = range(-(-max_bytes // _CHUNK_BYTES) + 1)
    for _ in progress_fn(chunks, desc=path.name, unit='MiB'):
      content = stream.read(_CHUNK_BYTES)
      digest.update(content)
      file.write(content)
  return digest.hexdigest()
