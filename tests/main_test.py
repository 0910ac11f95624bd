"""The command line, as a process: one sentence for what a user can mend."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.whole
ROOT = pathlib.Path(__file__).parents[1]


def _main(*args):
  return subprocess.run(
    [sys.executable, '-m', 'undistillable.main', *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--config.nasty.omega=-1'], 'omega=-1.0; expected a number >= 0'),
    (['--config.nasty.omegaa=1'], 'Did you mean "omega" instead of "omegaa"'),
    (['extra'], "unexpected arguments ['extra']"),
  ],
)
def test_a_mistake_ends_with_one_sentence(args, message, tmp_path):
  """Of the plan, of a flag, of the command; others are in command_test."""
  workdir = tmp_path / 'work'
  done = _main('--config=configs/digits.py', f'--workdir={workdir}', *args)
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not workdir.exists()


@pytest.fixture
def endless(tmp_path):
  """A command that trains one network for a long time."""
  args = [
    '--config=configs/digits.py',
    f'--workdir={tmp_path}/work',
    f'--config.data_dir={tmp_path}/data',
    '--config.teacher.model=mlp',
    '--config.recipe.epochs=1000',
  ]
  with subprocess.Popen(
    [sys.executable, '-m', 'undistillable.main', *args],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  ) as process:
    yield process
    process.kill()


def _wait_for(process, is_so):
  while not is_so():
    assert process.poll() is None
    time.sleep(0.05)


def test_a_command_that_is_told_to_end_says_how_to_go_on(endless, tmp_path):
  _wait_for(endless, lambda: _checkpoints(tmp_path))
  endless.send_signal(signal.SIGTERM)
  start = time.monotonic()
  _, said = endless.communicate(timeout=120)
  assert time.monotonic() - start < 10
  assert endless.returncode == 128 + signal.SIGTERM
  *_, before, command = said.decode().strip().splitlines()
  assert before == 'interrupted; this goes on where it stopped:'
  assert command.startswith('python -m undistillable.main --config=configs/dig')


def test_a_command_leaves_in_time_whatever_it_computes(tmp_path):
  """As an epoch that is one computation, or a compiler: in C, for minutes."""
  code = """
import hashlib, sys
from undistillable import main, study

def compute(*args, **kwargs):
  print('computes', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)

main._SECS_TO_LEAVE = 0.2
study.run = compute
main.run()
"""
  args = ['--config=digits', f'--workdir={tmp_path}']
  with subprocess.Popen(
    [sys.executable, '-c', code, *args],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    assert process.stdout.readline() == b'computes\n'
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + signal.SIGTERM
  before, command = said.decode().strip().splitlines()
  assert before == 'interrupted; this goes on where it stopped:'
  assert command.startswith('python -m undistillable.main --config=digits')


def test_a_killed_command_has_lost_seconds_and_no_more(endless, tmp_path):
  """However short its epochs are: checkpoints go on being written."""
  for kept in (1, 2):
    _wait_for(endless, lambda: len(_checkpoints(tmp_path)) >= kept)  # noqa: B023
  endless.kill()
  endless.wait()
  (metrics,) = tmp_path.glob('work/runs/*/metrics.jsonl')
  # A line that was being written at that moment has no end.
  lines = [json.loads(x) for x in metrics.read_text().split('\n')[:-1]]
  lost = [x['secs'] for x in lines if x['epoch'] > max(_checkpoints(tmp_path))]
  assert sum(lost) < 10


def _checkpoints(tmp_path):
  """The epochs of those that there are."""
  return [
    int(folder.name)
    for folder in tmp_path.glob('work/runs/*/checkpoints/*')
    if folder.name.isdigit() and (folder / 'SHA256SUMS').exists()
  ]


def test_the_command_trains_and_prints_the_table(tmp_path):
  args = [
    '--config=configs/digits.py',
    f'--workdir={tmp_path}/work',
    f'--config.data_dir={tmp_path}/data',
    '--config.teacher.model=mlp',
    "--config.students=('mlp',)",
    '--config.seeds=(0,)',
    '--config.recipe.epochs=1',
    '--config.limit=200',
    '--config.max_accuracy_drop=100.0',
  ]
  done = _main(*args)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.strip().splitlines()
  assert lines[-1] == f'Report: {tmp_path}/work/report.html'
  assert lines[-3].endswith('.')  # What it means, in a sentence.
  assert 'run 5/5 student mlp kd(nasty) seed 0' in done.stderr
  assert 'loss' in done.stderr
  assert 'acc' in done.stderr
  again = _main(*args)
  assert again.stdout == done.stdout
  assert 'run 1/5' not in again.stderr
