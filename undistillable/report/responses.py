"""What each teacher answers on the same test images, kept for its figure."""

import io
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from undistillable.graph import runs as runs_lib, store as store_lib
from undistillable.storage import disk

_NUM_IMAGES = 8
_NAMES = {'ids', 'logits', 'image', 'label', 'class_names'}


def write(
  planned: Sequence[runs_lib.Run],
  store: store_lib.Store,
  folder: pathlib.Path,
) -> None:
  """Writes responses.npz, unless it is there.

  It has `ids` str[T] of the teachers, their `logits` float32[T, M, K], and of
  the images `image` uint8[M, H, W, C], `label` int[M] and `class_names` str[K].

  Args:
    planned: the finished runs of a study. Shown are the teachers that share
      the network and the seed of the first protected one, the normal first.
    store: of its workdir.
    folder: of its report.
  """
  owners = [run for run in planned if run.role == 'teacher']
  first = next((run for run in owners if run.method != 'none'), None)
  if first is None:
    return
  owners = [r for r in owners if (r.model, r.seed) == (first.model, first.seed)]
  owners.sort(key=lambda run: run.method != 'none')
  path = folder / 'responses.npz'
  ids = [run.id for run in owners]
  found = read(folder)
  if found is not None and found['ids'].tolist() == ids:
    return
  task = store.task(first.judged_on)
  # The first of each of the first classes.
  _, chosen = np.unique(task.test['label'], return_index=True)
  images = {k: v[chosen[:_NUM_IMAGES]] for k, v in task.test.items()}
  arrays: dict[str, Any] = {
    'ids': np.array(ids),
    'class_names': np.array(task.class_names),
    'logits': np.stack([store.answers(run, images) for run in owners]),
    **images,
  }
  disk.save_arrays(path, arrays)


def read(folder: str | os.PathLike[str]) -> dict[str, np.ndarray] | None:
  """The arrays of responses.npz; None where there are none, or no whole ones.

  A zip archive has checksums of its own.
  """
  path = pathlib.Path(folder, 'responses.npz')
  if not path.is_file():
    return None
  try:
    # Of a path NumPy would leave the file open.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
      found = dict(arrays)
  # Of the archive, how it is packed, the header of an array.
  except (EOFError, NotImplementedError, ValueError, zipfile.BadZipFile):
    found = {}
  if not found.keys() >= _NAMES:
    disk.say(path.parent, [path.name], 'its figure is made again or left out')
    return None
  return found
