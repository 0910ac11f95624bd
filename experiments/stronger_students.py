"""Students larger than their teacher: do they shake the poison off?"""

from experiments import experiment
from undistillable.report import accuracy

EXPERIMENT = experiment.make(
  'stronger_students',
  'Do students larger than their teacher learn from a nasty one?',
  experiment.jobs(lambda config: [{'students': config.grid.stronger_students}]),
  lambda results, *_: [accuracy.figure(results['summary'])],
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
