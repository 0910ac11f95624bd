"""A training set that stays on the host, and is sent as the steps need it.

For what is larger than the memory of a device. While the devices take the steps
of one part, a thread gathers the images of the next, and sends each device its
share. Order, keys and steps are those of a set that lies on the devices, and so
is, bit for bit, every number.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np

from undistillable.training import parallel

# Of a part, over all devices; three of them are there at most.
_PART_BYTES = 2**26
# Of a device's free memory, what a data set may take; the rest is for the
# networks, and for what a step works with.
_SHARE = 0.5

T = TypeVar('T')


def is_needed(arrays: Mapping[str, np.ndarray]) -> bool:
  """Whether a training set is too large to lie on every device.

  It is if it takes more than half of what is free there. A CPU, whose memory is
  the host's, does not say what is free: there it is if the arrays are no copies
  in memory, but maps of files.

  Args:
    arrays: image uint8[N, H, W, C] and others; without images nothing is large.
  """
  if 'image' not in arrays:
    return False
  stats = [one.memory_stats() or {} for one in parallel.local_devices()]
  free = [
    one['bytes_limit'] - one.get('bytes_in_use', 0)
    for one in stats
    if 'bytes_limit' in one
  ]
  if not free:
    return any(_is_mapped(array) for array in arrays.values())
  return sum(array.nbytes for array in arrays.values()) > _SHARE * min(free)


def _is_mapped(array: Any) -> bool:
  """Whether an array, or what it is a view of, is a file."""
  while array is not None and not isinstance(array, mmap.mmap):
    array = getattr(array, 'base', None)
  return array is not None


def parts(lesson: parallel.Lesson) -> Iterator[parallel.Lesson]:
  """The parts of an epoch, of equal shapes, so that one program does for all.

  Args:
    lesson: arrays [N, ...] on the host, and the order of the devices of all
      hosts; those of this one get theirs.

  Returns:
    Lessons of arrays [D, steps * b, ...], each device's share on that device,
    and of places in it. Of these the last one takes only its first steps.
  """
  num_steps, num_devices, share = lesson.order.shape
  # Here: a thread may not know who takes part.
  own = parallel.share(lesson.order, 1)
  nbytes = sum(x.nbytes // len(x) for x in jax.tree.leaves(lesson.arrays))
  most = max(1, _PART_BYTES // (nbytes * num_devices * share))
  # As equal as can be: what the last one lacks is sent for nothing.
  steps = -(-num_steps // -(-num_steps // most))
  places = np.arange(steps * share, dtype=np.int32).reshape(steps, 1, share)
  places = np.broadcast_to(places, (steps, num_devices, share))

  def send(first: int) -> parallel.Lesson:
    these = own[first : first + steps]
    padding = steps - len(these)
    rows = np.pad(these, ((0, padding), (0, 0), (0, 0)), mode='edge')
    rows = rows.swapaxes(0, 1).reshape(own.shape[1], -1)
    found = jax.tree.map(lambda x: np.take(x, rows, axis=0), lesson.arrays)
    return lesson._replace(
      arrays=parallel.split(found),
      order=places,
      first_step=lesson.first_step + first,
      num_steps=len(these),
    )

  return _ahead(send, range(0, num_steps, steps))


def _ahead(make: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
  """What is made of each item, the next one while the last one is in use."""
  with futures.ThreadPoolExecutor(1) as pool:
    coming: futures.Future[T] | None = None
    for item in items:
      later = pool.submit(make, item)
      if coming is not None:
        yield coming.result()
      coming = later
    if coming is not None:
      yield coming.result()
