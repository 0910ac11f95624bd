"""Alpha: how far a thief trusts the teacher, how far the labels."""

from experiments import experiment, sweep, varied

EXPERIMENT = experiment.make(
  'alpha',
  'Does a thief who trusts the labels more fare better?',
  sweep.runs_fn('kd.alpha', 'alphas'),
  sweep.figure(
    varied.setting('alpha'),
    'alpha, the weight of the teacher',
    'Accuracy against alpha',
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
