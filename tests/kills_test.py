"""A study that is killed again and again ends as if nobody had killed it."""

from experiments.benchmarks import kills

NUMBER = 20  # experiments/results/kills has 300.


def test_kills_change_no_bit(tmp_path, monkeypatch):
  # Of the process that all of them are forked from.
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'programs'))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  *_, record = kills.run(
    NUMBER, 0, tmp_path, defense='none', chosen=kills.PLAIN
  )
  assert record['differences'] == []
  assert record['kills'] == NUMBER
  assert sum(number > 0 for number in record['moments'].values()) > NUMBER // 3
