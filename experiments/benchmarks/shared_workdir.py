"""Several processes that share a workdir, against one: how long they take.

  python -m experiments.benchmarks.shared_workdir --processes=2 --kills=4

Trains some experiments of digits from nothing, with one process on all cores,
and then with several, each on its share of the cores, of which one is killed
(SIGKILL) and started again every now and then. With --cores=1 each has one
core, the one process as well, as if a core were a machine. Programs are
compiled anew each time, and kept for whoever shares the folder. Prints a line
of JSON: seconds of both, and the largest difference of an accuracy, in points.
"""

import json
import multiprocessing
import os
import pathlib
import random
import tempfile
import time
from typing import Any

import jax
from absl import flags

from experiments import experiment
from undistillable import command, study
from undistillable.graph import plan
from undistillable.storage import disk
from undistillable.training import environment

_PROCESSES = flags.DEFINE_integer('processes', 2, 'That share the workdir.')
_CORES = flags.DEFINE_integer(
  'cores', None, 'Of each process. Default: all, in equal shares.'
)
_KILLS = flags.DEFINE_integer('kills', 4, 'Of one of them.')
_SECS = flags.DEFINE_float('secs', 60.0, 'Between two kills, on average.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of whom is killed, and when.')
_EXPERIMENTS = flags.DEFINE_list(
  'experiments', ['temperature', 'alpha', 'fraction'], 'One after another.'
)
_SECS_BETWEEN_LOOKS = 0.2


def main() -> None:
  """Times one process, then several."""
  with tempfile.TemporaryDirectory() as folder:
    one = pathlib.Path(folder, 'one')
    several = pathlib.Path(folder, 'several')
    alone, _ = _timed(one, 1, 0)
    shared, killed = _timed(several, _PROCESSES.value, _KILLS.value)
    found, other = _accuracies(one), _accuracies(several)
  assert found.keys() == other.keys()
  print(
    json.dumps(
      {
        'experiments': _EXPERIMENTS.value,
        'networks': len(found),
        'processes': _PROCESSES.value,
        'cores': _CORES.value,
        'kills': killed,
        'secs_of_one': round(alone, 1),
        'secs_of_several': round(shared, 1),
        'ratio': round(shared / alone, 2),
        'largest_difference': max(abs(found[k] - other[k]) for k in found),
        'environment': environment.describe(),
      }
    )
  )


def _timed(folder: pathlib.Path, number: int, kills: int) -> tuple[float, int]:
  """Seconds until all have ended, and how many kills that took."""
  folder.mkdir()
  rng = random.Random(_SEED.value)
  cores = sorted(os.sched_getaffinity(0))
  shares = [cores[i::number][: _CORES.value] for i in range(number)]
  begin = time.monotonic()
  workers = [_start(folder, share) for share in shares]
  done, next_kill = 0, rng.uniform(0, 2 * _SECS.value)
  while any(worker.is_alive() for worker in workers):
    time.sleep(_SECS_BETWEEN_LOOKS)
    alive = [i for i, worker in enumerate(workers) if worker.is_alive()]
    if done < kills and alive and time.monotonic() - begin > next_kill:
      chosen = rng.choice(alive)
      workers[chosen].kill()
      workers[chosen].join()
      workers[chosen] = _start(folder, shares[chosen])
      done += 1
      next_kill += rng.uniform(0, 2 * _SECS.value)
  secs = time.monotonic() - begin
  assert not any(worker.exitcode for worker in workers)
  return secs, done


def _start(folder: pathlib.Path, cores: list[int]) -> Any:
  """A process of its own, as a command is."""
  worker = multiprocessing.get_context('spawn').Process(
    target=_work, args=(str(folder), cores, _EXPERIMENTS.value)
  )
  worker.start()
  return worker


def _work(folder: str, cores: list[int], names: list[str]) -> None:
  """Trains what no other does; JAX takes as many threads as there are cores."""
  os.sched_setaffinity(0, cores)
  jax.config.update('jax_compilation_cache_dir', f'{folder}/programs')
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  config = plan.vary(command.load('digits'), {'seeds': (0,), 'progress': False})
  config.data_dir = str(pathlib.Path(folder, 'data'))
  for name in names:
    study.run(config, pathlib.Path(folder, 'work'), study=experiment.load(name))


def _accuracies(folder: pathlib.Path) -> dict[str, float]:
  """{run: test accuracy in percent} of all."""
  return {
    path.parent.name: disk.read_json(path)['test_accuracy']
    for path in folder.glob('work/runs/*/result.json')
  }


if __name__ == '__main__':
  command.run(main)
