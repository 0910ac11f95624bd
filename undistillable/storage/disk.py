"""Files that are there whole or not at all, JSON, and checksums of both.

SHA256SUMS is what `sha256sum -c` knows. Bits flip on disks and on their way
between machines, and few formats notice: of JSON, and of most arrays of Orbax,
another number is read.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from undistillable import errors

SUMS = 'SHA256SUMS'
_LINE = re.compile(r'([0-9a-f]{64})  (.+)')


def replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a file that is there whole or not at all."""
  # Another machine may have a process of the same number.
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(8)}')
  try:
    temporary.write_bytes(data)
    os.replace(temporary, path)
  except OSError as error:
    if error.errno is None or error.filename is not None:
      raise
    # A disk that is full does not say which.
    raise OSError(error.errno, error.strerror, str(path)) from error
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: object) -> None:
  """Writes the content as JSON, as `replace` writes."""
  replace(path, json_bytes(content))


def json_bytes(content: object) -> bytes:
  """What `write_json` writes."""
  text = json.dumps(content, indent=2, sort_keys=False, allow_nan=False)
  return f'{text}\n'.encode()


def as_json(content: object) -> Any:
  """The content as it would be read again: lists for tuples."""
  return json.loads(json.dumps(content))


def read_json(path: pathlib.Path) -> Any:
  """The content of a file of ours.

  Raises:
    errors.InputError: it is not JSON, as after a full disk.
  """
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise errors.InputError(
      f'{path} cannot be read ({error}); delete it to have it made again'
    ) from error


def save_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes {name: array} as an .npz file, as `replace` writes."""
  written = io.BytesIO()
  np.savez(written, **arrays)
  replace(path, written.getvalue())


def sign(
  folder: pathlib.Path,
  names: Iterable[str] | None = None,
  coming: Mapping[str, bytes] | None = None,
) -> None:
  """Writes down what files of a folder hold.

  Args:
    folder: of the files.
    names: of files, and of folders of files; not all need to be there. None is
      everything.
    coming: {name: content} of files that are written next. A process that is
      killed in between leaves old files that pass for damaged, rather than
      new ones that nobody can check.
  """
  found = _found(folder, names)
  found |= {name: _digest(data) for name, data in (coming or {}).items()}
  lines = [f'{digest}  {name}\n' for name, digest in found.items()]
  replace(folder / SUMS, ''.join(lines).encode())


def damaged(
  folder: pathlib.Path, names: Iterable[str] | None = None
) -> list[str]:
  """Which files are not what was written down; none where nothing was.

  Args:
    folder: of the files.
    names: of files, and of folders of files; None is everything.

  Returns:
    Paths in the folder, also of files that are missing, or that nobody wrote
    down.
  """
  if not (folder / SUMS).exists():  # Earlier versions wrote none.
    return []
  known, found = _known(folder), _found(folder, names)
  if names is not None:
    chosen = set(names)
    known = {k: v for k, v in known.items() if k.split('/')[0] in chosen}
  return sorted(
    name for name in known | found if known.get(name) != found.get(name)
  )


def are_whole(folder: pathlib.Path, names: Iterable[str]) -> bool:
  """Whether all of these files were written down, and are what they were."""
  names = set(names)
  known = {name.split('/')[0] for name in _known(folder)}
  return names <= known and not damaged(folder, names)


def restored(path: pathlib.Path, data: bytes) -> bool:
  """Whether a file held this when it was written down; and so it does again."""
  if _known(path.parent).get(path.name) != _digest(data):
    return False
  if damaged(path.parent, [path.name]):
    say(path.parent, [path.name], 'written again')
    replace(path, data)
  return True


def contradict(folder: pathlib.Path, name: str, data: bytes) -> bool:
  """Whether a file held something else when it was written down."""
  return _known(folder).get(name, _digest(data)) != _digest(data)


def say(folder: pathlib.Path, names: Iterable[str], follows: str) -> None:
  """Tells which files are damaged, and what follows from it."""
  logging.warning('in %s %s: %s', folder, _listed(sorted(names)), follows)


def _listed(names: list[str]) -> str:
  """'a is damaged', 'a, b and 3 more are damaged'."""
  shown = ', '.join(names[:2])
  if len(names) > 2:
    shown += f' and {len(names) - 2} more'
  return f'{shown} {"is" if len(names) == 1 else "are"} damaged'


def _found(folder: pathlib.Path, names: Iterable[str] | None) -> dict[str, str]:
  """{path in the folder: checksum} of the files that are there."""
  if names is None:
    names = sorted({path.name for path in folder.iterdir()} - {SUMS})
  found = {}
  for path in (path for name in names for path in _files(folder / name)):
    inside = path.relative_to(folder)
    # Network file systems, desktops and notebooks keep some of their own.
    if path.is_file() and not _is_hidden(inside):
      with contextlib.suppress(FileNotFoundError):  # It is being replaced.
        found[inside.as_posix()] = _digest_of(path)
  return found


def _files(place: pathlib.Path) -> list[pathlib.Path]:
  """A file, or what is in a folder, as far as nobody removes it meanwhile."""
  found = []
  with contextlib.suppress(FileNotFoundError):
    for path in place.rglob('*') if place.is_dir() else [place]:
      found.append(path)
  return sorted(found)


def _is_hidden(path: pathlib.PurePath) -> bool:
  return any(part.startswith('.') for part in path.parts)


def _known(folder: pathlib.Path) -> dict[str, str]:
  """{path in the folder: checksum} as written down."""
  try:
    text = (folder / SUMS).read_text(encoding='utf-8', errors='replace')
  except (FileNotFoundError, NotADirectoryError):
    return {}
  lines = (_LINE.fullmatch(line) for line in text.split('\n'))
  return {line[2]: line[1] for line in lines if line}


def _digest_of(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
