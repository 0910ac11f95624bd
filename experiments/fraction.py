"""The share of the training samples that the thief has."""

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The thief's share varies; the owner always has all."""
  return sweep.runs(config, 'fraction', config.grid.fractions)


EXPERIMENT = experiment.Experiment(
  'fraction',
  'Does a nasty teacher harm a thief with few samples too?',
  _plan,
  sweep.figure(
    sweep.collect(varied.share),
    'share of the training samples',
    'Accuracy against the share of samples',
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
