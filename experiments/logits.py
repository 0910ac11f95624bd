"""Answers of normal and nasty teachers: peaks, entropy, rank of the truth.

Of a few images in full, and counted over the whole test set.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import experiment, teachers
from undistillable import runs as runs_lib, stores
from undistillable.report import (
  draw,
  logits,
  peaks,
  responses,
  summary as summary_lib,
)


def _measure(
  runs: Sequence[runs_lib.Run], store: stores.Store, folder: pathlib.Path
) -> dict[str, Any]:
  """{'normal' | 'nasty': {seed: `peaks.statistics`}}."""
  responses.write(runs, store, folder)
  found: dict[str, Any] = {name: {} for name in teachers.NAMES}
  for pair in teachers.pairs(runs):
    for name, run in zip(teachers.NAMES, pair, strict=True):
      found[name][str(run.seed)] = peaks.statistics(
        teachers.answers(run, store),
        store.task.test['label'],
        # The temperature that the protected teacher was trained against.
        pair[1].settings['temperature'],
      )
  return found


def _figures(
  results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
) -> list[draw.Figure]:
  found = {k: list(v.values()) for k, v in results['measurements'].items()}
  summary = summary_lib.summarize(results['runs'])
  return [logits.figure(summary, responses.read(folder)), peaks.figure(found)]


EXPERIMENT = experiment.Experiment(
  'logits',
  'What do normal and nasty teachers answer?',
  teachers.plan_teachers,
  _figures,
  _measure,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
