"""What the experiments share that vary one setting."""

from collections.abc import Mapping
from typing import Any

from experiments import experiment
from undistillable.report import draw, sweeps


def runs_fn(field: str, grid: str) -> experiment.PlanFn:
  """`plan_fn` of an experiment: the main job of every value, by grid.students.

  Args:
    field: a dotted name, which is varied.
    grid: of the values, in config.grid.
  """
  return experiment.jobs(
    lambda config: [
      {'students': config.grid.students, field: value}
      for value in config.grid[grid]
    ]
  )


def figure(
  value_fn: sweeps.ValueFn,
  x_label: str,
  heading: str,
  *,
  teachers: bool = False,
  log_x: bool = False,
) -> experiment.FiguresFn:
  """`figures_fn` of an experiment: accuracy against a value, as lines.

  Args:
    value_fn: the value of a network; see `varied`.
    x_label: what is varied.
    heading: of the figure.
    teachers: whether they have a panel too.
    log_x: whether the value grows by factors.
  """

  def figures(results: Mapping[str, Any], *_: Any) -> list[draw.Figure]:
    cells = sweeps.collect(results['runs'], value_fn)
    if not teachers:
      cells = [cell for cell in cells if cell['role'] == 'student']
    return [sweeps.figure(cells, heading, x_label, log_x=log_x)]

  return figures
