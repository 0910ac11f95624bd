"""Omega: what the weight of the divergence costs the owner and the thief."""

from collections.abc import Sequence

import ml_collections

from experiments import experiment, sweep, varied
from undistillable import runs as runs_lib
from undistillable.analysis import records, sweeps


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """One protected teacher for each omega; at 0 it is the normal one."""
  omegas = [omega for omega in config.grid.omegas if omega > 0]
  return sweep.runs(config, 'nasty.omega', omegas)


def _collect(runs: Sequence[records.Run]) -> list[sweeps.Cell]:
  """The cells by omega; at 0 stand the normal teacher and its students."""
  cells = sweeps.collect(runs, varied.omega)
  at_zero = {'source': 'protected', 'x': 0.0}
  zero = [cell | at_zero for cell in cells if cell['source'] == 'normal']
  protected = {c['model'] for c in cells if c['source'] == 'protected'}
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
