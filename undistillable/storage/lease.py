"""Who trains a run: one process at a time, of any machine that shares a folder.

A lease is a file `owner.<n>` that nobody else can have made (O_EXCL), and whose
time of modification its owner renews. Where the time is long past, or the
process is known to be gone, the next one makes `owner.<n + 1>`: again, one
alone can, and of several numbers the highest counts. That needs no locks of the
file system, which networks may lack.

Of another machine nobody knows whether a process is dead or was held up, as one
whose machine slept. So it asks before it writes whether its lease still stands,
see `check`, and leaves the folder to whom it has gone to.
"""

import contextlib
import json
import logging
import math
import os
import pathlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil

from undistillable import errors

_NAME = re.compile(r'owner\.(\d+)')
_SECS_BETWEEN_BEATS = 10.0
_SECS_BETWEEN_LOOKS = 0.2
_SECS_UNTIL_SAID = 5.0  # For whom one waits.
# Of clocks and caches of a network file system, several beats.
SECS_UNTIL_STALE = 60.0

# {folder: its lease}, of this process; and what its leases are known by.
_held: dict[pathlib.Path, 'Lease'] = {}
_tokens: set[str] = set()


class LostError(errors.InputError):
  """Another process has the lease now: this one was not heard of for long."""


class Lease(contextlib.AbstractContextManager):
  """The right to write to a folder, while the process lives; see `take`."""

  def __init__(self, path: pathlib.Path, token: str):
    self._path = path
    self.token = token
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()
    _held[path.parent.absolute()] = self

  def __exit__(self, *exc_info: object) -> None:
    self.release()

  def release(self) -> None:
    """Lets others have it at once."""
    if _held.get(self._path.parent.absolute()) is self:
      del _held[self._path.parent.absolute()]
    try:
      self._done.set()
      self._thread.join()
    finally:
      self._set_time(0.0)
      _tokens.discard(self.token)

  def stands(self) -> bool:
    """Whether no other process has taken it over."""
    return _latest(self._path.parent) == self._path and self._is_mine()

  def _is_mine(self) -> bool:
    """Whether the file is that which was made: its folder may be another."""
    return _read(self._path).get('token') == self.token

  def _beat(self) -> None:
    while not self._done.wait(_SECS_BETWEEN_BEATS):
      self._set_time(None)

  def _set_time(self, at: float | None) -> None:
    """Sets the time of modification; None is now, as the file system has it."""
    # The folder may have been removed, or be out of reach for a while.
    with contextlib.suppress(OSError):
      if self._is_mine():
        os.utime(self._path, None if at is None else (at, at))


def take(folder: pathlib.Path) -> Lease | None:
  """A lease of a folder, unless another process has it.

  Args:
    folder: that exists.

  Raises:
    OSError: the disk is full, or cannot be written.
  """
  path = _latest(folder)
  if path and _is_held(path):
    return None
  mine = folder / f'owner.{_number(path) + 1 if path else 1}'
  since = time.strftime('%Y-%m-%d %H:%M:%S%z')
  about = _here() | {'pid': os.getpid(), 'started': _state(os.getpid())[1]}
  with contextlib.ExitStack() as unless_taken:
    token = secrets.token_hex(8)
    _tokens.add(token)  # Before others of this process can see it.
    unless_taken.callback(_tokens.discard, token)
    try:
      with mine.open('x', encoding='utf-8') as file:
        json.dump(about | {'since': since, 'token': token}, file)
    except FileExistsError:  # Another one was faster.
      return None
    except OSError as error:
      mine.unlink(missing_ok=True)
      # A disk that is full does not say which.
      raise OSError(error.errno, error.strerror, str(mine)) from error
    if _latest(folder) != mine:  # Others took it, and more, in the meantime.
      mine.unlink(missing_ok=True)
      return None
    for old in _all(folder):
      if old != mine:
        old.unlink(missing_ok=True)
    taken = Lease(mine, token)
    unless_taken.pop_all()
    return taken


def wait(folder: pathlib.Path) -> Lease:
  """A lease of a folder, made where it is missing, as soon as it can be had."""
  folder.mkdir(parents=True, exist_ok=True)
  says_at = time.monotonic() + _SECS_UNTIL_SAID
  while True:
    taken = take(folder)
    if taken:
      return taken
    if time.monotonic() > says_at and (other := owner(folder)):
      logging.warning('waits for %s, which writes to %s', named(other), folder)
      says_at = math.inf
    time.sleep(_SECS_BETWEEN_LOOKS)


def stands(folder: pathlib.Path) -> bool:
  """Whether no other process has what this one has leased, if anything."""
  mine = _held.get(folder.absolute())
  return mine is None or mine.stands()


def check(folder: pathlib.Path) -> None:
  """Asks whether what this process has leased is still its own.

  Args:
    folder: that is written to next; of one without a lease nothing is asked.

  Raises:
    LostError: another process has it.
  """
  if not stands(folder):
    other = owner(folder)
    if other is None:
      raise LostError(f'{folder} was removed, or its lease in it')
    raise LostError(
      f'{folder} has gone to {named(other)}, since this process was not heard '
      f'of for more than {SECS_UNTIL_STALE:.0f} s'
    )


def owner(folder: pathlib.Path) -> dict[str, Any] | None:
  """Who has the lease of a folder, with pid, host and since; None if free."""
  path = _latest(folder)
  return None if path is None or not _is_held(path) else _read(path)


def named(owner: Mapping[str, Any]) -> str:
  """'process 4711 on a-machine'."""
  if 'pid' not in owner:  # It has just begun to say so.
    return 'another process'
  return f'process {owner["pid"]} on {owner.get("host")}'


def _is_held(path: pathlib.Path) -> bool:
  """Whether its owner lives, as far as can be known."""
  try:
    modified = path.stat().st_mtime
  except OSError:  # It has been taken over, or is out of reach for a while.
    return True
  if not modified:
    return False  # It was released.
  owner = _read(path)
  here = all(owner.get(key) == value for key, value in _here().items())
  if here and owner.get('started'):
    return _lives(owner)
  if here and owner and not psutil.pid_exists(owner['pid']):
    return False
  # Of a process elsewhere, or of a system that does not say when it began,
  # nothing else is known. A time that has yet to come is that of a copy.
  return abs(_now(path.parent) - modified) <= SECS_UNTIL_STALE


def _lives(owner: Mapping[str, Any]) -> bool:
  """Whether a process of this machine is there, and is the one that it was.

  One of this process that was not let go, as where the disk failed, is no more.
  """
  if owner['pid'] == os.getpid():
    return owner.get('token') in _tokens
  state, started = _state(owner['pid'])
  # Of state Z it is dead, and nobody has asked how.
  return state != 'Z' and started == owner['started']


def _state(pid: int) -> tuple[str | None, str | None]:
  """Whether a process runs, and when it began, as Linux says it."""
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:  # No Linux, or nobody may know.
    return None, None
  # After its name, which may hold anything.
  fields = text.rpartition(')')[2].split()
  return fields[0], fields[19]


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


def _all(folder: pathlib.Path) -> list[pathlib.Path]:
  # A drive that is kept in step by copies has 'owner.1 (1)' as well.
  return [p for p in folder.glob('owner.*') if _NAME.fullmatch(p.name)]


def _latest(folder: pathlib.Path) -> pathlib.Path | None:
  return max(_all(folder), key=_number, default=None)


def _number(path: pathlib.Path) -> int:
  return int(path.suffix[1:])


def _read(path: pathlib.Path) -> dict[str, Any]:
  """What an owner says of itself; nothing if it has just begun to."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}
  return content if isinstance(content, dict) else {}
