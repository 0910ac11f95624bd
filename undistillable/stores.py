"""The networks and image sets of a workdir, loaded when they are needed."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from undistillable import (
  checkpoints,
  data,
  programs,
  runs,
  synthesis,
  tasks,
  train,
)


class Store:
  """The networks of a workdir: what their runs left, loaded when needed."""

  def __init__(
    self,
    workdir: pathlib.Path,
    dataset: Mapping[str, Any],
    data_dir: str | None = None,
    eval_batch_size: int = 256,
  ):
    """Loads nothing yet.

    Args:
      workdir: the study's folder.
      dataset: as in `runs.Run`.
      data_dir: see `data.load`.
      eval_batch_size: over all devices.
    """
    self.workdir = workdir
    self.eval_batch_size = eval_batch_size
    self._dataset, self._data_dir = dataset, data_dir
    # The last few: the teachers of all seeds serve students in turn.
    self.variables = functools.lru_cache(maxsize=8)(self._variables)

  @functools.cached_property
  def task(self) -> tasks.Task:
    """The data set."""
    return tasks.load(self._dataset, self._data_dir)

  def examples(self, run: runs.Run) -> tasks.Arrays:
    """What a run is trained on; of no data, only how many there would be."""
    if run.data_free:
      return {'label': np.zeros(self.num_examples(run), np.int32)}
    if 'images' in run.parents:
      return self.images(run.parents['images'])
    return self.task.share(run.dataset['fraction'], run.seed)

  def num_examples(self, run: runs.Run) -> int:
    """How many a run sees in an epoch, its parents finished or not."""
    if 'images' in run.parents:
      return sum(r.settings['num_images'] for r in run.parents['images'].chain)
    if run.role == 'images':
      return run.settings['num_images']
    if run.data_free:
      return run.recipe['steps_per_epoch'] * run.recipe['batch_size']
    return len(self.examples(run)['label'])

  def program(self, run: runs.Run) -> programs.Program:
    """The functions of a run."""
    number = self.num_examples(run)
    return programs.build(run, self.task.num_classes, number)

  def num_steps(self, run: runs.Run) -> int:
    """Steps of the whole training of a run."""
    if run.init_from:
      return 0
    per_epoch = self.num_examples(run) // run.recipe['batch_size']
    return run.recipe['epochs'] * per_epoch

  def result(self, run: runs.Run) -> dict[str, Any] | None:
    """What a finished run wrote; None for any other."""
    return runs.result(run, self.workdir)

  def images(self, run: runs.Run) -> tasks.Arrays:
    """What finished runs have made up, the last of them `run`."""
    sets = [images_of(one, self.variables(one)) for one in run.chain]
    return {
      key: np.concatenate([found[key] for found in sets]) for key in sets[0]
    }

  def _variables(self, run: runs.Run) -> dict[str, Any]:
    """The variables of a finished run, from its checkpoint."""
    parts = self.program(run)
    template = train.abstract_state(
      parts.method, self.task.train, parts.prepare_test
    )
    folder = runs.folder(run, self.workdir) / 'checkpoints'
    return checkpoints.load(folder, template).variables


def images_of(run: runs.Run, variables: Mapping[str, Any]) -> tasks.Arrays:
  """The images in the variables of a run, as bytes, and their labels."""
  found = variables['images']
  mean, std = data.NORMALIZATIONS[run.dataset['normalization']]
  return {
    'image': synthesis.to_uint8(found['image'], mean, std),
    'label': np.asarray(found['label']),
  }
