"""What a workdir holds: the runs, their networks and images, and their data."""

import contextlib
import functools
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from undistillable import data, errors, serving
from undistillable.attacks import synthesis
from undistillable.graph import programs, runs
from undistillable.storage import disk, lease
from undistillable.training import checkpoints, hosts, parallel

# Of a finished run; the others are for people.
_TRAINED = ('metrics.jsonl', 'variables')
_WRITTEN = ('config.json', 'model.safetensors', *_TRAINED)

# image uint8[N, H, W, C], label int32[N]; outlier, as image, where it is read
Arrays = Mapping[str, np.ndarray]


class Task(NamedTuple):
  """The parts of a data set.

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


def load_task(
  settings: Mapping[str, Any], data_dir: str | os.PathLike | None = None
) -> Task:
  """Loads a data set and holds out its validation part.

  Args:
    settings: name, limit, val_fraction and val_seed, as in `Run.judged_on`.
    data_dir: see `data.load`.

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


def _any(images: np.ndarray, number: int, seed: int) -> np.ndarray:
  """So many of them by lot, none again before all have been taken."""
  order = np.random.default_rng(seed).permutation(len(images))
  return images[np.resize(order, number)]


class Material(NamedTuple):
  """All that it takes to train a run and to judge it.

  Attributes:
    run: itself.
    folder: where it is kept.
    program: its functions.
    examples: what it is trained on; of no data, only how many there would be.
    frozen: the variables that its method reads, by role.
    task: the data set that it is judged on.
    batch_size: of an evaluation, over all devices.
  """

  run: runs.Run
  folder: pathlib.Path
  program: programs.Program
  examples: Arrays
  frozen: Mapping[str, Any]
  task: Task
  batch_size: int

  def answers(self, arrays: Arrays, variables: Any) -> np.ndarray:
    """What a client of the network is answered, float32[N, K].

    Args:
      arrays: the images that are asked about.
      variables: of the network.
    """
    if hasattr(self.run.module, 'serve'):
      variables = {serving.PARENTS: self.frozen, **variables}
    return programs.answers(self.run, variables, arrays, self.batch_size)

  def answers_of(self, role: str, arrays: Arrays) -> np.ndarray:
    """What a client of one of its parents is answered, float32[N, K]."""
    run, variables = self.run.parents[role], self.frozen[role]
    return programs.answers(run, variables, arrays, self.batch_size)


