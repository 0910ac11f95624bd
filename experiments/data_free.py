"""Theft without data: what DAFL and DeepInversion take from either teacher."""

import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments import experiment, teachers, thefts
from undistillable import plan, runs as runs_lib
from undistillable.report import accuracy, curves, draw, summary


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """Both teachers of every seed, robbed with data and without."""
  planned = thefts.main_job(config)
  for pair in list(teachers.pairs(planned)):
    for teacher in pair:
      for name in config.data_free.thefts:
        planned += thefts.THEFTS[name](config, pair[1].seed, teacher)
  return plan.in_order(planned)


def _figures(
  results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
) -> list[draw.Figure]:
  shown = summary.summarize(results['runs'])
  metrics = curves.read(workdir, results['runs'])
  return [accuracy.figure(shown), curves.figure(shown, metrics)]


EXPERIMENT = experiment.Experiment(
  'data_free',
  'What can be stolen without any data?',
  _plan,
  _figures,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
