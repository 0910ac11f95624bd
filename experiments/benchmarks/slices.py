"""A long list of measurements and studies, in slices of a few minutes.

  python -m experiments.benchmarks.slices --out=/tmp/slices --minutes=9

For a machine that is lent for minutes at a time and has no network: it does the
first things that the folder lacks, writes each as it is finished, and leaves in
time; the same command goes on from there, also after the folder was carried
elsewhere. First the training step of every network, in both types of numbers
(steps.jsonl, a line a measurement; see experiments.benchmarks.step), then
experiments of the given config (work/, a workdir as any other). With --jobs=6,
so many steps are compiled side by side and timed in turn, and so many processes
share the experiments and the device: each takes a core or two, and gigabytes.
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from undistillable import models

_OUT = flags.DEFINE_string('out', None, 'The folder.', required=True)
_MINUTES = flags.DEFINE_float('minutes', 9.0, 'How long, in all.')
_NETWORKS = flags.DEFINE_list(
  'networks', list(models.MODELS), 'Whose steps are measured.'
)
_DTYPES = flags.DEFINE_list('dtypes', ['bfloat16', 'float32'], 'In which.')
_BATCHES = flags.DEFINE_list('batches', ['128', '512'], 'Images a step.')
_KINDS = flags.DEFINE_list('kinds', ['teacher'], 'Kinds of steps.')
_JOBS = flags.DEFINE_integer('jobs', 1, 'Processes at once.')
_SECS = flags.DEFINE_float('secs', 10.0, 'How long to time each, about.')
_CONFIG = flags.DEFINE_string(
  'study', 'configs/cifar10.py', 'The config of experiments; none if empty.'
)
_EXPERIMENTS = flags.DEFINE_list(
  'experiments', ['main_table'], 'Those of the config, in this order.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where its data set is.')

_SETTINGS = ('dtype', 'batch', 'network', 'kind')
# Or the first process takes most of an accelerator's memory.
_ENVIRONMENT = {**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
_SECS_TO_LEAVE = 20.0  # From SIGTERM on: an epoch's state is written.


def main(argv: Sequence[str]) -> None:
  """Does what fits into the time."""
  del argv
  end = time.monotonic() + 60.0 * _MINUTES.value
  out = pathlib.Path(_OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  if not _measure_steps(out / 'steps.jsonl', end):
    print('not all steps are measured; go on with the same command')
    return
  if _CONFIG.value:
    _run_experiments(out, end - _SECS_TO_LEAVE)


def _measure_steps(path: pathlib.Path, end: float) -> bool:
  """Writes what is not there yet, a line each; whether that was all."""
  done = _read(path)
  wanted = [settings for settings in _steps() if settings not in done]
  complete = True
  with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
    measured = [pool.submit(_measured, settings, end) for settings in wanted]
    for future in concurrent.futures.as_completed(measured):
      line = future.result()
      if line is None:
        complete = False
        continue
      with path.open('a') as file:
        file.write(json.dumps(line) + '\n')
      print(json.dumps(line), flush=True)
  return complete


def _steps() -> list[dict[str, str]]:
  """The settings of all measurements, the most wanted first."""
  values = _DTYPES.value, _BATCHES.value, _NETWORKS.value, _KINDS.value
  return [
    dict(zip(_SETTINGS, one, strict=True)) for one in itertools.product(*values)
  ]


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  """What was measured, or failed, already; half a line is taken out."""
  lines, found = [], []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      content = json.loads(line)
    except ValueError:
      continue
    found.append({key: str(content[key]) for key in _SETTINGS})
    lines.append(f'{line}\n')
  path.write_text(''.join(lines))
  return found


def _measured(settings: dict[str, str], end: float) -> dict[str, object] | None:
  """A line of steps.jsonl; None where the time does not suffice."""
  out = pathlib.Path(_OUT.value).expanduser()
  command = [
    *(sys.executable, '-m', 'experiments.benchmarks.step'),
    *(f'--{name}={value}' for name, value in settings.items()),
    f'--secs={_SECS.value}',
    f'--lock={out / "lock"}',
  ]
  secs = end - time.monotonic()
  if secs <= 0.0:
    return None
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=secs)
  except subprocess.TimeoutExpired:
    return None
  if done.returncode:  # Out of memory, for example: that is a result, too.
    reason = (done.stderr.strip() or 'nothing was said').splitlines()[-1]
    return {**settings, 'failed': reason}
  return json.loads(done.stdout.splitlines()[-1])


def _run_experiments(out: pathlib.Path, end: float) -> None:
  """Experiments, as far as they get; networks go on from their last epoch.

  Where more processes may run than there are experiments, several run the same:
  whoever shares a workdir trains what nobody else does.
  """
  left = list(_EXPERIMENTS.value)
  running: list[tuple[str, subprocess.Popen[bytes]]] = []
  while left and time.monotonic() < end:
    for name, process in running:
      if process.poll() is not None and name in left:
        left.remove(name)
        print(f'{name} ended with {process.returncode}', flush=True)
    running = [one for one in running if one[1].poll() is None]
    busy = [name for name, _ in running]
    if left and len(busy) < _JOBS.value:
      name = min(left, key=busy.count)
      running.append((name, _start(name, out)))
    time.sleep(1.0)
  for _, process in running:
    process.send_signal(signal.SIGTERM)
  for _, process in running:
    process.wait()
  if left:
    print(f'not finished: {", ".join(left)}; go on with the same command')


def _start(name: str, out: pathlib.Path) -> subprocess.Popen[bytes]:
  """A process that runs an experiment; what it says is added to NAME.log."""
  command = [
    *(sys.executable, '-m', f'experiments.{name}'),
    f'--config={_CONFIG.value}',
    f'--workdir={out / "work"}',
    '--config.progress=False',
  ]
  if _DATA_DIR.value:
    command.append(f'--config.data_dir={_DATA_DIR.value}')
  with (out / f'{name}.log').open('ab') as log:
    return subprocess.Popen(command, stdout=log, stderr=log, env=_ENVIRONMENT)


if __name__ == '__main__':
  app.run(main)
