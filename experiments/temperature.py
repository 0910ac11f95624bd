"""The temperature of distillation, tau_S: of the thief, not of the owner."""

from experiments import experiment, sweep, varied

EXPERIMENT = experiment.make(
  'temperature',
  'Does a thief who distils at another temperature fare better?',
  sweep.runs_fn('kd.temperature', 'temperatures'),
  sweep.figure(
    varied.setting('temperature'),
    'temperature of distillation',
    'Accuracy against the temperature',
    log_x=True,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
