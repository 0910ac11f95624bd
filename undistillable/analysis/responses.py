"""What the normal and the protected teacher answer on the same test images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from undistillable import evaluate, runs as runs_lib, stores

NUM_IMAGES = 8


def write(
  planned: Sequence[runs_lib.Run],
  store: stores.Store,
  folder: pathlib.Path,
) -> None:
  """Writes responses.npz for the first pair of teachers, unless it is there.

  Args:
    planned: the runs of a study, finished.
    store: of its workdir.
    folder: of its report.
  """
  protected = next((run for run in planned if 'adversary' in run.parents), None)
  if protected is None:
    return
  normal = next(
    run
    for run in planned
    if run.method == 'none'
    and (run.model, run.seed) == (protected.model, protected.seed)
  )
  path = folder / 'responses.npz'
  ids = np.array([normal.id, protected.id])
  if path.exists():
    with np.load(path) as found:
      if 'ids' in found and (found['ids'] == ids).all():
        return
  images = first_of_each_class(store.task.test, NUM_IMAGES)
  arrays: dict[str, Any] = {
    'ids': ids,
    'class_names': np.array(store.task.class_names),
    **images,
  }
  for name, run in (('normal', normal), ('protected', protected)):
    parts = store.program(run)
    arrays[f'{name}_logits'] = evaluate.predict(
      parts.apply_fn,
      store.variables(run),
      images,
      parts.prepare_test,
      batch_size=store.eval_batch_size,
    )
  np.savez(path, **arrays)


def first_of_each_class(
  arrays: Mapping[str, np.ndarray], number: int
) -> dict[str, np.ndarray]:
  """The first example of each of the first `number` classes."""
  _, first = np.unique(arrays['label'], return_index=True)
  return {key: value[first[:number]] for key, value in arrays.items()}
