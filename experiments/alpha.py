"""Alpha: how far a thief trusts the teacher, how far the labels."""

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The weight of the teacher varies."""
  return sweep.runs(config, 'kd.alpha', config.grid.alphas)


EXPERIMENT = experiment.Experiment(
  'alpha',
  'Does a thief who trusts the labels more fare better?',
  _plan,
  sweep.figure(
    sweep.collect(varied.setting('alpha')),
    'alpha, the weight of the teacher',
    'Accuracy against alpha',
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
