"""Omega: what the weight of the divergence costs the owner and the thief."""

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """One protected teacher for each omega; at 0 it is the normal one."""
  omegas = [omega for omega in config.grid.omegas if omega > 0]
  return sweep.runs(config, 'defense.omega', omegas)


EXPERIMENT = experiment.Experiment(
  'omega',
  'How large must omega be, and what does it cost?',
  _plan,
  sweep.figure(
    varied.omega, 'omega', 'Accuracy against omega', teachers=True, log_x=True
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
