"""The command `undistillable`: help at once, and each command's own module."""

import os
import pathlib
import subprocess
import sys

import pytest

import undistillable
from undistillable import __main__ as cli, data, export, status
from undistillable.data import __main__ as data_main
from undistillable.models import __main__ as models_main

ROOT = pathlib.Path(__file__).parents[1]


def _run(monkeypatch, *args):
  """What is run in which module, with which command line."""
  ran = []
  monkeypatch.setattr(
    cli.runpy,
    'run_module',
    lambda name, **given: ran.append((name, given['run_name'], sys.argv[1:])),
  )
  monkeypatch.setattr(sys, 'argv', ['undistillable', *args])
  cli.main()
  (found,) = ran
  return found


def test_help_is_one_screen_and_imports_nothing_slow():
  code = (
    'import sys\n'
    "sys.argv[1:] = ['--help']\n"
    'from undistillable import __main__\n'
    '__main__.main()\n'
    "slow = {'absl', 'flax', 'jax', 'numpy'} & set(sys.modules)\n"
    'assert not slow, slow\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) <= 24
  assert max(map(len, lines)) <= 80
  for name in ('run', 'audit', 'status', 'export', 'data', 'models'):
    assert any(line.startswith(f'  {name} ') for line in lines)


def test_without_a_command_it_helps(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['undistillable'])
  cli.main()
  assert capsys.readouterr().out.startswith('usage: undistillable COMMAND')
  monkeypatch.setattr(sys, 'argv', ['undistillable', '--version'])
  cli.main()
  assert capsys.readouterr().out == f'{undistillable.__version__}\n'


def test_an_unknown_command_is_refused(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['undistillable', 'protect'])
  with pytest.raises(SystemExit, match="error: unknown command 'protect'; kno"):
    cli.main()


@pytest.mark.parametrize(
  ('name', 'module'),
  [
    ('run', 'undistillable.main'),
    ('audit', 'undistillable.audit'),
    ('status', 'undistillable.status'),
    ('export', 'undistillable.export'),
    ('data', 'undistillable.data'),
    ('models', 'undistillable.models'),
  ],
)
def test_a_command_is_its_module(name, module, monkeypatch):
  args = ['--one=1', 'two']
  assert _run(monkeypatch, name, *args) == (module, '__main__', args)


def test_modules_of_the_folder_are_found(tmp_path):
  """As by python -m; the command itself lies elsewhere."""
  (tmp_path / 'mine.py').write_text('print("found")')
  (tmp_path / 'sitecustomize.py').touch()
  code = (
    'import runpy, sys\n'
    'from undistillable import __main__ as cli\n'
    "sys.path[:] = [p for p in sys.path if p not in ('', sys.path[0])]\n"
    'runpy.run_module = lambda *_, **__: __import__("mine")\n'
    "sys.argv[1:] = ['run']\n"
    'cli.main()\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.stdout == 'found\n', done.stderr


def test_every_command_says_more(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['undistillable.models', '--help'])
  models_main.main()
  assert 'python -m undistillable.models' in capsys.readouterr().out


@pytest.mark.parametrize('main', [status.main, export.main, data_main.main])
def test_a_wrong_flag_is_one_sentence(main, capsys):
  with pytest.raises(SystemExit, match='1'):
    main(['--work=x'])
  said = capsys.readouterr().err
  assert said.startswith('error: ')
  assert len(said.splitlines()) == 1


def test_a_config_tells_other_commands_of_a_data_set(
  tmp_path, monkeypatch, capsys
):
  """It registers one when it is read, as in docs/add_a_data_set.md."""
  config = tmp_path / 'bars_config.py'
  config.write_text(
    'import dataclasses\n'
    'from undistillable import config, data\n'
    "data.DATASETS['bars'] = dataclasses.replace(\n"
    "  data.DATASETS['digits'], name='bars')\n"
    'get_config = config.base\n'
  )
  monkeypatch.setattr(data, 'DATASETS', dict(data.DATASETS))
  check = ['check', 'bars', f'--data_dir={tmp_path}']
  assert data_main.main(check) == 1
  assert 'bars' in capsys.readouterr().err
  assert data_main.main([*check, f'--config={config}']) == 0
  assert capsys.readouterr().out.startswith('bars: ')

  monkeypatch.setattr(data, 'DATASETS', dict(data.DATASETS))
  del data.DATASETS['bars']
  flags = [f'--workdir={tmp_path}/none', f'--to={tmp_path}/to']
  assert export.main([*flags, f'--config={config}']) == 1
  assert 'bars' in data.DATASETS
  assert export.main([*flags, f'--config={tmp_path}/none.py']) == 1
  assert 'there is no config file' in capsys.readouterr().err


def test_the_models_are_listed_by_the_command():
  done = subprocess.run(
    [sys.executable, '-m', 'undistillable', 'models', 'x'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert "['x']; expected [classes] [pixels]" in done.stderr
