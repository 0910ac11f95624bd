"""Adversaries of another architecture than the teacher they undermine."""

from experiments import experiment, sweep, varied

EXPERIMENT = experiment.make(
  'adversary',
  'Must the adversary have the architecture of the teacher?',
  experiment.jobs(
    lambda config: [
      {'students': config.grid.students, 'adversary.model': model}
      for model in (config.adversary.model, *config.grid.adversaries)
    ]
  ),
  sweep.figure(
    varied.adversary,
    'adversary',
    'Accuracy by adversary',
    teachers=True,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
