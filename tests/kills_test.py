"""A study that is killed again and again ends as if nobody had killed it."""

import dataclasses

import pytest

from experiments.benchmarks import kills
from undistillable.graph import plan

NUMBER = 20  # experiments/results/kills has 300, of more networks.


def _one_network(config):
  return plan.make(config, lambda job: [job.control('mlp')])


# Of which every start has the least to read and to trace.
SMALL = dataclasses.replace(kills.PLAIN, plan_fn=_one_network)


@pytest.mark.whole
def test_kills_change_no_bit(tmp_path, monkeypatch):
  # Of the process that all of them are forked from.
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'programs'))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  *_, record = kills.run(NUMBER, 0, tmp_path, defense='none', chosen=SMALL)
  assert record['differences'] == []
  assert record['kills'] == NUMBER
  assert sum(number > 0 for number in record['moments'].values()) > NUMBER // 3
