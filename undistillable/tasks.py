"""A task: the parts of a data set that a run learns from and is judged on."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from undistillable import data, errors

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

  def share(self, fraction: float, seed: int) -> Arrays:
    """The part of the training set that a thief has; all of it for 1."""
    if fraction == 1:
      return self.train
    try:
      return data.take_fraction(self.train, fraction, seed)
    except ValueError as error:
      raise errors.InputError(f'fraction: {error}') from error


def load(
  settings: Mapping[str, Any], data_dir: str | os.PathLike | None = None
) -> Task:
  """Loads the data set of a run and holds out its validation part.

  Args:
    settings: name, limit, val_fraction and val_seed, as in `Run.dataset`.
    data_dir: see `data.load`.

  Returns:
    The task.

  Raises:
    errors.InputError: see `data.load`.
  """
  loaded = data.load(settings['name'], data_dir=data_dir)
  try:
    train, test = (
      _at_most(split, settings['limit'])
      for split in (loaded.train, loaded.test)
    )
    train, val = data.hold_out(
      train, settings['val_fraction'], settings['val_seed']
    )
  except ValueError as error:
    raise errors.InputError(f'{settings["name"]}: {error}') from error
  return Task(train, val, test, loaded.class_names)


def _at_most(split: Arrays, limit: int | None) -> Arrays:
  """The same `limit` examples at every call, each class in proportion."""
  number = len(split['label'])
  if limit is None or limit >= number:
    return split
  return data.take_fraction(split, limit / number, seed=0)
