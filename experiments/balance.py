"""Balance: how sure an adversary must be for its teacher to become nasty.

Not of the article, which chooses omega by hand; see `nasty.conditions`.
"""

from experiments import experiment, sweep, varied

EXPERIMENT = experiment.make(
  'balance',
  'Does a teacher leave its adversary where push exceeds hold?',
  sweep.runs_fn('nasty.balance', 'balances'),
  sweep.figure(
    varied.of_owner('balance'),
    'push / hold',
    'Accuracy against push / hold',
    teachers=True,
    log_x=True,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
