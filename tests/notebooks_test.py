"""The notebooks agree with their sources, and run as they stand, small."""

import os
import pathlib
import re

import pytest
import tiny_archive

_REASON = "needs pip install -e '.[notebooks]'"
nbformat = pytest.importorskip('nbformat', reason=_REASON)
notebooks = pytest.importorskip('notebooks', reason=_REASON)

ROOT = pathlib.Path(__file__).parents[1]
# Those that show what they printed when they were run for the repository.
EXECUTED = ('quickstart', 'your_model')
PUBLISHED = (
  *(ROOT / 'notebooks' / f'{name}.py' for name in notebooks.NAMES),
  ROOT / 'README.md',
  ROOT / 'docs' / 'notebooks.md',
)


def _code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def _outputs(notebook):
  return [output for cell in _code(notebook) for output in cell.outputs]


def _printed(notebook):
  return ''.join(output.get('text', '') for output in _outputs(notebook))


def _pictures(notebook):
  data = [output.get('data', {}) for output in _outputs(notebook)]
  return [one['image/png'] for one in data if 'image/png' in one]


@pytest.mark.parametrize('name', notebooks.NAMES)
def test_a_notebook_is_what_its_source_says(name):
  found, made = notebooks.read(name), notebooks.source(name)
  for cell in _code(found):
    cell.outputs, cell.execution_count = [], None
  remedy = f'run python -m notebooks {name}'
  assert found.cells == made.cells, remedy
  assert found.metadata == made.metadata, remedy


@pytest.mark.parametrize('name', notebooks.NAMES)
def test_a_notebook_shows_all_of_its_outputs_or_none(name):
  notebook = notebooks.read(name)
  if name not in EXECUTED:
    assert not _outputs(notebook)
    return
  skipped = notebooks.tagged(notebook, 'colab')
  counts = [c.execution_count for c in _code(notebook) if c not in skipped]
  assert counts == list(range(1, len(counts) + 1))
  assert _pictures(notebook)
  assert not any('error' in output.output_type for output in _outputs(notebook))
  assert not any('widget' in str(output) for output in _outputs(notebook))


def test_changed_code_has_no_outputs_and_changed_words_keep_them():
  executed = notebooks.source('quickstart')
  for cell in _code(executed):
    cell.outputs = ['printed']
  made = notebooks.source('quickstart')
  made.cells[0].source = 'other words'
  notebooks.take_outputs(made, executed)
  assert all(cell.outputs == ['printed'] for cell in _code(made))
  made = notebooks.source('quickstart')
  _code(made)[-1].source = 'other code'
  notebooks.take_outputs(made, executed)
  assert not _outputs(made)


@pytest.mark.parametrize('path', PUBLISHED, ids=lambda path: path.name)
def test_all_of_them_name_one_repository(path):
  text = path.read_text()
  names = re.findall(r'github(?:\.com)?/([\w-]+/undistillable)\b', text)
  assert names
  assert set(names) == {notebooks.REPOSITORY}
  for name in re.findall(r'/blob/main/([\w./]+)', text):
    assert (ROOT / name).exists(), name


@pytest.fixture
def run(tmp_path):
  """Runs a notebook with other parameters; returns it with its outputs."""

  def execute(name, parameters, last=''):
    notebook = notebooks.source(name)
    known = notebooks.tagged(notebook, 'parameters')[0].source
    for parameter in parameters:
      assert re.search(rf'^{parameter} = ', known, re.MULTILINE), parameter
    notebook.cells.append(nbformat.v4.new_code_cell(last))
    folder = tmp_path / 'clone'
    folder.mkdir()
    env = os.environ | {
      'IPYTHONDIR': str(tmp_path),
      'TFDS_DATA_DIR': str(tmp_path / 'data'),
    }
    notebooks.execute(notebook, folder, env, parameters)
    return notebook

  return execute


@pytest.mark.slow
def test_the_quickstart_runs(run):
  notebook = run(
    'quickstart',
    {'students': ('cnn8',), 'seeds': (0,), 'epochs': 2, 'omega': 0.001},
  )
  assert len(_pictures(notebook)) == 3
  printed = _printed(notebook)
  assert '5 networks in ' in printed
  assert 'kd from nasty resnetc8' in printed


@pytest.mark.slow
def test_tiny_imagenet_runs_and_leaves_the_device_to_its_commands(
  run, tmp_path
):
  archive = tiny_archive.write(tmp_path / 'tiny.zip', tiny_archive.files())
  notebook = run(
    'tiny_imagenet_tpu',
    {
      'prepare_flags': f'--archive={archive} --unverified',
      'flags': '--config.teacher.model=cnn4 --config.students=\'("cnn4",)\'',
    },
    last="import sys; print('kernel has jax:', 'jax' in sys.modules)",
  )
  assert len(_pictures(notebook)) == 3
  printed = _printed(notebook)
  assert 'kernel has jax: False' in printed
  assert re.search(r'^jax [\d.]+ \[\w+Device', printed, re.MULTILINE)
  assert '200 train and 200 test images' in printed
  assert 'kd from nasty cnn4' in printed
  assert '5 runs: 5 finished' in printed
  assert re.search(r'^main_table +33 ', printed, re.MULTILINE)


@pytest.mark.slow
def test_your_model_runs(run):
  # A loaded network is as accurate as the trained one was.
  notebook = run('your_model', {'epochs': 2, 'omega': 0.001})
  assert len(_pictures(notebook)) == 2
  *_, loaded, trained = re.findall(
    r'^accuracy (.+) %', _printed(notebook), re.MULTILINE
  )
  assert loaded == trained
