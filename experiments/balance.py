"""Balance: how sure an adversary must be for its teacher to become nasty.

Not of the article, which chooses omega by hand; see `nasty.conditions`.
"""

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """One protected teacher for each balance."""
  return sweep.runs(config, 'nasty.balance', config.grid.balances)


EXPERIMENT = experiment.Experiment(
  'balance',
  'Does a teacher leave its adversary where push exceeds hold?',
  _plan,
  sweep.figure(
    sweep.collect(varied.balance),
    'push / hold',
    'Accuracy against push / hold',
    teachers=True,
    log_x=True,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
