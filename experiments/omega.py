"""Omega: what the weight of the divergence costs the owner and the thief."""

from collections.abc import Mapping
from typing import Any

from experiments import experiment, varied
from undistillable.report import draw, sweeps


def _figures(results: Mapping[str, Any], *_: Any) -> list[draw.Figure]:
  """By omega; at 0 stand the normal teacher and its students."""
  cells = sweeps.collect(results['runs'], varied.of_owner('omega'))
  at_zero = {'kind': 'protected', 'defense': 'nasty', 'x': 0.0}
  zero = [cell | at_zero for cell in cells if cell['kind'] == 'normal']
  protected = {c['model'] for c in cells if c['kind'] == 'protected'}
  cells += [cell for cell in zero if cell['model'] in protected]
  return [sweeps.figure(cells, 'Accuracy against omega', 'omega', log_x=True)]


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
  _figures,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
