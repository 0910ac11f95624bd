"""Paths that users give: ~ is their home everywhere, a URL nowhere."""

import pathlib
import types

import config_files
import numpy as np
import pytest

from undistillable import data, errors, interop, study
from undistillable.data import __main__ as data_main
from undistillable.graph import plan
from undistillable.storage import paths


@pytest.fixture
def home(tmp_path, monkeypatch):
  """A home that is empty."""
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  ('given', 'expected'),
  [('~/x', '{}/x'), ('~', '{}'), ('x/~', 'x/~'), (pathlib.Path('~/x'), '{}/x')],
)
def test_home_is_expanded(given, expected, home):
  assert paths.local(given, 'workdir') == pathlib.Path(expected.format(home))


@pytest.mark.parametrize(
  'url',
  ['gs://b/x', 's3://b', 'http://a.b/c', 'file:///tmp', pathlib.Path('gs://b')],
)
def test_a_url_is_refused(url):
  with pytest.raises(errors.InputError, match='^workdir=.* is no local path;'):
    paths.local(url, 'workdir')


def test_nothing_and_nobody_s_home_are_refused():
  for path, message in (('', 'is empty'), ('~no_such_user/x', 'home')):
    with pytest.raises(errors.InputError, match=message):
      paths.local(path, 'workdir')


def _config(**changes):
  small = {'teacher.model': 'cnn8', 'limit': 200, 'progress': False}
  return plan.vary(config_files.load('digits'), small | changes)


@pytest.mark.parametrize(
  ('workdir', 'changes', 'message'),
  [
    ('gs://bucket/x', {}, 'workdir=gs.* is no local path'),
    ('work', {'data_dir': 's3://bucket'}, 'data_dir=s3.* is no local path'),
    ('work', {'teacher.init_from': 'gs://x/y.pt'}, 'init_from=gs.* no local p'),
    ('work', {'limit': 16}, 'larger than the 14 training examples'),
    ('work', {'dataset': 'cifar10'}, 'cifar10 is not prepared in'),
    ('file/work', {}, 'file is a file, expected a folder'),
  ],
)
def test_what_a_study_refuses_leaves_nothing(
  workdir, changes, message, home, monkeypatch
):
  split = {
    'image': np.zeros((50, 8, 8, 1), np.uint8),
    'label': np.arange(50) % 10,
  }
  few = types.SimpleNamespace(train=split, test=split, class_names='0123456789')
  monkeypatch.setattr(data, 'load', lambda name, data_dir: few)
  (home / 'file').touch()
  changes = {'data_dir': '~/data'} | changes
  with pytest.raises(errors.InputError, match=message):
    study.run(_config(**changes), workdir)
  assert [path.name for path in home.iterdir()] == ['file']


def test_weights_lie_at_home(home):
  (home / 'w.safetensors').write_bytes(b'any')
  planned = plan.make(_config(**{'teacher.init_from': '~/w.safetensors'}))
  assert planned[0].init_from == str(home / 'w.safetensors')
  interop.save('~/v.safetensors', {'x': np.ones(1, np.float32)})
  assert (home / 'v.safetensors').is_file()
  assert list(interop.load('~/v.safetensors')) == ['x']


@pytest.mark.parametrize('command', ['check', 'list', 'prepare'])
def test_data_lie_at_home(command, home, capsys):
  name = [] if command == 'list' else ['digits']
  assert data_main.main([command, *name, '--data_dir=~/data']) == 0
  assert '~' not in capsys.readouterr().out
  assert data_main.main([command, *name, '--data_dir=gs://b/data']) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: data_dir=gs://b/data is no local path')
  assert len(said.splitlines()) == 1
  assert {path.name for path in home.iterdir()} <= {'data'}


def test_an_archive_is_no_url(home):
  with pytest.raises(errors.InputError, match='archive=https.* no local path'):
    data.prepare('cifar10', data_dir=home, archive='https://x.y/cifar.tar.gz')
