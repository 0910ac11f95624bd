"""Students larger than their teacher: do they shake the poison off?"""

import ml_collections

from experiments import experiment
from undistillable import plan, runs as runs_lib
from undistillable.analysis import main_figures, summary


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The main job with the students of grid.stronger_students."""
  students = config.grid.stronger_students
  return experiment.plan_all([plan.vary(config, {'students': students})])


def _figures(results, workdir, folder):
  shown = summary.summarize(results['runs'])
  return [main_figures.accuracy(shown)]


EXPERIMENT = experiment.Experiment(
  'stronger_students',
  'Do students larger than their teacher learn from a nasty one?',
  _plan,
  _figures,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
