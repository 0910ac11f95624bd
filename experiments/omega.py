"""Omega: what the weight of the divergence costs the owner and the thief."""

from collections.abc import Sequence

from experiments import experiment, sweep, varied
from undistillable.report import stats, sweeps


def _collect(
  entries: Sequence[stats.Entry], value_fn: sweeps.ValueFn
) -> list[sweeps.Cell]:
  """The cells by omega; at 0 stand the normal teacher and its students."""
  cells = sweeps.collect(entries, value_fn)
  at_zero = {'kind': 'protected', 'defense': 'nasty', 'x': 0.0}
  zero = [cell | at_zero for cell in cells if cell['kind'] == 'normal']
  protected = {c['model'] for c in cells if c['kind'] == 'protected'}
  return cells + [cell for cell in zero if cell['model'] in protected]


EXPERIMENT = experiment.make(
  'omega',
  'How large must omega be, and what does it cost?',
  experiment.jobs(
    lambda config: [
      {'students': config.grid.students, 'nasty.omega': omega}
      for omega in config.grid.omegas
      if omega > 0  # At 0 it is the normal one.
    ]
  ),
  sweep.figure(
    varied.of_owner('omega'),
    'omega',
    'Accuracy against omega',
    teachers=True,
    log_x=True,
    collect_fn=_collect,
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
