"""Theft without data: what DAFL and DeepInversion take from either teacher."""

from typing import Any

import ml_collections

from experiments import experiment
from undistillable.report import accuracy, curves


def robbed(config: ml_collections.ConfigDict, *attacks: str) -> dict[str, Any]:
  """The changes for the teacher and student that are robbed without data."""
  return {
    'teacher.model': config.grid.data_free_teacher,
    'students': (config.grid.data_free_student,),
    'attacks': attacks,
  }


EXPERIMENT = experiment.make(
  'data_free',
  'What can be stolen without any data?',
  experiment.jobs(
    lambda config: [robbed(config, 'kd', *config.grid.data_free_attacks)]
  ),
  lambda results, workdir, _: [
    accuracy.figure(results['summary']),
    curves.figure(results['summary'], curves.read(workdir, results['runs'])),
  ],
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
