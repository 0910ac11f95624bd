"""What is odd about a machine, and only describes or decorates, ends no job."""

import importlib.metadata
import io
import os
import pathlib
import subprocess
import sys

import fabricated
import matplotlib
import pytest

from undistillable.report import document, draw, write
from undistillable.training import environment, writers

ROOT = pathlib.Path(__file__).parents[1]
FIGURE = """
import pathlib
from undistillable.report import draw

def panels():
  panel = draw.panel(1.0)
  panel.subplots().plot([1, 2])
  return [panel]

figure = draw.Figure('heading', 'name', panels, 'title', 'alt', 'caption')
"""


@pytest.fixture(scope='module')
def figure():
  names = {}
  exec(FIGURE, names)
  return names['figure']


@pytest.mark.parametrize(
  ('package', 'shown'),
  [('undistillable', '0.1.0, not installed'), ('jax', 'unknown')],
)
def test_a_package_without_metadata_is_described(package, shown, monkeypatch):
  version = importlib.metadata.version

  def missing(name):
    if name == package:
      raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

  monkeypatch.setattr(importlib.metadata, 'version', missing)
  assert environment.describe()[package] == shown


def test_a_user_s_settings_for_figures_are_not_ours(figure, tmp_path):
  draw.render(figure, tmp_path / 'one')
  users = {'text.usetex': True, 'axes.prop_cycle': "cycler(color=['r'])"}
  with matplotlib.rc_context(users):
    shown = draw.render(figure, tmp_path / 'other')
    assert matplotlib.rcParams['text.usetex']
  assert isinstance(shown[1], document.Picture)
  one, other = (
    (tmp_path / name / 'figures' / 'name.png').read_bytes()
    for name in ('one', 'other')
  )
  assert one == other


def test_a_figure_that_cannot_be_drawn_is_a_note(tmp_path):
  def fail():
    raise RuntimeError('no fonts')

  shown = draw.Figure('Accuracy', 'a', fail, 'title', 'alt', 'caption')
  heading, note = draw.render(shown, tmp_path)
  assert heading == document.Heading('Accuracy')
  assert 'could not be drawn (RuntimeError: no fonts)' in note.text


def test_whatever_was_typed_a_report_is_written(tmp_path):
  """A terminal without an encoding hands on bytes as lone surrogates."""
  results = {'runs': fabricated.make_study([90.0], [91.0], [50.0])}
  command = b'python --workdir=/tmp/gr\xc3\xbcn'.decode(
    'ascii', 'surrogateescape'
  )
  write.write(results, tmp_path, command=command, figures=[])
  assert 'workdir=/tmp/gr??n' in (tmp_path / 'report.md').read_text()


def test_without_tensorboard_metrics_are_written(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  metrics = writers.Metrics(tmp_path)
  metrics.write({'epoch': 1, 'step': 5, 'train_loss': 0.5})
  metrics.close()
  assert writers.read_metrics(tmp_path)[0]['train_loss'] == 0.5


def test_a_terminal_that_is_gone_ends_no_training(monkeypatch):
  class Gone(io.StringIO):
    def write(self, text):
      raise BrokenPipeError

  with writers.Progress(10, 1) as progress:
    progress._bar.fp = Gone()
    progress._bar.sp = Gone().write
    progress.start(1, 'x')
    progress.advance(5, 0.5, 90.0)


def test_what_matplotlib_cannot_read_is_passed_over(tmp_path):
  """It reads these when it is imported, so only another process can tell."""
  (tmp_path / 'matplotlibrc').write_bytes(b'\xff\xfe\x00')
  code = (
    f'{FIGURE}\nprint(type(draw.render(figure, pathlib.Path("."))[1]).__name__)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={
      **os.environ,
      'HOME': '/dev/null',
      'LC_ALL': 'xx_YY',
      'MPLBACKEND': 'none',
      'PYTHONIOENCODING': 'ascii',
      'PYTHONPATH': str(ROOT),
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.stdout == 'Picture\n', done.stderr
