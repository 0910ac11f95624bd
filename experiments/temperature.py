"""The temperature of distillation, tau_S."""

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The thief's temperature varies, the owner's does not."""
  return sweep.runs(config, 'kd.temperature', config.grid.temperatures)


EXPERIMENT = experiment.Experiment(
  'temperature',
  'Does a thief who distils at another temperature fare better?',
  _plan,
  sweep.figure(
    sweep.collect(varied.setting('temperature')),
    'temperature of distillation',
    'Accuracy against the temperature',
    log_x=True,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
