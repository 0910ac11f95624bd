"""Who trains what, since when, how far, and what is left."""

import json
import re
import runpy

import pytest

from undistillable import disk, errors, lease, status, study


@pytest.fixture
def workdir(tmp_path):
  """Two studies that share a run; runs of every state."""
  for folder, names in (('', 'abcde'), ('omega', 'ef')):
    (tmp_path / folder).mkdir(exist_ok=True)
    runs = [{'id': n, 'label': f'student {n}', 'epochs': 30} for n in names]
    disk.write_json(tmp_path / folder / status.PLAN, runs)
  for name in 'abde':
    (tmp_path / 'runs' / name).mkdir(parents=True)
  for name, of in (('a', 'finished'), ('b', 'diverged')):
    found = {'status': of, 'epochs': 30}
    disk.write_json(tmp_path / 'runs' / name / 'result.json', found)
  lines = ''.join(json.dumps({'epoch': i}) + '\n' for i in (1, 2, 3))
  for name in 'de':
    # Killed while it wrote.
    (tmp_path / 'runs' / name / 'metrics.jsonl').write_text(lines + '{"ep')
  return tmp_path


def test_every_run_is_in_the_state_that_its_folder_shows(workdir):
  with lease.take(workdir / 'runs' / 'e'):
    found = {row['id']: row for row in status.rows(workdir)}
    text = status.show(list(found.values()))
  assert ''.join(found) == 'abcdef'
  assert [(row['state'], row['done']) for row in found.values()] == [
    ('finished', 30),
    ('diverged', 30),
    ('waiting', 0),
    ('stopped', 3),
    ('in training', 3),
    ('waiting', 0),
  ]
  first, *_, last = text.splitlines()
  assert re.fullmatch(
    r'student e  in training +3 of 30  process \d+ on .*, since \d{4}-.*', first
  )
  assert last == (
    '6 runs: 1 in training, 1 stopped, 1 diverged, 2 waiting, 1 finished'
  )
  (row,) = [r for r in status.rows(workdir) if r['id'] == 'e']
  assert row['state'] == 'stopped'  # It was let go.


def test_looking_changes_nothing(workdir):
  def files():
    return {
      path: path.stat().st_mtime_ns
      for path in workdir.rglob('*')
      if path.is_file()
    }

  before = files()
  status.main([f'--workdir={workdir}'])
  assert files() == before


def test_where_nothing_was_begun_one_sentence_says_so(tmp_path):
  with pytest.raises(errors.InputError, match='no study was begun there'):
    status.rows(tmp_path)
  with pytest.raises(SystemExit, match='^error: .* no study was begun there'):
    status.main([f'--workdir={tmp_path}'])


def test_a_study_shows_it_as_well(workdir, monkeypatch, capsys):
  argv = ['study', 'status', f'--workdir={workdir}']
  monkeypatch.setattr('sys.argv', argv)
  with pytest.warns(RuntimeWarning, match='found in sys.modules'):
    runpy.run_module(study.__name__, run_name='__main__')
  assert (
    capsys.readouterr().out == status.show(list(status.rows(workdir))) + '\n'
  )
  monkeypatch.setattr('sys.argv', ['study'])
  with (
    pytest.warns(RuntimeWarning, match='found in sys.modules'),
    pytest.raises(SystemExit, match='usage'),
  ):
    runpy.run_module(study.__name__, run_name='__main__')
