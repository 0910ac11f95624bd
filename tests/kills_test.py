"""A study that is killed again and again ends as if nobody had killed it."""

import pytest

from experiments.benchmarks import kills


@pytest.mark.parametrize(
  'number', [4, pytest.param(20, marks=pytest.mark.slow)]
)
def test_kills_change_no_bit(number, tmp_path, monkeypatch):
  # Of the process that all of them are forked from.
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'programs'))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  *_, record = kills.run(
    number, 0, tmp_path, defense='none', chosen=kills.PLAIN
  )
  assert record['differences'] == []
  assert record['kills'] == number
  assert sum(number > 0 for number in record['moments'].values()) > number // 3
