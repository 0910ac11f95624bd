"""Leases: one owner at a time, and the dead own nothing."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from undistillable.storage import lease


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


def test_what_was_let_go_is_free_for_other_processes(tmp_path):
  """While the one that had it lives on."""
  code = (
    'import pathlib, sys; from undistillable.storage import lease; '
    'print(lease.owner(pathlib.Path(sys.argv[1])) is None)'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  told = []
  with lease.take(tmp_path):
    told.append(subprocess.check_output(command, text=True).strip())
  told.append(subprocess.check_output(command, text=True).strip())
  assert told == ['False', 'True']


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(tmp_path):
  code = (
    'import os, pathlib, signal, sys; from undistillable.storage import lease; '
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


def test_whoever_lives_on_this_machine_keeps_it_however_long_he_was_held_up(
  tmp_path,
):
  with lease.take(tmp_path):
    os.utime(tmp_path / 'owner.1', (1000, 1000))
    assert lease.take(tmp_path) is None
    assert lease.owner(tmp_path)['pid'] == os.getpid()


@pytest.mark.parametrize('fails', ['utime', 'join'])
def test_what_could_not_be_let_go_is_free_all_the_same(
  fails, tmp_path, monkeypatch
):
  """Or the process would wait for itself."""
  mine = lease.take(tmp_path)

  def fail(*args):
    raise OSError(5, 'Input/output error')

  with monkeypatch.context() as context:
    if fails == 'utime':
      context.setattr(lease.os, 'utime', fail)
      mine.release()
    else:
      context.setattr(mine._thread, 'join', fail)
      with pytest.raises(OSError, match='Input'):
        mine.release()
  with lease.take(tmp_path):
    assert lease.take(tmp_path) is None


def test_where_nobody_tells_when_a_process_began_its_lease_grows_old(
  tmp_path, monkeypatch
):
  """Another one may have its number after the next start of the machine."""
  monkeypatch.setattr(lease, '_state', lambda pid: (None, None))
  here = lease._here() | {'pid': os.getppid()}
  _foreign(tmp_path, 0.5 * lease.SECS_UNTIL_STALE, **here)
  assert lease.owner(tmp_path)['pid'] == os.getppid()
  _foreign(tmp_path, 2 * lease.SECS_UNTIL_STALE, **here)
  assert lease.owner(tmp_path) is None


def test_who_waits_says_for_whom(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(lease, '_SECS_UNTIL_SAID', 0.0)
  other = _foreign(tmp_path, 0)
  monkeypatch.setattr(lease.time, 'sleep', lambda secs: os.utime(other, (1, 1)))
  lease.wait(tmp_path).release()
  assert 'waits for process 1 on elsewhere, which writes to' in caplog.text


@pytest.mark.skipif(sys.platform != 'linux', reason='nobody else tells')
def test_another_process_of_the_same_number_is_another(tmp_path):
  parent = os.getppid()
  _, started = lease._state(parent)
  here = lease._here() | {'pid': parent}
  _foreign(tmp_path, 0, **here, started=started)
  assert lease.owner(tmp_path)
  _foreign(tmp_path, 0, **here, started='1')
  assert lease.owner(tmp_path) is None


@pytest.mark.skipif(sys.platform != 'linux', reason='nobody else tells')
def test_of_a_dead_process_that_nobody_asked_about_it_is_free(tmp_path):
  code = (
    'import pathlib, sys; from undistillable.storage import lease; '
    'lease.take(pathlib.Path(sys.argv[1]))'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  with subprocess.Popen(command) as process:
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease.owner(tmp_path) is None


def test_a_time_that_has_yet_to_come_is_that_of_a_copy(tmp_path):
  _foreign(tmp_path, -0.5 * lease.SECS_UNTIL_STALE)
  assert lease.owner(tmp_path)
  _foreign(tmp_path, -86400)
  assert lease.owner(tmp_path) is None


@pytest.mark.parametrize('name', ['owner.1 (1)', 'owner.1~', 'owner.bak'])
def test_what_only_looks_like_a_lease_is_none(name, tmp_path):
  (tmp_path / name).touch()
  assert lease.owner(tmp_path) is None
  with lease.take(tmp_path):
    assert (tmp_path / 'owner.1').exists()
  assert (tmp_path / name).exists()


def test_a_number_that_others_have_passed_is_too_late(tmp_path, monkeypatch):
  """One looks, and is held up; meanwhile two others have it in turn."""
  _foreign(tmp_path, 2 * lease.SECS_UNTIL_STALE)
  look, taken = lease._is_held, []

  def held_up(path):
    found = look(path)
    if not taken:
      taken.append(None)
      lease.take(tmp_path).release()
      taken.append(lease.take(tmp_path))
    return found

  monkeypatch.setattr(lease, '_is_held', held_up)
  assert lease.take(tmp_path) is None
  assert taken[1].stands()
  assert [path.name for path in tmp_path.iterdir()] == ['owner.3']
  taken[1].release()


def test_whoever_was_given_up_learns_of_it(tmp_path):
  mine = lease.take(tmp_path)
  lease.check(tmp_path)
  assert lease.stands(tmp_path)
  other = _foreign(tmp_path, 0).rename(tmp_path / 'owner.2')
  with pytest.raises(lease.LostError, match='gone to process 1 on elsewhere'):
    lease.check(tmp_path)
  before = other.stat().st_mtime
  mine.release()
  assert other.stat().st_mtime == before
  lease.check(tmp_path)  # Who has none writes as he likes.


def test_a_folder_that_was_made_anew_is_another(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  mine = lease.take(folder)
  shutil.rmtree(folder)
  folder.mkdir()
  _foreign(folder, 0)
  with pytest.raises(lease.LostError):
    lease.check(folder)
  mine.release()
  assert lease.owner(folder)['host'] == 'elsewhere'


def test_a_full_disk_is_named_and_keeps_nobody_out(tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as context:
    context.setattr(lease.json, 'dump', fail)
    with pytest.raises(OSError, match='owner.1') as error:
      lease.take(tmp_path)
  assert error.value.filename == str(tmp_path / 'owner.1')
  with lease.wait(tmp_path / 'new'):
    assert lease.take(tmp_path)


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
