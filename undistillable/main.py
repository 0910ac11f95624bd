"""Protects a teacher, robs it, reports: the command line.

  python -m undistillable.main --config=configs/digits.py --workdir=/tmp/digits

Every field of the config can be overridden, as in --config.nasty.omega=0.1.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from absl import flags, logging

from undistillable import command, cpu, errors, study
from undistillable.storage import paths
from undistillable.training import hosts

# Whoever sends SIGTERM takes the machine away after ten, or more.
_SECS_TO_LEAVE = 8.0
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where runs and report go. Default: workdirs/<dataset>.'
)
_REUSE_WORKDIR = flags.DEFINE_bool(
  'reuse_workdir',
  False,
  'Replace the report of another config in the workdir, keeping its runs.',
)
# The last three as `jax.distributed.initialize` calls them. Without a flag none
# is joined: processes of one job may as well have a study each.
_MULTIHOST = flags.DEFINE_bool(
  'multihost',
  False,
  'Join the other hosts, which run the same command. JAX finds them on a TPU '
  'pod, under SLURM, Open MPI or Kubernetes; elsewhere the next three say it.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'host:port of process 0, for all to reach it.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes on all hosts together.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'The number of this process, from 0.'
)


def run(
  chosen: study.Study = study.MAIN,
  module: str = 'undistillable.main',
  change_fn: Callable[[Any], Any] = lambda config: config,
) -> None:
  """Flags in, report out.

  Args:
    chosen: what is trained and shown.
    module: what was run with `python -m`, for the report.
    change_fn: makes of the config what is run.
  """
  cpu.use_huge_pages()
  command.run(lambda: _main(chosen, module, change_fn))


def _main(
  chosen: study.Study, module: str, change_fn: Callable[[Any], Any]
) -> None:
  """See `run`."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells all that it does.
  by_hand = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  if _MULTIHOST.value or by_hand != (None, None, None):
    hosts.join(*by_hand)
  config, given = change_fn(command.config()), _WORKDIR.value
  if given is None:
    given = f'workdirs/{config.dataset}'
  workdir = paths.local(given, 'workdir')
  typed = shlex.join(['python', '-m', module, *sys.argv[1:]])
  stopped = [signal.SIGINT]

  def stop(number: int, _: Any) -> None:
    """What whoever takes the machine away sends some seconds before."""
    stopped[:] = [signal.Signals(number)]
    raise KeyboardInterrupt

  def leave(number: int) -> None:
    """Ends at once: a computation that still runs cannot be taken down."""
    print(
      f'\ninterrupted; this goes on where it stopped:\n{typed}',
      file=sys.stderr,
      flush=True,
    )
    os._exit(128 + number)

  signal.signal(signal.SIGTERM, stop)
  _watch_for(signal.SIGTERM, leave)
  try:
    results = study.run(
      config,
      workdir,
      study=chosen,
      reuse_workdir=_REUSE_WORKDIR.value,
      command=typed,
    )
  except KeyboardInterrupt:
    leave(stopped[0])  # Everything is written and closed by now.
  except (errors.InputError, OSError):
    raise  # On every host.
  except Exception:
    hosts.leave()
    raise
  if not hosts.is_main():
    return
  report = workdir / chosen.name / 'report.html'
  try:
    print(f'{chosen.text_fn(results)}\n\nReport: {report}', flush=True)
  except OSError as error:  # Where it is printed to may be full, or gone.
    sys.exit(f'error: the report is {report}, but cannot be printed: {error}')


def _watch_for(number: int, leave: Callable[[int], None]) -> None:
  """Calls `leave` some seconds after a signal, whatever then goes on.

  Python's own handlers wait for the main thread, which may be in a compiler, or
  in an epoch that is one computation, for minutes. What is not written by then
  is lost as it is when a process is killed: nothing else.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

  def wait() -> None:
    while os.read(reader, 1)[0] != number:
      pass
    time.sleep(_SECS_TO_LEAVE)
    leave(number)

  threading.Thread(target=wait, daemon=True).start()


if __name__ == '__main__':
  run()
