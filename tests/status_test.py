"""Who trains what, since when, how far, and what is left."""

import json
import os
import re
import runpy

import pytest

from undistillable import errors, status, study
from undistillable.storage import disk, lease


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


@pytest.mark.parametrize(
  'content', ['', '{"status": ', '{}', '[]', '{"status": "odd"}']
)
def test_a_result_that_cannot_be_read_is_that_of_one_run(content, workdir):
  (workdir / 'runs' / 'a' / 'result.json').write_text(content)
  found = {row['id']: row['state'] for row in status.rows(workdir)}
  assert found['a'] == 'damaged'
  assert found['b'] == 'diverged'
  assert '1 damaged' in status.show(status.rows(workdir))


@pytest.mark.parametrize('content', ['[{"id"', '{}', '[3, {"id": "x"}]'])
def test_a_plan_that_cannot_be_read_is_that_of_one_study(content, workdir):
  (workdir / 'omega' / status.PLAN).write_text(content)
  assert [row['id'] for row in status.rows(workdir)] == list('abcde')


def test_what_was_damaged_and_is_trained_again_is_in_training(workdir):
  folder = workdir / 'runs' / 'a'
  with lease.take(folder):
    states = [row['state'] for row in status.rows(workdir)]
    assert states[0] == 'finished'  # A moment ago.
    (folder / 'metrics.jsonl').write_text('{"epoch": 1}\n')
    later = (folder / 'result.json').stat().st_mtime + 1
    os.utime(folder / 'metrics.jsonl', (later, later))
    row, *_ = status.rows(workdir)
    assert (row['state'], row['done']) == ('in training', 1)


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
