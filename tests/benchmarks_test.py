"""What a machine that is lent for minutes measures is kept, and done once."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

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
