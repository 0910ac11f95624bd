"""Checkpoints of a run: the only file that knows Orbax."""

import pathlib
from typing import Any

import orbax.checkpoint as ocp

from undistillable import errors, parallel


class Checkpoints:
  """The latest states of one run, written in the background.

  Close it, or use it as a context manager: a process that ends before may leave
  the last save half-done, and the one before it is then found instead.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder.absolute()
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(1),
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def close(self) -> None:
    """Waits for what is still being written."""
    self._manager.close()

  def save(self, epoch: int, state: Any) -> None:
    """Writes the state after `epoch` epochs, in the background."""
    self._manager.save(epoch, args=ocp.args.StandardSave(state))

  def restore(self, template: Any) -> tuple[int, Any]:
    """The latest state.

    Args:
      template: a state of the wanted structure; arrays or ShapeDtypeStructs.

    Returns:
      Epochs done, and the state on every device; (0, None) if there is none.

    Raises:
      errors.InputError: it is damaged or belongs to another architecture.
    """
    epoch = self._manager.latest_step()
    if epoch is None:
      return 0, None
    try:
      state = self._manager.restore(
        epoch, args=ocp.args.StandardRestore(parallel.replicated(template))
      )
    except Exception as error:  # Orbax has no type of its own for damage.
      raise errors.InputError(
        f'the checkpoint in {self._folder} cannot be restored: it is damaged, '
        'or was written for another architecture or optimizer than the config '
        f'names; delete the folder {self._folder.parent} to train that network '
        'again'
      ) from error
    return epoch, state


def load(folder: pathlib.Path, template: Any) -> Any:
  """The latest state of a finished run; see `Checkpoints.restore`."""
  # A manager would create the folder of a run that is not there.
  if folder.is_dir():
    with Checkpoints(folder) as checkpoints:
      _, state = checkpoints.restore(template)
    if state is not None:
      return state
  raise errors.InputError(
    f'no checkpoint in {folder}; delete {folder.parent} to train that network '
    'again'
  )
