"""Kills a study again and again: it ends as if nobody had.

  python -m experiments.benchmarks.kills --kills=300 --seed=0

A study of the digits is started, killed (SIGKILL) at a moment that is drawn at
random, and started again until that many kills are spent. Whenever it comes to
its end, its networks, metrics and results must equal, bit for bit, those of a
study that nobody disturbed; then another one is begun. Prints, and writes to
--output, what was hit.
"""

import argparse
import collections
import dataclasses
import functools
import glob
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from undistillable import config as config_lib, study
from undistillable.report import write
from undistillable.storage import disk
from undistillable.training import checkpoints, environment

# What to wait for before a kill: a file that is new since the start, below the
# folder of a study. None: some time.
MOMENTS = {
  'preparing data': 'data/incomplete.*',
  'at any time': None,
  'beginning a run': 'work/runs/*/owner.*',
  'writing metrics': 'work/runs/*/metrics.jsonl',
  'writing a checkpoint': 'work/runs/*/checkpoints/*tmp*',
  'having written a checkpoint': 'work/runs/*/checkpoints/*/SHA256SUMS',
  'writing a network': 'work/runs/*/variables*tmp*',
  'judging': 'work/runs/*/model.safetensors',
  'writing a result': 'work/runs/*/SHA256SUMS',
  'writing the report': 'work/results.json',
}
# Of a process that waits to be forked: all that takes its time to import, and
# nothing that has computed, since threads do not survive.
IMPORTED = (
  'array_record.python.array_record_module',
  'matplotlib.backends.backend_agg',
  'sklearn.datasets',
  'tensorboardX',
  'tensorflow_datasets',
  'undistillable.study',
)
_SECS_TO_DIE = 0.05  # At most so long after the moment.
_SECS_BETWEEN_LOOKS = 0.001
_MAX_SECS = 600.0  # Of one process.


# Without the figures of its report, which take longer than these trainings.
PLAIN = dataclasses.replace(
  study.MAIN, report_fn=functools.partial(write.write, figures=())
)


def config(data_dir: str, defense: str) -> ml_collections.ConfigDict:
  """Three tiny networks, of three epochs each; five with a defense."""
  found = config_lib.base()
  found.dataset = found.normalization = 'digits'
  found.data_dir = data_dir
  found.limit = 64
  found.val_fraction = 0.25
  found.teacher.model = 'cnn4'
  found.students = ('cnn4',)
  found.defenses = (defense,)
  found.seeds = (0,)
  found.max_accuracy_drop = 100.0
  found.recipe.epochs = 3
  found.recipe.batch_size = found.eval_batch_size = 16
  found.recipe.learning_rate = 0.01
  found.recipe.augment = 'pad_crop'
  found.recipe.schedule = 'cosine'
  found.recipe.evaluate_every_epochs = 1
  found.progress = False
  return found


class Studies:
  """Starts studies in processes that cost no imports."""

  def __init__(self, defense: str, chosen: study.Study):
    self._how = defense, chosen
    self._secs = 0.0  # That one took which nobody disturbed.
    self._context = multiprocessing.get_context('forkserver')
    self._context.set_forkserver_preload(list(IMPORTED))

  def start(self, folder: pathlib.Path) -> Any:
    """A process that begins a study of a folder, or goes on with it."""
    process = self._context.Process(
      target=_study, args=(folder, *self._how), daemon=True
    )
    process.start()
    return process

  def run(self, folder: pathlib.Path) -> None:
    """A study to its end."""
    start = time.monotonic()
    process = self.start(folder)
    process.join(_MAX_SECS)
    _check_end(process, folder)
    self._secs = self._secs or time.monotonic() - start

  def kill(self, folder: pathlib.Path, moment: str, rng: random.Random) -> bool:
    """Starts a study and kills it; whether it lived until that moment."""
    pattern = MOMENTS[moment]
    before = _seen(folder, pattern)
    process = self.start(folder)
    end = time.monotonic() + _MAX_SECS
    if pattern is None:
      # It has less to compile than the first, and a part is done.
      process.join(self._secs * 0.5 * rng.random())
    else:
      while process.is_alive() and not _seen(folder, pattern) - before:
        assert time.monotonic() < end, (
          f'{moment} does not come: {_said(folder)}'
        )
        time.sleep(_SECS_BETWEEN_LOOKS)
      # Most of what there is to hit takes less than a millisecond.
      time.sleep(_SECS_TO_DIE * rng.random() ** 3)
    process.kill()
    process.join()
    if process.exitcode == -9:
      return True
    _check_end(process, folder)
    return False


