"""Theft without data: what DAFL and DeepInversion take from either teacher."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from experiments import experiment
from undistillable.graph import plan, runs as runs_lib
from undistillable.report import accuracy, curves, draw


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """Both teachers of every seed, robbed with data and without."""
  attacks = ('kd', *config.grid.data_free_attacks)
  return experiment.plan_all([robbed(config, attacks)])


def robbed(
  config: ml_collections.ConfigDict, attacks: Sequence[str]
) -> ml_collections.ConfigDict:
  """The main job of the teacher and student that are robbed without data."""
  changes = {
    'teacher.model': config.grid.data_free_teacher,
    'students': (config.grid.data_free_student,),
    'attacks': tuple(attacks),
  }
  return plan.vary(config, changes)


def _figures(
  results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
) -> list[draw.Figure]:
  summary = results['summary']
  metrics = curves.read(workdir, results['runs'])
  return [accuracy.figure(summary), curves.figure(summary, metrics)]


EXPERIMENT = experiment.make(
  'data_free',
  'What can be stolen without any data?',
  _plan,
  _figures,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
