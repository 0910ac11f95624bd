"""Theft without data: what DAFL and DeepInversion take from either teacher."""

from collections.abc import Sequence

import ml_collections

from experiments import experiment
from undistillable.graph import plan, runs as runs_lib
from undistillable.report import accuracy, curves


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """Both teachers of every seed, robbed with data and without."""
  attacks = ('kd', *config.grid.data_free_attacks)
  return experiment.plan_all([robbed(config, attacks)])


def robbed(
  config: ml_collections.ConfigDict, attacks: Sequence[str]
) -> ml_collections.ConfigDict:
  """The main job of the teacher and student that are robbed without data."""
  changes = {
    'teacher.model': config.grid.data_free_teacher,
    'students': (config.grid.data_free_student,),
    'attacks': tuple(attacks),
  }
  return plan.vary(config, changes)


EXPERIMENT = experiment.make(
  'data_free',
  'What can be stolen without any data?',
  _plan,
  lambda results, workdir, _: [
    accuracy.figure(results['summary']),
    curves.figure(results['summary'], curves.read(workdir, results['runs'])),
  ],
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