def outcome(folder: pathlib.Path) -> dict[str, Any]:
  """What a finished study left, as bytes; but for times and dates.

  Raises:
    AssertionError: a checksum says that a file is none of these.
  """
  work = folder / 'work'
  results = json.loads((work / 'results.json').read_text())
  del results['environment']['date']
  found: dict[str, Any] = {
    path.name: path.read_bytes() for path in work.glob('*.npz')
  }
  found['report'] = (work / 'report.html').is_file()
  assert not disk.damaged(work, ['config.json', 'results.json'])
  for run in results['runs']:
    del run['seconds']
    place = work / 'runs' / run['id']
    names = ['config.json', 'metrics.jsonl', 'model.safetensors']
    assert disk.are_whole(place, [*names, 'result.json', 'variables'])
    assert not (place / 'checkpoints').exists()
    lines = (place / 'metrics.jsonl').read_text().splitlines()
    found[run['id']] = {
      'metrics': [json.loads(line) | {'secs': None} for line in lines],
      'weights': (place / 'model.safetensors').read_bytes(),
      'variables': [
        (jax.tree_util.keystr(path), np.asarray(leaf).tobytes())
        for path, leaf in jax.tree_util.tree_leaves_with_path(
          checkpoints.load_variables(place)
        )
      ],
    }
  # Its bars are as long as the trainings took.
  del results['summary']
  return found | {'results': results}


def differences(one: Any, other: Any, name: str = '') -> list[str]:
  """Where two outcomes differ."""
  if isinstance(one, dict) and isinstance(other, dict):
    return [
      found
      for key in one.keys() | other.keys()
      for found in differences(one.get(key), other.get(key), f'{name}/{key}')
    ]
  return [] if one == other else [name]


def run(
  num_kills: int,
  seed: int,
  folder: pathlib.Path,
  *,
  defense: str = 'nasty',
  chosen: study.Study = study.MAIN,
) -> Iterator[dict[str, Any]]:
  """Kills studies of a teacher with `defense`, so often over all of them.

  Yields:
    After each study {kills, studies, moments: {moment: kills}, differences:
    what is not as it would be}, of all by then.
  """
  rng, studies = random.Random(seed), Studies(defense, chosen)
  studies.run(folder / 'undisturbed')
  wanted = outcome(folder / 'undisturbed')
  hit: collections.Counter[str] = collections.Counter()
  found: list[str] = []
  finished = 0
  first, *others, last = MOMENTS
  while hit.total() < num_kills:
    place = folder / f'study{finished}'
    # There are data once, and a report once.
    for moment in (first, *rng.sample(others, len(others)), last):
      # Or it has come to its end before that moment.
      if hit.total() < num_kills and studies.kill(place, moment, rng):
        hit[moment] += 1
    studies.run(place)
    found += [
      f'{place.name}{name}' for name in differences(outcome(place), wanted)
    ]
    said = _said(place)
    found += [f'{place.name}: {said}'] if 'Traceback' in said else []
    finished += 1
    shutil.rmtree(place)
    yield {
      'kills': hit.total(),
      'seed': seed,
      'studies': finished,
      'moments': {name: hit[name] for name in MOMENTS},
      'differences': sorted(found),
    }


def main(argv: Sequence[str]) -> int:
  """Prints a record; the exit status says whether all were equal."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--kills', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', help='where the record goes')
  given = parser.parse_args(argv)
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    # The same programs for the disturbed and for the undisturbed.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{folder}/programs')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    for record in run(given.kills, given.seed, pathlib.Path(folder)):
      record['minutes'] = round((time.monotonic() - start) / 60, 1)
      record['environment'] = environment.describe()
      if given.output:
        disk.write_json(pathlib.Path(given.output), record)
  print(json.dumps(record, indent=2))
  return int(bool(record['differences']))


def _study(folder: pathlib.Path, defense: str, chosen: study.Study) -> None:
  """The process that is killed."""
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / 'said.txt').open('a', encoding='utf-8') as said:
    os.dup2(said.fileno(), sys.stdout.fileno())
    os.dup2(said.fileno(), sys.stderr.fileno())
  study.run(
    config(str(folder / 'data'), defense), folder / 'work', study=chosen
  )


def _check_end(process: Any, folder: pathlib.Path) -> None:
  """A study that was not killed has succeeded."""
  if process.exitcode != 0:
    raise RuntimeError(
      f'a study ended with {process.exitcode}: {_said(folder)}'
    )


def _seen(folder: pathlib.Path, pattern: str | None) -> set[tuple[str, int]]:
  """Which files there are, and since when."""
  found = set()
  for path in glob.iglob(str(folder / (pattern or 'none'))):
    try:
      found.add((path, os.stat(path).st_mtime_ns))
    except OSError:  # It is gone again.
      found.add((path, 0))
  return found


def _said(folder: pathlib.Path) -> str:
  """The last of what the processes of a study said."""
  path = folder / 'said.txt'
  return path.read_text(errors='replace')[-3000:] if path.exists() else ''


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
