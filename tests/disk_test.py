"""Checksums: whatever changes in a file is noticed."""

import random
import shutil
import subprocess

import damage
import pytest

from undistillable.storage import disk

NAMES = ('a.json', 'data', 'gone')


@pytest.fixture
def folder(tmp_path):
  """Some files, of which most are written down."""
  (tmp_path / 'data' / 'd').mkdir(parents=True)
  (tmp_path / 'data' / '.d').mkdir()
  for name in ('a.json', 'data/x', 'data/d/y', 'other', 'data/.d/hidden'):
    (tmp_path / name).write_bytes(name.encode() * 9)
  disk.sign(tmp_path, NAMES, {'last.json': b'{}\n'})
  (tmp_path / 'last.json').write_bytes(b'{}\n')
  return tmp_path


def test_a_file_that_is_being_replaced_is_not_there(folder, monkeypatch):
  """Others look into a folder while one writes it."""
  digest = disk._digest_of

  def gone(path):
    if path.name == 'y':
      path.unlink()
    return digest(path)

  monkeypatch.setattr(disk, '_digest_of', gone)
  assert disk.damaged(folder, NAMES) == ['data/d/y']


def test_what_was_written_is_whole(folder):
  assert disk.damaged(folder, (*NAMES, 'last.json')) == []
  assert disk.are_whole(folder, ('a.json', 'data', 'last.json'))
  assert not disk.are_whole(folder, ('a.json', 'gone'))
  assert not disk.are_whole(folder, ('other',))
  assert disk.restored(folder / 'last.json', b'{}\n')
  assert not disk.restored(folder / 'last.json', b'{} ')
  assert not disk.restored(folder / 'other', b'other' * 9)
  assert disk.contradict(folder, 'last.json', b'{} ')
  assert not disk.contradict(folder, 'last.json', b'{}\n')
  assert not disk.contradict(folder, 'other', b'any')


@pytest.mark.parametrize('name', ['a.json', 'data/x', 'data/d/y', 'last.json'])
@pytest.mark.parametrize('change', [*damage.CHANGES, 'removed'])
def test_a_file_that_changed_is_damaged(folder, name, change):
  if change == 'removed':
    (folder / name).unlink()
  else:
    damage.CHANGES[change](folder / name, random.Random(0))
  assert disk.damaged(folder, (*NAMES, 'last.json')) == [name]


def test_a_file_that_nobody_wrote_down_is_damaged(folder):
  (folder / 'data' / 'new').touch()
  assert disk.damaged(folder, NAMES) == ['data/new']
  (folder / 'gone').touch()
  assert disk.damaged(folder, NAMES) == ['data/new', 'gone']


def test_hidden_files_come_and_go(folder):
  disk.sign(folder)
  for name in ('.ipynb_checkpoints', 'data/.d/more'):
    (folder / name).mkdir()
    (folder / name / 'a-checkpoint.json').touch()
  (folder / 'data' / '.hidden').touch()
  assert disk.damaged(folder) == []


def test_a_sum_that_changed_is_noticed(folder):
  path, rng = folder / disk.SUMS, random.Random(0)
  good = path.read_bytes()
  for index in range(len(good)):
    path.write_bytes(damage.flipped(good, rng, index))
    assert disk.damaged(folder, (*NAMES, 'last.json')), index
    # Missing is but the end of the last line.
    path.write_bytes(good[:index])
    whole = index == len(good) - 1
    assert bool(disk.damaged(folder, (*NAMES, 'last.json'))) != whole, index


def test_where_nothing_was_written_down_nothing_is_damaged(folder):
  (folder / disk.SUMS).unlink()
  assert disk.damaged(folder, NAMES) == []
  assert not disk.are_whole(folder, ('a.json',))


def test_all_of_a_folder_may_be_written_down(folder):
  disk.sign(folder)
  assert disk.damaged(folder) == []
  shutil.rmtree(folder / 'data')
  (folder / 'new').touch()
  assert disk.damaged(folder) == ['data/d/y', 'data/x', 'new']


@pytest.mark.skipif(not shutil.which('sha256sum'), reason='no sha256sum')
def test_sha256sum_agrees(folder):
  command = ['sha256sum', '--check', '--strict', disk.SUMS]
  subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
  damage.cut(folder / 'data' / 'x')
  done = subprocess.run(
    command, cwd=folder, check=False, capture_output=True, text=True
  )
  assert 'data/x: FAILED' in done.stdout
