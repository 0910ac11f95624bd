"""Answers of normal and nasty teachers: peaks, entropy, rank of the truth.

Of a few images in full, and counted over the whole test set.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from experiments import experiment, teachers
from undistillable.graph import runs as runs_lib, store as store_lib
from undistillable.report import draw, logits, peaks, responses


def _measure(
  config: ml_collections.ConfigDict,
  runs: Sequence[runs_lib.Run],
  store: store_lib.Store,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """{'normal' | 'nasty': {seed: `peaks.statistics`}}."""
  del config
  responses.write(runs, store, folder)
  found: dict[str, Any] = {name: {} for name in teachers.NAMES}
  for pair in teachers.pairs(runs):
    for name, run in zip(teachers.NAMES, pair, strict=True):
      test = store.task(run.judged_on).test
      found[name][str(run.seed)] = peaks.statistics(
        store.answers(run, test),
        test['label'],
        # The temperature that the protected teacher was trained against.
        pair[1].settings.get('temperature', 1.0),
      )
  return found


def _figures(
  results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
) -> list[draw.Figure]:
  found = {k: list(v.values()) for k, v in results['measurements'].items()}
  shown = logits.figure(results['summary'], responses.read(folder))
  return [shown, peaks.figure(found)]


EXPERIMENT = experiment.make(
  'logits',
  'What do normal and nasty teachers answer?',
  teachers.plan_teachers,
  _figures,
  _measure,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
