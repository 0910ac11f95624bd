"""Leases: one owner at a time, and the dead own nothing."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from undistillable import lease


def test_a_lease_is_had_by_one_until_it_is_released(tmp_path):
  assert lease.owner(tmp_path) is None
  with lease.take(tmp_path):
    assert lease.take(tmp_path) is None
    owner = lease.owner(tmp_path)
    assert lease.named(owner).startswith(f'process {os.getpid()} on ')
    assert owner['since']
  assert lease.owner(tmp_path) is None
  with lease.take(tmp_path):
    assert lease.take(tmp_path) is None
  assert [path.name for path in tmp_path.iterdir()] == ['owner.2']


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(tmp_path):
  code = (
    'import os, pathlib, signal, sys; from undistillable import lease; '
    'lease.take(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)'
  )
  subprocess.run([sys.executable, '-c', code, tmp_path], check=False)
  assert (tmp_path / 'owner.1').exists()
  with lease.take(tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ['owner.2']


def _foreign(folder, age, **changes):
  """A lease that a process of another machine has renewed `age` ago."""
  path = folder / 'owner.1'
  path.write_text(json.dumps({'host': 'elsewhere', 'pid': 1} | changes))
  os.utime(path, (time.time() - age,) * 2)
  return path


def test_the_lease_of_another_machine_is_free_when_it_is_not_renewed(tmp_path):
  _foreign(tmp_path, 0.5 * lease.SECS_UNTIL_STALE)
  assert lease.take(tmp_path) is None
  assert lease.named(lease.owner(tmp_path)) == 'process 1 on elsewhere'
  _foreign(tmp_path, 2 * lease.SECS_UNTIL_STALE)
  assert lease.owner(tmp_path) is None
  with lease.take(tmp_path):
    pass


def test_a_lease_is_renewed_while_its_owner_lives(tmp_path, monkeypatch):
  monkeypatch.setattr(lease, '_SECS_BETWEEN_BEATS', 0.01)
  with lease.take(tmp_path):
    path = tmp_path / 'owner.1'
    os.utime(path, (1000, 1000))
    end = time.monotonic() + 10
    while path.stat().st_mtime == 1000 and time.monotonic() < end:
      time.sleep(0.01)
    assert path.stat().st_mtime > 1000


@pytest.mark.parametrize('content', ['', '[]', '{"pid": 1'])
def test_a_lease_that_says_nothing_yet_is_held(content, tmp_path):
  (tmp_path / 'owner.7').write_text(content)
  assert lease.take(tmp_path) is None


def test_of_many_at_once_one_gets_it(tmp_path):
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for n in range(50):
      folder = tmp_path / str(n)
      folder.mkdir()
      if n % 2:  # Left by the dead.
        _foreign(folder, 2 * lease.SECS_UNTIL_STALE)
      taken = [one for one in pool.map(lease.take, [folder] * 8) if one]
      assert len(taken) == 1
      taken[0].release()


def test_an_owner_is_seen_where_nothing_can_be_written(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise OSError(30, 'Read-only file system')

  with lease.take(tmp_path):
    monkeypatch.setattr(pathlib.Path, 'touch', refuse)
    monkeypatch.setattr(pathlib.Path, 'unlink', refuse)
    assert lease.owner(tmp_path)['pid'] == os.getpid()
