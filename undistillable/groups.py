"""Which runs are trained together: those that hear the same answers.

Students of one frozen teacher see the same batches, if they have the same
seed, method and data; in one compiled step the teacher then answers once for
all.
"""

import json
from collections.abc import Hashable, Iterable

from undistillable import runs as runs_lib

# What must agree for two runs to go through the same batches side by side.
_SHARED_FIELDS = (
  'epochs',
  'batch_size',
  'augment',
  'evaluate_every_epochs',
  'checkpoint_every_epochs',
)


def split(runs: Iterable[runs_lib.Run], most: int) -> list[list[runs_lib.Run]]:
  """Groups of runs, in the order of the first of each.

  Args:
    runs: in an order in which they can be trained one by one.
    most: runs of a group; all of them are in the device's memory at once.

  Returns:
    Each run in one group, with whatever it depends on in an earlier one.
  """
  groups: list[list[runs_lib.Run]] = []
  open_groups: dict[Hashable, list[runs_lib.Run]] = {}
  for run in runs:
    key = _key(run)
    group = open_groups.get(key)
    if group is None or len(group) == most:
      group = open_groups[key] = []
      groups.append(group)
    group.append(run)
  return groups


def _key(run: runs_lib.Run) -> Hashable:
  """Equal for runs that can be trained together."""
  if not run.parents or run.init_from or run.data_free or run.role == 'images':
    return run.id
  return (
    run.role,
    run.method,
    run.seed,
    run.dtype,
    tuple((role, parent.id) for role, parent in run.parents.items()),
    json.dumps(run.dataset, sort_keys=True),
    tuple(run.recipe[field] for field in _SHARED_FIELDS),
  )
