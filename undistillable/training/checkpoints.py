"""Checkpoints of a run: the only file that knows Orbax.

A state is written as one vector a dtype, because Orbax takes some 2 ms for each
array: a network of a hundred small ones would spend more time on its
checkpoints than on its epochs. What is where stands in their metadata.
"""

import contextlib
import errno
import math
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from undistillable import errors
from undistillable.storage import disk, lease
from undistillable.training import hosts, parallel

# Of Orbax's metadata, and of what else a run writes until the next time.
_SPARE_BYTES = 2**20
# The main host has all that is written; Orbax would wait for the others.
_MAIN_ALONE = ocp.options.MultiprocessingOptions(active_processes={0})


class Checkpoints(contextlib.AbstractContextManager):
  """The latest states of one run; close it, or use it as a context manager.

  A process that is killed while it saves leaves the state before to be found.
  That is also used, and it is said, where the latest one is damaged. Of
  several hosts the main one writes and reads.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder.absolute()
    self._manager: Any = None  # On the main host.
    self._open()

  @hosts.by_main
  def _open(self) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    self._drop_damaged()
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_handlers=ocp.StandardCheckpointHandler(
        multiprocessing_options=_MAIN_ALONE
      ),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(2),
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        multiprocessing_options=_MAIN_ALONE,
        create=False,
      ),
    )

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def close(self) -> None:
    """Lets go of the folder."""
    if self._manager:
      self._manager.close()

  def _drop_damaged(self) -> None:
    """Removes what Orbax would take for a state, and read other numbers."""
    # A temporary folder of Orbax has another name.
    steps = [p for p in self._folder.glob('*') if p.name.isdecimal()]
    good = False
    signed = [place for place in steps if (place / disk.SUMS).is_file()]
    for place in sorted(steps, key=lambda p: int(p.name), reverse=True):
      broken = disk.damaged(place)
      if signed and place not in signed:  # Its writing, or a copy, was cut off.
        broken = [disk.SUMS]
      # One before a good one was being removed when the process was killed.
      if broken and not good:
        follows = 'the state before it is used, or training begins anew'
        disk.say(place, broken, follows)
      if broken:
        shutil.rmtree(place)
      good = good or not broken

  @hosts.by_main
  def save(
    self, epoch: int, state: Any, metrics: Sequence[Any] | None = None
  ) -> None:
    """Writes the state after `epoch` epochs; it is safe when this returns.

    Args:
      epoch: how many are done.
      state: arrays.
      metrics: of these epochs, as JSON has them.

    Raises:
      OSError: the disk is full, or cannot be written.
    """
    vectors = _pack(state)
    with _writing(self._folder, vectors):
      self._manager.save(
        epoch,
        args=ocp.args.StandardSave(vectors),
        custom_metadata={'layout': _layout(state), 'metrics': metrics},
      )
    disk.sign(self._folder / str(epoch))

  @hosts.by_main
  def metrics(self) -> Any:
    """What was saved with the latest state; None if nothing was."""
    epoch = self._manager.latest_step()
    if epoch is None:
      return None
    return self._manager.metadata(epoch).custom_metadata.get('metrics')

  def restore(self, template: Any) -> tuple[int, Any]:
    """The latest state.

    Args:
      template: a state of the wanted structure; arrays or ShapeDtypeStructs.

    Returns:
      Epochs done, and the state on every device; (0, None) if there is none.

    Raises:
      errors.InputError: it is damaged or belongs to another architecture.
    """
    epoch, leaves = self._read(template)
    if leaves is None:
      return 0, None
    state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return epoch, parallel.replicate(state)

  @hosts.by_main
  def _read(self, template: Any) -> tuple[int, list[np.ndarray] | None]:
    """The leaves of the latest state; see `restore`."""
    epoch = self._manager.latest_step()
    if epoch is None:
      return 0, None
    try:
      metadata = self._manager.metadata(epoch).custom_metadata
      if metadata['layout'] != _layout(template):
        raise ValueError('it holds other arrays')
      vectors = self._manager.restore(epoch, args=ocp.args.StandardRestore())
      return epoch, _unpack(vectors, template)
    except Exception as error:  # Orbax has no type of its own for damage.
      raise errors.InputError(
        f'the checkpoint in {self._folder} cannot be restored: it is damaged, '
        'or was written by another version of undistillable, or for another '
        'architecture or optimizer than the config names; delete the folder '
        f'{self._folder.parent} to train that network again'
      ) from error


@hosts.by_main
def save_variables(folder: pathlib.Path, variables: Any) -> None:
  """Leaves a finished network as others expect it: an Orbax PyTree.

  Args:
    folder: of the run; the variables are in its folder 'variables'.
    variables: nested dicts of arrays, {'params': ..., 'batch_stats': ...}.

  Raises:
    OSError: the disk is full, or cannot be written.
    lease.LostError: another process writes there.

  Example:
    ocp.StandardCheckpointer().restore(folder / 'variables')
  """
  lease.check(folder)
  arrays = jax.tree.map(np.asarray, jax.device_get(variables))
  with _writing(folder, arrays), _checkpointer() as checkpointer:
    checkpointer.save((folder / 'variables').absolute(), arrays, force=True)


def load_variables(folder: pathlib.Path) -> Any:
  """The variables of a finished run, on every device.

  Args:
    folder: of the run.

  Raises:
    errors.InputError: there are none, or they are damaged.
  """
  return parallel.replicate(_variables(folder))


@hosts.by_main
def _variables(folder: pathlib.Path) -> Any:
  """Those of a finished run, as they are on the disk."""
  place = (folder / 'variables').absolute()
  advice = f'delete {folder} to train that network again'
  if not place.is_dir():
    raise errors.InputError(f'there is no {place}; {advice}')
  try:
    with _checkpointer() as checkpointer:
      variables = checkpointer.restore(place)
  except Exception as error:  # Orbax has no type of its own for damage.
    raise errors.InputError(
      f'{place} cannot be restored, it is damaged; {advice}'
    ) from error
  return jax.tree.map(np.asarray, variables)


def _checkpointer() -> ocp.StandardCheckpointer:
  return ocp.StandardCheckpointer(multiprocessing_options=_MAIN_ALONE)


@contextlib.contextmanager
def _writing(folder: pathlib.Path, arrays: Any) -> Iterator[None]:
  """Says what is wrong with a disk in one sentence.

  Threads of Orbax would print several pages when it is full.
  """
  needed = sum(x.nbytes for x in jax.tree.leaves(arrays)) + _SPARE_BYTES
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(
      errno.ENOSPC,
      f'No space left on device, {needed / 2**20:.1f} MiB are needed and '
      f'{free / 2**20:.1f} MiB free',
      str(folder),
    )
  try:
    yield
  except ValueError as error:  # What tensorstore makes of an error of the disk.
    told = str(error).split('\n')[0]
    raise OSError(f'{folder} cannot be written: {told[:300]}') from error


def _layout(tree: Any) -> list[list[Any]]:
  """The name, shape and dtype of every array, as JSON has them."""
  return [
    [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _pack(tree: Any) -> dict[str, np.ndarray]:
  """All numbers, in the order of the layout, one vector a dtype."""
  vectors: dict[str, list[np.ndarray]] = {}
  for leaf in jax.tree.leaves(jax.device_get(tree)):
    vectors.setdefault(str(leaf.dtype), []).append(np.ravel(leaf))
  return {dtype: np.concatenate(parts) for dtype, parts in vectors.items()}


def _unpack(vectors: dict[str, np.ndarray], template: Any) -> list[np.ndarray]:
  """The leaves of the tree that was packed, with the shapes of the template."""
  starts = dict.fromkeys(vectors, 0)

  def take(leaf: Any) -> np.ndarray:
    dtype = str(leaf.dtype)
    start = starts[dtype]
    starts[dtype] = start + math.prod(leaf.shape)
    return np.asarray(vectors[dtype])[start : starts[dtype]].reshape(leaf.shape)

  return [take(leaf) for leaf in jax.tree.leaves(template)]
