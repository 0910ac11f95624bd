"""Omega: what the weight of the divergence costs the owner and the thief."""

from collections.abc import Sequence

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib
from undistillable.report import stats, sweeps


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """One protected teacher for each omega; at 0 it is the normal one."""
  omegas = [omega for omega in config.grid.omegas if omega > 0]
  return sweep.runs(config, 'nasty.omega', omegas)


def _collect(entries: Sequence[stats.Entry]) -> list[sweeps.Cell]:
  """The cells by omega; at 0 stand the normal teacher and its students."""
  cells = sweeps.collect(entries, varied.omega)
  at_zero = {'kind': 'protected', 'defense': 'nasty', 'x': 0.0}
  zero = [cell | at_zero for cell in cells if cell['kind'] == 'normal']
  protected = {c['model'] for c in cells if c['kind'] == 'protected'}
  return cells + [cell for cell in zero if cell['model'] in protected]


EXPERIMENT = experiment.Experiment(
  'omega',
  'How large must omega be, and what does it cost?',
  _plan,
  sweep.figure(
    _collect, 'omega', 'Accuracy against omega', teachers=True, log_x=True
  ),
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
