"""A training set that stays on the host, and is sent as the steps need it.

For what is larger than the memory of a device. While the devices take the steps
of one part, a thread gathers the images of the next, and sends each device its
share. Order, keys and steps are those of a set that lies on the devices, and so
is, bit for bit, every number.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from undistillable import method as method_lib
from undistillable.training import parallel

# Of a part, over all devices; three of them are there at most.
_PART_BYTES = 2**26
# Of a device's free memory, what a data set may take; the rest is for the
# networks, and for what a step works with.
_SHARE = 0.5


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


def epoch_fn(
  method: method_lib.Method, prepare: parallel.PrepareFn
) -> parallel.EpochFn:
  """`parallel.epoch_fn` for arrays on the host.

  What prepares a batch is given parts of the arrays, and places in them.
  """
  run = parallel.epoch_fn(method, prepare, 0)

  def epoch(
    state: Any, lesson: parallel.Lesson
  ) -> Iterator[tuple[Any, parallel.HostMetrics]]:
    for part in parts(lesson.arrays, lesson.order):
      now = lesson._replace(arrays=part.arrays, order=part.places)
      for new, metrics in run(state, now, part.num_steps):
        state = new
        yield new, metrics

  return epoch


def answers(
  answer_fns: Mapping[str, method_lib.ApplyFn],
  prepare: parallel.PrepareFn,
  lesson: parallel.Lesson,
) -> dict[str, np.ndarray]:
  """`parallel.answers` for arrays on the host."""
  found: dict[str, list[np.ndarray]] = {role: [] for role in answer_fns}
  for part in parts(lesson.arrays, lesson.order) if answer_fns else ():
    now = lesson._replace(
      arrays=part.arrays,
      order=part.places[: part.num_steps],
      first_step=lesson.first_step + part.first,
    )
    for role, ask in answer_fns.items():
      said = parallel.answers_in_order(ask, prepare, role, now, split_axis=0)
      found[role].append(said)
  number = len(lesson.arrays['label'])
  return {
    role: parallel.by_example(number, lesson.order, np.concatenate(said))
    for role, said in found.items()
  }


class Part(NamedTuple):
  """What some steps of an epoch read.

  Attributes:
    first: the number of its first step, in this epoch.
    num_steps: that are to be taken; there are arrays and places for as many as
      other parts have.
    arrays: [D, steps * b, ...], each device's share on that device.
    places: int32[steps, D, b], of examples in their device's share.
  """

  first: int
  num_steps: int
  arrays: Any
  places: np.ndarray


def parts(arrays: Any, order: np.ndarray) -> Iterator[Part]:
  """The parts of an epoch, of equal shapes, so that one program does for all.

  Args:
    arrays: [N, ...], on the host.
    order: int32[steps, D, b], of the devices of all hosts; those of this one
      get theirs.
  """
  num_steps, num_devices, share = order.shape
  own = parallel.share(order, 1)  # Here: a thread may not know who takes part.
  nbytes = sum(x.nbytes // len(x) for x in jax.tree.leaves(arrays))
  most = max(1, _PART_BYTES // (nbytes * num_devices * share))
  # As equal as can be: what the last one lacks is sent for nothing.
  steps = -(-num_steps // -(-num_steps // most))
  places = np.arange(steps * share, dtype=np.int32).reshape(steps, 1, share)
  places = np.broadcast_to(places, (steps, num_devices, share))

  def send(first: int) -> Part:
    these = own[first : first + steps]
    padding = steps - len(these)
    rows = np.pad(these, ((0, padding), (0, 0), (0, 0)), mode='edge')
    rows = rows.swapaxes(0, 1).reshape(own.shape[1], -1)
    found = jax.tree.map(lambda x: np.take(x, rows, axis=0), arrays)
    return Part(first, len(these), parallel.split(found), places)

  return _ahead(send, range(0, num_steps, steps))


def _ahead(make: Callable[[int], Part], items: Iterable[int]) -> Iterator[Part]:
  """What is made of each item, the next one while the last one is in use."""
  with futures.ThreadPoolExecutor(1) as pool:
    coming: futures.Future[Part] | None = None
    for item in items:
      later = pool.submit(make, item)
      if coming is not None:
        yield coming.result()
      coming = later
    if coming is not None:
      yield coming.result()
