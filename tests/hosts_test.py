"""Several hosts: processes of this machine, that share one study."""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback

import jax
import numpy as np
import pytest

from experiments.benchmarks import kills
from undistillable import errors, study
from undistillable.graph import plan
from undistillable.training import checkpoints, hosts, parallel, train

SLURMS_FIRST_PORT = 2**16 - 2**12  # Of which JAX takes one by the job.
_MAX_SECS = 300.0  # Of a study, on a machine that does much else.


def _one_network(config):
  return plan.make(config, lambda job: [job.control('mlp')])


# Of which every host has the least to compile.
SMALL = dataclasses.replace(kills.PLAIN, plan_fn=_one_network)


def _config(folder):
  config = kills.config(str(folder / 'data'), 'none')
  config.students = ('mlp',)
  config.recipe.epochs = 6  # Time to be killed in.
  return config


def _run(folder, work='work', resident=True, chosen=kills.PLAIN):
  config = _config(folder)
  config.resident = resident
  return study.run(config, folder / work, study=chosen)


def _host(folder, port, number, of, devices, slurm, options):
  """A process of a test; its output goes to a file."""
  with (folder / f'said{number}.txt').open('w') as said:
    os.dup2(said.fileno(), sys.stdout.fileno())
    os.dup2(said.fileno(), sys.stderr.fileno())
  jax.config.update('jax_num_cpu_devices', devices)
  try:
    if of > 1:
      if slurm:
        os.environ.update(_slurm(port, number, of))
        hosts.join()
      else:
        hosts.join(f'localhost:{port}', of, number)
      told = folder / f'told{number}.json'
      told.write_text(json.dumps(list(_told(number))))
    # Whoever is not the main host needs no workdir.
    _run(folder, 'work' if number == 0 else f'never{number}', **options)
    if of > 1:
      jax.distributed.shutdown()  # As at any other process's exit.
  except Exception:
    hosts.leave()
    traceback.print_exc()
    sys.exit(1)


def _slurm(port, number, of):
  """What a task of that number finds in its environment there."""
  return {
    'SLURM_JOB_ID': str(port - SLURMS_FIRST_PORT),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': str(of),
    'SLURM_PROCID': str(number),
    'SLURM_LOCALID': str(number),
  }


def _told(number):
  """What a host hears of host 0, and of the last one's troubles."""

  def fail():
    raise OSError(28, 'No space left', 'disk')

  def break_down():
    raise KeyError('broken')

  def lack():
    if number == jax.process_count() - 1:
      raise errors.InputError('there are no data')

  yield hosts.count()
  yield hosts.of_main(number)
  # Alone, with another call of its own inside.
  yield hosts.by_main(lambda: [hosts.of_main(number), hosts.count()])()
  yield hosts.by_main(lambda: parallel.num_devices())()
  yield parallel.num_devices()
  yield len(hosts.of_main('x' * 5_000 if number == 0 else ''))
  for call in (
    hosts.by_main(fail),
    hosts.by_main(break_down),
    lambda: hosts.agree(lack),
    lambda: parallel.use(1),
  ):
    try:
      call()
    except Exception as error:
      yield f'{type(error).__name__}: {error}'
  hosts.agree(lambda: None)


def _start(folder, of, devices=1, slurm=False, **options):
  port = _free_port(SLURMS_FIRST_PORT if slurm else 0)
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(list(kills.IMPORTED))
  processes = [
    context.Process(
      target=_host,
      args=(folder, port, number, of, devices, slurm, options),
      daemon=True,
    )
    for number in range(of)
  ]
  for process in processes:
    process.start()
  return processes


def _free_port(first):
  """Any one, or from the first on."""
  for port in range(first, 2**16):
    with (
      contextlib.closing(socket.socket()) as probe,
      contextlib.suppress(OSError),
    ):
      probe.bind(('localhost', port))
      return probe.getsockname()[1]
  raise AssertionError('there is a free port')


def _kill(processes, killed, folder, moment):
  """Kills one as soon as there is a file; the others end by themselves."""
  end = time.monotonic() + _MAX_SECS
  while not list(folder.glob(moment)):
    assert time.monotonic() < end and processes[killed].is_alive()
    time.sleep(0.001)
  processes[killed].kill()
  for number, process in enumerate(processes):
    process.join(_MAX_SECS)
    assert (process.exitcode == -9) == (number == killed)
    assert process.exitcode not in (0, None)
  assert not (folder / 'work' / 'results.json').exists()


