"""Processes that take every step together: the only file that tells them apart.

Those that share a workdir alone are in `storage.lease`.

All run the same program and call the same functions in the same order, as
`jax.distributed` wants it. Host 0, the main one, decides: it alone reads and
writes the workdir, which no other needs to see, and tells the others what came
of it. So they cannot disagree on which network is next, or where to go on.
"""

import collections
import contextvars
import functools
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from undistillable import errors

_MAX_BYTES = 1024  # Of what a host says is wrong with it.
_SMALLEST = 1024  # Bytes that are sent at once.

P = ParamSpec('P')
T = TypeVar('T')

# While the main host does what the others wait for.
_alone = contextvars.ContextVar('alone', default=False)


def join(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes, before anything is computed.

  Args:
    coordinator_address: host:port of process 0, as all of them reach it.
    num_processes: of all hosts together.
    process_id: of this one, from 0. All three are None where JAX finds them
      itself: on a TPU pod, under SLURM, Open MPI or Kubernetes.

  Raises:
    errors.InputError: they are not to be found, or differ in their devices.
  """
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  # The last: of an address without a port.
  except (RuntimeError, TypeError, ValueError, IndexError) as error:
    raise errors.InputError(
      f'the hosts cannot be joined: {error}; JAX finds them itself on a TPU '
      'pod, under SLURM, Open MPI or Kubernetes, and is told '
      '--coordinator_address, --num_processes and --process_id elsewhere'
    ) from error
  numbers = collections.Counter(one.process_index for one in jax.devices())
  if len(set(numbers.values())) > 1:
    raise errors.InputError(
      f'the hosts have {sorted(numbers.values())} devices; expected the same '
      'number of each'
    )


def count() -> int:
  """How many processes take part in what is computed now."""
  return 1 if _alone.get() else jax.process_count()


def is_main() -> bool:
  """Whether this is the process that decides, reads and writes."""
  return jax.process_index() == 0


def by_main(function: Callable[P, T]) -> Callable[P, T]:
  """A function that the main host calls for all.

  Whatever it returns or raises there, it returns or raises on every host. What
  it computes it computes on the devices of that host alone.

  Args:
    function: its results can be pickled; device arrays do not belong there.
  """

  @functools.wraps(function)
  def call(*args: P.args, **kwargs: P.kwargs) -> T:
    if count() == 1:
      return function(*args, **kwargs)
    if not is_main():
      found, error = pickle.loads(_broadcast(b''))
    else:
      found = error = None
      before = _alone.set(True)
      try:
        found = function(*args, **kwargs)
      except Exception as raised:
        error = raised
      finally:
        _alone.reset(before)
      _broadcast(pickle.dumps((found, error and _plain(error))))
    if error is not None:
      raise error
    return found

  return call


def of_main(value: T) -> T:
  """What the main host has, where others may have found something else."""
  return by_main(lambda: value)()


def agree(function: Callable[[], Any]) -> None:
  """Calls a function on every host; what one cannot do, ends all of them.

  Args:
    function: computes nothing that hosts share.

  Raises:
    errors.InputError: what it raised on any host.
  """
  if count() == 1:
    function()
    return
  told, own = b'', None
  try:
    function()
  except (errors.InputError, OSError) as error:
    told, own = str(error).encode()[:_MAX_BYTES], error
  line = np.frombuffer(told.ljust(_MAX_BYTES, b'\0'), np.uint8)
  lines = multihost_utils.process_allgather(line)
  if own is not None:
    raise own
  for host, line in enumerate(lines):
    said = line.tobytes().rstrip(b'\0').decode(errors='replace')
    if said:
      raise errors.InputError(f'host {host}: {said}')


def leave() -> None:
  """Ends this process for the error that is handled, if there are others.

  At its exit JAX would wait for them, while they wait for what it computes.
  """
  if count() > 1:
    traceback.print_exc()
    print(
      f'\nerror: host {jax.process_index()} of {count()} ends, and the others '
      'with it; the first that ended says why. Start all of them again, and '
      'they go on',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)


def _plain(error: Exception) -> Exception:
  """An error that every host can be told."""
  if isinstance(error, errors.InputError) or type(error) is OSError:
    return error
  return RuntimeError(f'on the main host: {type(error).__name__}: {error}')


def _broadcast(data: bytes) -> bytes:
  """What the main host gives, on every host: how many bytes, and then these."""
  number = int(multihost_utils.broadcast_one_to_all(np.uint32(len(data))))
  # A power of two: whatever has another size is compiled anew.
  room = max(_SMALLEST, 1 << (number - 1).bit_length())
  line = np.frombuffer(data.ljust(room, b'\0'), np.uint8)
  return multihost_utils.broadcast_one_to_all(line).tobytes()[:number]
