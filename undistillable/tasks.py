"""A task: the parts of a data set that a run learns from and is judged on."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from undistillable import data

Arrays = Mapping[str, np.ndarray]  # image uint8[N, H, W, C], label int32[N]


@dataclasses.dataclass(frozen=True)
class Task:
  """What the runs of a study share.

  Attributes:
    train: what is learned from.
    val: a part of the training set, held out; may be empty.
    test: read once, when a run is finished.
    class_names: one a class.
  """

  train: Arrays
  val: Arrays
  test: Arrays
  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def num_examples(self) -> int:
    """Of the training part."""
    return len(self.train['label'])


def load(
  settings: Mapping[str, Any], data_dir: str | os.PathLike | None = None
) -> Task:
  """Loads the data set of a run and holds out its validation part.

  Args:
    settings: name, val_fraction and val_seed, as in `Run.dataset`.
    data_dir: see `data.load`.

  Returns:
    The task.

  Raises:
    errors.InputError: see `data.load`.
  """
  loaded = data.load(settings['name'], data_dir=data_dir)
  train, val = data.hold_out(
    loaded.train, settings['val_fraction'], settings['val_seed']
  )
  return Task(train, val, loaded.test, loaded.class_names)
