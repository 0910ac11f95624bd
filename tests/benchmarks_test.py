"""What a machine that is lent for minutes measures is kept, and done once."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments.benchmarks import growth
from undistillable.report import document, draw

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_slices_go_on_where_they_stopped(tmp_path):
  def run(minutes):
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'experiments.benchmarks.slices'),
        *(f'--out={tmp_path}', f'--minutes={minutes}', '--study='),
        *('--networks=mlp', '--batches=8,100000000', '--dtypes=float32'),
      ],
      cwd=ROOT,
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
      capture_output=True,
      text=True,
      check=True,
    )
    return done.stdout

  path = tmp_path / 'steps.jsonl'
  assert 'go on with the same command' in run(0.0)
  assert not path.read_text()
  path.write_text('{"network": "ml')  # Somebody pulled the plug.
  run(5.0)
  small, large = path.read_text().splitlines()
  assert json.loads(small)['images_per_s'] > 0
  assert 'failed' in json.loads(large)  # As for want of memory.
  before = path.read_text()
  assert not run(5.0)
  assert path.read_text() == before


@pytest.mark.slow
def test_growth_measures_every_part_anew(tmp_path):
  def run(*arguments):
    return subprocess.run(
      [
        *(sys.executable, '-m', 'experiments.benchmarks.growth', '--quick'),
        *(f'--out={tmp_path}', *arguments),
      ],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
    ).stdout

  shown = run()
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results.keys() == growth.PARTS.keys()
  devices = [row['devices'] for row in results['devices']['rows']]
  assert devices == [1, 2, 4, 8]
  assert (tmp_path / 'figures' / 'growth.png').is_file()
  again = run('--parts=images')
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found.pop('images') != results.pop('images')
  assert found == results
  assert len(again.splitlines()) == len(shown.splitlines())


def test_what_is_told_of_growth_is_what_was_recorded(tmp_path):
  folder = ROOT / 'experiments' / 'results' / 'growth'
  results = json.loads((folder / 'results.json').read_text())
  assert growth.table(results) in (folder / 'README.md').read_text()
  for line in growth.table(results).splitlines():
    assert line in (ROOT / 'docs' / 'scale.md').read_text()
  shown = draw.render(growth.figure(results), tmp_path)
  assert isinstance(shown[1], document.Picture)


def test_growth_shows_a_part_that_is_alone(tmp_path):
  path = ROOT / 'experiments' / 'results' / 'growth' / 'results.json'
  results = json.loads(path.read_text())
  whole = set(growth.table(results).splitlines())
  alone = {name: {name: found} for name, found in results.items()}
  tables = {k: set(growth.table(x).splitlines()) for k, x in alone.items()}
  head = set.intersection(*tables.values())
  assert len(head) == 2
  assert set.union(*tables.values()) == whole
  assert all(lines - head for lines in tables.values())
  for name, title in (('classes', 'by classes'), ('streams', 'streamed')):
    _, shown = draw.render(growth.figure(alone[name]), tmp_path)
    assert len(shown.panels) == 1
    assert shown.alt.endswith(f'{title}.')
  # Its bytes are in the table.
  _, shown = draw.render(growth.figure(alone['memory']), tmp_path)
  assert shown.text == 'No part was measured that is shown here.'