class Store:
  """A workdir. Everything is loaded when it is needed.

  Of several hosts the main one alone reads and writes it, and has the leases.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    data_dir: str | None = None,
    eval_batch_size: int = 256,
    resident: bool | None = None,
  ):
    """Loads nothing yet.

    Args:
      workdir: the study's folder.
      data_dir: see `data.load`.
      eval_batch_size: over all devices.
      resident: see `train.fit_together`.
    """
    self.workdir = workdir
    self.eval_batch_size = eval_batch_size
    self.resident = resident
    self._results: dict[str, dict[str, Any]] = {}  # That have been checked.
    self._damaged: set[str] = set()  # Runs of which that has been said.
    # The last few: the teachers of all seeds serve students in turn.
    self.variables = functools.lru_cache(maxsize=8)(self._variables)
    self._load_task = functools.lru_cache(maxsize=2)(
      lambda settings: load_task(dict(settings), data_dir)
    )

  def task(self, settings: Mapping[str, Any]) -> Task:
    """A data set; see `load_task`."""
    keys = 'name', 'limit', 'val_fraction', 'val_seed'
    return self._load_task(tuple((key, settings[key]) for key in keys))

  def examples(self, run: runs.Run) -> Arrays:
    """What a run is trained on; of no data, only how many there would be."""
    if 'images' in run.parents:
      return self.images(run.parents['images'])
    if run.num_made is not None:
      return {'label': np.zeros(run.num_made, np.int32)}
    settings = run.learns_from
    train = self.task(settings).train
    if settings['fraction'] < 1:
      try:
        train = data.take_fraction(train, settings['fraction'], run.seed)
      except ValueError as error:
        raise errors.InputError(f'fraction: {error}') from error
    if 'outliers' in settings:
      others = self.task({**settings, 'name': settings['outliers']}).train
      number = len(train['label'])
      train = {**train, 'outlier': _any(others['image'], number, run.seed)}
    if run.access_to_data == 'foreign':  # Their own labels mean nothing here.
      train = {**train, 'label': np.full_like(train['label'], -1)}
    return train

  def num_examples(self, run: runs.Run) -> int:
    """How many a run sees in an epoch, its parents finished or not."""
    return run.num_made or len(self.examples(run)['label'])

  def num_steps(self, run: runs.Run) -> int:
    """Steps of the whole training of a run; 0 where nothing is trained."""
    if not run.epochs:
      return 0
    batch_size, number = run.recipe['batch_size'], self.num_examples(run)
    parallel.check_batch_size(batch_size, number)
    return run.epochs * (number // batch_size)

  def folder(self, run: runs.Run) -> pathlib.Path:
    """Where a run is kept."""
    return self.workdir / 'runs' / run.id

  @hosts.by_main
  def take(self, run: runs.Run, stack: contextlib.ExitStack) -> bool:
    """Whether this process may train a run, until the stack is closed."""
    folder = self.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    taken = lease.take(folder)
    if taken is None:
      return False
    stack.enter_context(taken)
    return True

  def open(self, group: Sequence[runs.Run]) -> list[Material]:
    """What it takes to train runs that hear the same answers, or to judge them.

    Raises:
      errors.InputError: a folder holds a run of another config, or there is no
        network of a parent.
    """
    first = group[0]
    folders = [self._own_folder(run) for run in group]
    task, examples = self.task(first.judged_on), self.examples(first)
    frozen = self.frozen(first)
    return [
      Material(
        run,
        folder,
        programs.build(run, len(examples['label'])),
        examples,
        frozen,
        task,
        self.eval_batch_size,
      )
      for run, folder in zip(group, folders, strict=True)
    ]

  @hosts.by_main
  def _own_folder(self, run: runs.Run) -> pathlib.Path:
    """The folder of a run, made where it is missing."""
    folder = self.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    path, data = folder / 'config.json', disk.json_bytes(run.config)
    if not path.exists():
      disk.replace(path, data)
    elif path.read_bytes() == data or disk.restored(path, data):
      pass
    elif disk.read_json(path) != run.config:
      raise errors.InputError(
        f'{path} is not the config that its folder is named after; delete the '
        'folder to train that network again, or choose another --workdir'
      )
    return folder

  @hosts.by_main
  def result(self, run: runs.Run) -> dict[str, Any] | None:
    """What a finished run wrote; None for any other, and for a damaged one."""
    if run.id in self._results:
      return self._results[run.id]
    path = self.folder(run) / 'result.json'
    if not path.exists():
      return None
    self._own_folder(run)
    broken = disk.damaged(path.parent, (*_WRITTEN, path.name))
    if broken:
      if run.id not in self._damaged:
        again = 'judged' if self.is_trained(run) else 'trained'
        disk.say(path.parent, broken, f'that network is {again} again')
      self._damaged.add(run.id)
      return None
    # A process that was killed had no time to.
    shutil.rmtree(path.parent / 'checkpoints', ignore_errors=True)
    return self._results.setdefault(run.id, disk.read_json(path))

  @hosts.by_main
  def results(self, planned: Iterable[runs.Run]) -> dict[str, dict[str, Any]]:
    """{run id: result} of those that have one."""
    found = {run.id: self.result(run) for run in planned}
    return {name: result for name, result in found.items() if result}

  @hosts.by_main
  def is_trained(self, run: runs.Run) -> bool:
    """Whether its network is there, and only has to be judged."""
    return disk.are_whole(self.folder(run), _TRAINED)

  @hosts.by_main
  def finish(self, run: runs.Run, content: Mapping[str, Any]) -> None:
    """Writes what a run came to; all else of it is written."""
    path, data = self.folder(run) / 'result.json', disk.json_bytes(content)
    lease.check(path.parent)
    disk.sign(path.parent, _WRITTEN, {path.name: data})
    disk.replace(path, data)
    # What it takes to go on is of no use any more.
    shutil.rmtree(path.parent / 'checkpoints', ignore_errors=True)

  def images(self, run: runs.Run) -> Arrays:
    """What finished runs have made up, the last of them `run`."""
    sets = [
      synthesis.as_arrays(self.variables(one), one.normalization)
      for one in run.chain
    ]
    return {
      key: np.concatenate([found[key] for found in sets]) for key in sets[0]
    }

  def frozen(self, run: runs.Run) -> dict[str, Any]:
    """The variables that the method of a run reads, by role."""
    return {
      role: self.variables(parent)
      for role, parent in run.parents.items()
      if role != 'images' and role not in run.candidates
    }

  def source(self, run: runs.Run) -> runs.Run:
    """Whose network a run has that trains none; its parents are finished.

    Of candidates that is one of those that did not diverge.
    """
    if run.is_owners:
      return run.parents['normal']
    found = {role: self.result(one) for role, one in run.candidates.items()}
    # What a thief cannot know he is not told.
    held_out = {
      role: one['val_accuracy']
      for role, one in found.items()
      if one and one['status'] == 'finished'
    }
    return run.candidates[run.module.pick(held_out)]

  def answers(self, run: runs.Run, arrays: Arrays) -> np.ndarray:
    """What a client of a finished network is answered, float32[N, K]."""
    return programs.answers(
      run, self.variables(run), arrays, self.eval_batch_size
    )

  def _variables(self, run: runs.Run) -> dict[str, Any]:
    """What a finished run left, and what serving it takes besides."""
    if run.only_serves:
      own = self.variables(self.source(run))
    else:
      self._check_variables(run)
      own = checkpoints.load_variables(self.folder(run))
    if hasattr(run.module, 'serve'):
      own = {**own, serving.PARENTS: self.frozen(run)}
    return own

  @hosts.by_main
  def _check_variables(self, run: runs.Run) -> None:
    """Raises InputError where a network is not what was written."""
    folder = self.folder(run)
    if disk.damaged(folder, ['variables']):
      raise errors.InputError(
        f'{folder / "variables"} is damaged; start the study again to have '
        'that network trained again'
      )
