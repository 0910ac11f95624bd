"""What the experiments share that vary one setting."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from experiments import experiment
from undistillable import plan, runs as runs_lib
from undistillable.report import draw, stats, sweep, sweeps


def runs(
  config: ml_collections.ConfigDict, field: str, values: Sequence[Any]
) -> list[runs_lib.Run]:
  """The main job's runs for every value of one field, with grid.students.

  Args:
    config: see configs/digits.py.
    field: a dotted name.
    values: that it takes.
  """
  return experiment.plan_all(
    plan.vary(config, {'students': config.grid.students, field: value})
    for value in values
  )


def collect(
  value_fn: sweeps.ValueFn,
) -> Callable[[Sequence[stats.Entry]], list[sweeps.Cell]]:
  """`sweeps.collect` by this value."""
  return functools.partial(sweeps.collect, value_fn=value_fn)


def figure(
  collect_fn: Callable[[Sequence[stats.Entry]], list[sweeps.Cell]],
  x_label: str,
  heading: str,
  *,
  teachers: bool = False,
  log_x: bool = False,
) -> Any:
  """`figures_fn` of an experiment: accuracy against the value, as lines.

  Args:
    collect_fn: `entries -> cells`, as `collect` makes one.
    x_label: what is varied.
    heading: of the figure.
    teachers: whether they have a panel too.
    log_x: whether the value grows by factors.
  """

  def figures(
    results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
  ) -> list[draw.Figure]:
    cells = collect_fn(results['runs'])
    if not teachers:
      cells = [cell for cell in cells if cell['role'] == 'student']
    return [sweep.figure(cells, heading, x_label, log_x=log_x)]

  return figures
