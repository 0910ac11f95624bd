"""Students larger than their teacher: do they shake the poison off?"""

import ml_collections

from experiments import experiment
from undistillable.graph import plan, runs as runs_lib
from undistillable.report import accuracy


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The main job with the students of grid.stronger_students."""
  students = config.grid.stronger_students
  return experiment.plan_all([plan.vary(config, {'students': students})])


EXPERIMENT = experiment.make(
  'stronger_students',
  'Do students larger than their teacher learn from a nasty one?',
  _plan,
  lambda results, *_: [accuracy.figure(results['summary'])],
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