def _wait_for(processes, folder):
  """All of them have succeeded."""
  for number, process in enumerate(processes):
    process.join(_MAX_SECS)
    said = (folder / f'said{number}.txt').read_text(errors='replace')
    assert process.exitcode == 0, said[-3000:]


def _outcome(folder):
  found = kills.outcome(folder)
  for run in found['results']['runs']:
    assert run['epochs'] == 6
  return found


def _numbers(folder):
  """All that is a number in a study: of weights, and of each epoch."""
  found = []
  for place in sorted((folder / 'work' / 'runs').iterdir()):
    lines = (place / 'metrics.jsonl').read_text().splitlines()
    for line in map(json.loads, lines):
      found += [v for k, v in sorted(line.items()) if k != 'secs']
    found += jax.tree.leaves(checkpoints.load_variables(place))
  return [np.asarray(x, np.float32) for x in found]


@pytest.fixture
def programs(tmp_path, monkeypatch):
  """The second start of the same processes compiles nothing."""
  # Of the process that all of them are forked from.
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'programs'))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')


def test_an_address_without_a_port_is_one_sentence():
  code = (
    'from undistillable import errors\n'
    'from undistillable.training import hosts\n'
    'try:\n'
    "  hosts.join('localhost', 2, 0)\n"
    'except errors.InputError as error:\n'
    '  print(error)\n'
  )
  told = subprocess.check_output([sys.executable, '-c', code], text=True)
  assert told.startswith('the hosts cannot be joined: ')
  assert '--coordinator_address' in told


@pytest.mark.whole
def test_a_study_moves_between_one_host_and_two(
  tmp_path, monkeypatch, programs
):
  undisturbed, one, two = (tmp_path / x for x in ('undisturbed', 'one', 'two'))
  _run(undisturbed)
  wanted = _outcome(undisturbed)

  # Begun by one process with two devices, which is interrupted,
  save = checkpoints.Checkpoints.save

  def save_twice(self, epoch, *args):
    save(self, epoch, *args)
    if epoch == 2:
      raise KeyboardInterrupt

  two.mkdir()
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(checkpoints.Checkpoints, 'save', save_twice)
    patch.setattr(train, '_PAUSE', 0)
    _run(two)
  # it goes on on two hosts with one each, of which the first is killed;
  students = 'work/runs/student*/checkpoints/*/SHA256SUMS'
  _kill(_start(two, 2), 0, two, students)
  # and both one process and two, whose data stay on the hosts, end it.
  shutil.copytree(two, one)
  hosts_of_two = _start(two, 2, resident=False)
  _run(one)
  _wait_for(hosts_of_two, two)

  assert kills.differences(_outcome(one), wanted) == []
  assert kills.differences(_outcome(two), wanted) == []
  assert not list(two.glob('never*'))
  told = [json.loads((two / f'told{i}.json').read_text()) for i in range(2)]
  for mine in told:
    assert mine[:6] == [2, 0, [0, 1], 1, 2, 5_000]
    assert 'No space left' in mine[6] and mine[6].startswith('OSError')
    assert 'broken' in mine[7]
    assert mine[8].startswith('InputError') and 'no data' in mine[8]
    assert mine[9].startswith('InputError') and 'num_devices=1' in mine[9]
  assert 'host 1' in told[0][8]


@pytest.mark.whole
def test_four_hosts_end_with_the_numbers_of_one(tmp_path, programs):
  one, four = (tmp_path / x for x in ('one', 'four'))
  for folder in (one, four):
    folder.mkdir()
  alone = _start(one, 1, devices=4, chosen=SMALL)
  begun = 'work/runs/*/checkpoints/1/SHA256SUMS'
  _kill(_start(four, 4, chosen=SMALL), 2, four, begun)
  _wait_for(_start(four, 4, slurm=True, chosen=SMALL), four)
  _wait_for(alone, one)
  for folder in (one, four):
    _outcome(folder)
  # Sums over four devices are taken in another order.
  for mine, wanted in zip(_numbers(four), _numbers(one), strict=True):
    np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_four_devices_compute_the_same_on_any_number_of_hosts(
  tmp_path, programs
):
  found = {}
  for number in (1, 2, 4):
    folder = tmp_path / f'on{number}'
    folder.mkdir()
    _wait_for(_start(folder, number, 4 // number), folder)
    found[number] = _numbers(folder)
  # Sums over four devices are taken in another order.
  for one, two, four in itertools.zip_longest(*found.values()):
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-5)
