"""A long list of measurements and studies, in slices of a few minutes.

  python -m experiments.benchmarks.slices --out=/tmp/slices --minutes=9

For a machine that is lent for minutes at a time and has no network: it does the
first things that the folder lacks, writes each as it is finished, and leaves in
time; the same command goes on from there, also after the folder was carried
elsewhere. First the training step of every network, in both types of numbers
(steps.jsonl, a line a measurement; see experiments.benchmarks.step), then the
main table of the given config (work/, a workdir as any other).
"""

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

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
_CONFIG = flags.DEFINE_string(
  'study', 'configs/cifar10.py', 'The config of the main table; none if empty.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where its data set is.')

_SECS_TO_LEAVE = 20.0  # From SIGTERM on: an epoch's state is written.


def main(argv: Sequence[str]) -> None:
  """Does what fits into the time."""
  del argv
  end = time.monotonic() + 60.0 * _MINUTES.value
  out = pathlib.Path(_OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  path = out / 'steps.jsonl'
  done = _read(path)
  for wanted in _steps():
    if wanted in done:
      continue
    left = end - time.monotonic()
    found = _measured(wanted, left)
    if found is None:
      print(f'{len(done)} steps so far; go on with the same command')
      return
    done.append(wanted)
    with path.open('a') as file:
      file.write(json.dumps(found) + '\n')
    print(json.dumps(found), flush=True)
  if _CONFIG.value:
    _study(out, end)


def _steps() -> Iterator[dict[str, str]]:
  """The settings of all measurements, the most wanted first."""
  for dtype in _DTYPES.value:
    for batch in _BATCHES.value:
      for network in _NETWORKS.value:
        for kind in _KINDS.value:
          yield {
            'network': network,
            'kind': kind,
            'batch': batch,
            'dtype': dtype,
          }


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  """What was measured, or failed, already; half a line is taken out."""
  lines, found = [], []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      content = json.loads(line)
    except ValueError:
      continue
    keys = ('network', 'kind', 'batch', 'dtype')
    found.append({key: str(content[key]) for key in keys})
    lines.append(f'{line}\n')
  path.write_text(''.join(lines))
  return found


def _measured(
  settings: dict[str, str], secs: float
) -> dict[str, object] | None:
  """A line of steps.jsonl; None where the time does not suffice."""
  flag_values = [f'--{name}={value}' for name, value in settings.items()]
  command = [sys.executable, '-m', 'experiments.benchmarks.step', *flag_values]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=max(secs, 0.0)
    )
  except subprocess.TimeoutExpired:
    return None
  if done.returncode:  # Out of memory, for example: that is a result, too.
    reason = (done.stderr.strip() or 'nothing was said').splitlines()[-1]
    return {**settings, 'failed': reason}
  return json.loads(done.stdout.splitlines()[-1])


def _study(out: pathlib.Path, end: float) -> None:
  """The main table, as far as it gets; networks go on from their last epoch."""
  left = end - _SECS_TO_LEAVE - time.monotonic()
  if left <= 0:
    print('no time is left for the study; go on with the same command')
    return
  command = [
    sys.executable,
    '-m',
    'experiments.main_table',
    f'--config={_CONFIG.value}',
    f'--workdir={out / "work"}',
    '--config.progress=False',
  ]
  if _DATA_DIR.value:
    command.append(f'--config.data_dir={_DATA_DIR.value}')
  running = subprocess.Popen(command)
  try:
    print(f'the study ended with {running.wait(left)}')
  except subprocess.TimeoutExpired:
    running.send_signal(signal.SIGTERM)
    running.wait()
    print('the study is not finished; go on with the same command')


if __name__ == '__main__':
  app.run(main)
