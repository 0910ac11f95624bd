"""Adversaries of another architecture than the teacher they undermine."""

import ml_collections

from experiments import experiment, sweep, varied
from undistillable.graph import plan, runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """One protected teacher for each adversary, the usual one among them."""
  config = plan.vary(config, {'students': config.grid.students})
  return experiment.plan_all(
    [config]
    + [
      plan.vary(config, {'adversary.model': model})
      for model in config.grid.adversaries
    ]
  )


EXPERIMENT = experiment.make(
  'adversary',
  'Must the adversary have the architecture of the teacher?',
  _plan,
  sweep.figure(
    varied.adversary,
    'adversary',
    'Accuracy by adversary',
    teachers=True,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
