"""The command line, as a process: one sentence for what a user can mend."""

import pathlib
import signal
import subprocess
import sys

import pytest

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
    (
      ['--config.teacher.model=lenet'],
      "unknown model 'lenet'; known: airbench93",
    ),
    (['--config.nasty.omegaa=1'], 'Did you mean "omega" instead of "omegaa"'),
    (['--config.defense.omega=1'], 'defense of the first edition is now'),
    (['extra'], "unexpected arguments ['extra']"),
  ],
)
def test_a_mistake_ends_with_one_sentence(args, message, tmp_path):
  workdir = tmp_path / 'work'
  done = _main('--config=configs/digits.py', f'--workdir={workdir}', *args)
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not workdir.exists()


@pytest.fixture
def interruptible():
  """A shell's background job ignores SIGINT, and hands that on to others."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.fixture
def endless(tmp_path):
  """A command that trains one network for a long time."""
  args = [
    '--config=configs/digits.py',
    f'--workdir={tmp_path}/work',
    f'--config.data_dir={tmp_path}/data',
    '--config.teacher.model=cnn8',
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


@pytest.mark.usefixtures('interruptible')
def test_an_interrupted_command_says_that_it_can_go_on(endless):
  while b'loss' not in endless.stderr.read1():
    assert endless.poll() is None
  endless.send_signal(signal.SIGINT)
  _, said = endless.communicate(timeout=120)
  assert endless.returncode == 130
  assert said.decode().strip().endswith('goes on where this one stopped')


def test_a_killed_command_has_lost_no_whole_epoch(endless, tmp_path):
  epochs = 0
  while epochs < 5:
    assert endless.stderr.read1()  # It ends, or there is progress.
    epochs = sum(
      len(metrics.read_text().splitlines())
      for metrics in tmp_path.glob('work/runs/*/metrics.jsonl')
    )
  endless.kill()
  endless.wait()
  # What was being written at that moment is lost with the epoch in progress.
  kept = max(
    int(folder.name)
    for folder in tmp_path.glob('work/runs/*/checkpoints/*')
    if folder.name.isdigit()
  )
  assert kept >= epochs - 1


def test_the_command_trains_and_prints_the_table(tmp_path):
  args = [
    '--config=configs/digits.py',
    f'--workdir={tmp_path}/work',
    f'--config.data_dir={tmp_path}/data',
    '--config.teacher.model=cnn8',
    "--config.students=('cnn8',)",
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
  assert 'run 5/5 student cnn8 kd(nasty) seed 0' in done.stderr
  assert 'loss' in done.stderr
  assert 'acc' in done.stderr
  again = _main(*args)
  assert again.stdout == done.stdout
  assert 'run 1/5' not in again.stderr
