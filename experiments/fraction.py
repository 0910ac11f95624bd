"""The share of the training samples that the thief has; the owner has all."""

from experiments import experiment, sweep, varied

EXPERIMENT = experiment.make(
  'fraction',
  'Does a nasty teacher harm a thief with few samples too?',
  sweep.runs_fn('fraction', 'fractions'),
  sweep.figure(
    varied.share,
    'share of the training samples',
    'Accuracy against the share of samples',
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
