"""Who trains a run: one process at a time, of any machine that shares a folder.

A lease is a file `owner.<n>` that nobody else can have made (O_EXCL), and whose
time of modification its owner renews. Where the time is long past, or the
process is known to be gone, the next one makes `owner.<n + 1>`: again, one
alone can. Numbers never go down while a folder lives, so no two processes take
the same one. That needs no locks of the file system, which networks may lack.
"""

import contextlib
import json
import os
import pathlib
import secrets
import socket
import threading
import time
import types
from collections.abc import Mapping
from typing import Any

_SECS_BETWEEN_BEATS = 10.0
# Of clocks and caches of a network file system, several beats.
SECS_UNTIL_STALE = 60.0


class Lease:
  """The right to write to a folder, while the process lives; see `take`."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def __enter__(self) -> 'Lease':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self.release()

  def release(self) -> None:
    """Lets others have it at once."""
    self._done.set()
    self._thread.join()
    _set_time(self._path, 0.0)

  def _beat(self) -> None:
    while not self._done.wait(_SECS_BETWEEN_BEATS):
      _set_time(self._path, None)


def take(folder: pathlib.Path) -> Lease | None:
  """A lease of a folder, unless another process has it.

  Args:
    folder: that exists.
  """
  path = _latest(folder)
  if path and _is_held(path):
    return None
  number = _number(path) + 1 if path else 1
  mine = folder / f'owner.{number}'
  try:
    with mine.open('x', encoding='utf-8') as file:
      since = time.strftime('%Y-%m-%d %H:%M:%S%z')
      json.dump({**_here(), 'pid': os.getpid(), 'since': since}, file)
  except FileExistsError:  # Another one was faster.
    return None
  for old in folder.glob('owner.*'):
    if _number(old) < number:
      old.unlink(missing_ok=True)
  return Lease(mine)


def owner(folder: pathlib.Path) -> dict[str, Any] | None:
  """Who has the lease of a folder, with pid, host and since; None if free."""
  path = _latest(folder)
  return None if path is None or not _is_held(path) else _read(path)


def named(owner: Mapping[str, Any]) -> str:
  """'process 4711 on a-machine'."""
  return f'process {owner.get("pid")} on {owner.get("host")}'


def _is_held(path: pathlib.Path) -> bool:
  """Whether its owner lives, as far as can be known."""
  try:
    age = _now(path.parent) - path.stat().st_mtime
  except FileNotFoundError:  # It has been taken over.
    return True
  if age > SECS_UNTIL_STALE:
    return False
  owner = _read(path)
  if any(owner.get(key) != value for key, value in _here().items()):
    return True  # Of a process elsewhere nothing else is known.
  try:
    os.kill(owner['pid'], 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # It lives, and is another user's.
    return True
  return True


def _here() -> dict[str, str]:
  """What two processes have in common that can see each other."""
  here = {'host': socket.gethostname()}
  for name, path in (
    ('boot', '/proc/sys/kernel/random/boot_id'),
    ('namespace', '/proc/self/ns/pid'),
  ):
    try:
      is_link = os.path.islink(path)
      text = os.readlink(path) if is_link else pathlib.Path(path).read_text()
      here[name] = text.strip()
    except OSError:  # No Linux.
      pass
  return here


def _now(folder: pathlib.Path) -> float:
  """The time of the file system, which may be that of another machine."""
  probe = folder / f'.time.{secrets.token_hex(8)}'
  try:
    probe.touch()
    return probe.stat().st_mtime
  except OSError:  # One may look at a folder that one may not write to.
    return time.time()
  finally:
    with contextlib.suppress(OSError):
      probe.unlink(missing_ok=True)


def _latest(folder: pathlib.Path) -> pathlib.Path | None:
  return max(folder.glob('owner.*'), key=_number, default=None)


def _number(path: pathlib.Path) -> int:
  return int(path.suffix[1:])


def _read(path: pathlib.Path) -> dict[str, Any]:
  """What an owner says of itself; nothing if it has just begun to."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}
  return content if isinstance(content, dict) else {}


def _set_time(path: pathlib.Path, at: float | None) -> None:
  """Sets the time of modification; None is now, by the file system's clock."""
  # The folder may have been removed, or be out of reach for a while.
  with contextlib.suppress(OSError):
    os.utime(path, None if at is None else (at, at))
