"""Reads archives from elsewhere member by member; nothing is unpacked to disk.

Whoever made the archive is not trusted: names that leave the folder, links,
devices and sizes beyond what the data set can have are refused.
"""

import contextlib
import gzip
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn

from undistillable.data import dataset

_DAMAGE = (
  EOFError,
  NotImplementedError,  # A compression that zipfile does not know.
  OSError,
  RecursionError,  # Of headers that go on in headers.
  tarfile.TarError,
  zipfile.BadZipFile,
  zlib.error,
)


def read_tar(
  archive: pathlib.Path, wanted: Collection[str], max_bytes: int
) -> dict[str, bytes]:
  """Reads some files of a .tar.gz.

  Args:
    archive: the file.
    wanted: names of files, without the one folder that they are in.
    max_bytes: that the whole archive may have once uncompressed.

  Returns:
    {name: content} of those files of `wanted` that the archive holds.

  Raises:
    dataset.DataError: damaged, or unsafe.
  """
  content: dict[str, bytes] = {}
  with _blaming(archive), gzip.open(archive) as stream:
    # Any: a stream that tarfile only reads needs nothing but `read`.
    limited: Any = _Limited(stream, archive, max_bytes)
    with tarfile.open(fileobj=limited, mode='r|') as tar:
      for member in tar:
        _check_name(archive, member.name)
        if not (member.isreg() or member.isdir()):
          _refuse(archive, member.name, 'is a link or a device, not a file')
        # Of a sparse file the zeros are not in the stream, which counts bytes.
        if member.issparse() or member.size > max_bytes:
          raise _too_large(archive, max_bytes)
        name = _within_folder(member.name)
        if member.isreg() and name and name in wanted:
          if name in content:
            _refuse(archive, member.name, 'is there twice')
          file = tar.extractfile(member)
          assert file is not None  # Since it is a regular file.
          content[name] = file.read()
    while limited.read(1 << 20):
      pass  # The checksum is behind the end of the tar.
  return content


@contextlib.contextmanager
def open_zip(
  archive: pathlib.Path, max_bytes: int
) -> Iterator[tuple[Callable[[str], bytes], list[str]]]:
  """Opens a zip file whose list of files has passed all checks.

  Args:
    archive: the file.
    max_bytes: that the whole archive may have once uncompressed.

  Yields:
    (read_fn, names): `read_fn(name) -> bytes`, and the files' names in order.

  Raises:
    dataset.DataError: damaged, or unsafe.
  """
  with contextlib.ExitStack() as stack:
    with _blaming(archive):
      file = stack.enter_context(zipfile.ZipFile(archive))
    members: dict[str, zipfile.ZipInfo] = {}
    for member in file.infolist():
      _check_name(archive, member.filename)
      mode = stat.S_IFMT(member.external_attr >> 16)
      if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(archive, member.filename, 'is a link or a device, not a file')
      if member.flag_bits & 1:
        _refuse(archive, member.filename, 'is encrypted')
      # The others are unpacked whole before anything can be counted.
      if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(archive, member.filename, 'is not compressed by "deflate"')
      if member.filename in members:
        _refuse(archive, member.filename, 'is there twice')
      members[member.filename] = member
    if sum(member.file_size for member in members.values()) > max_bytes:
      raise _too_large(archive, max_bytes)

    def read(name: str) -> bytes:
      member = members[name]
      with _blaming(f'{archive}: {name}'), file.open(member) as stream:
        # No more than was declared and added up above.
        return stream.read(member.file_size + 1)

    yield read, [name for name in members if not name.endswith('/')]


class _Limited:
  """A stream that ends in an error where a bomb would go on."""

  def __init__(
    self, stream: gzip.GzipFile, archive: pathlib.Path, max_bytes: int
  ) -> None:
    self._stream = stream
    self._archive = archive
    self._max_bytes = max_bytes
    self._num_bytes = 0

  def read(self, size: int) -> bytes:
    content = self._stream.read(size)
    self._num_bytes += len(content)
    if self._num_bytes > self._max_bytes:
      raise _too_large(self._archive, self._max_bytes)
    return content


@contextlib.contextmanager
def _blaming(file: pathlib.Path | str) -> Iterator[None]:
  """Names the file that is damaged."""
  try:
    yield
  except FileNotFoundError:
    raise dataset.DataError(f'{file} does not exist') from None
  except _DAMAGE as error:
    raise dataset.DataError(
      f'{file} is truncated, damaged or no such archive ({error}); fetch it '
      'again'
    ) from error


def _check_name(archive: pathlib.Path, name: str) -> None:
  """Refuses names that would leave the folder, were they unpacked."""
  parts = name.replace('\\', '/').split('/')
  if name.startswith(('/', '\\')) or '..' in parts or ':' in parts[0]:
    _refuse(archive, name, 'leads out of the folder')


def _within_folder(name: str) -> str | None:
  """'train.bin' of 'cifar-100-binary/train.bin', './train.bin' or itself."""
  parts = [part for part in name.split('/') if part not in ('', '.')]
  return parts[-1] if len(parts) in (1, 2) else None


def _refuse(archive: pathlib.Path, name: str, reason: str) -> NoReturn:
  raise dataset.DataError(
    f'{archive} holds {name!r}, which {reason}; no official archive '
    'does: fetch it again from its official address'
  )


def _too_large(archive: pathlib.Path, max_bytes: int) -> dataset.DataError:
  return dataset.DataError(
    f'{archive} unpacks to more than {max_bytes / 2**20:,.0f} MiB, more than '
    'the data set has; fetch it again from its official address'
  )
