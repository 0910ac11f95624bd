"""What the experiments share that look at the teachers alone."""

from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from undistillable import method
from undistillable.graph import plan, runs as runs_lib, store as store_lib
from undistillable.training import evaluate

NAMES = ('normal', 'nasty')


def plan_teachers(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The normal and the protected teacher of every seed."""
  planned = plan.make(config)
  return plan.in_order(run for run in planned if run.role == 'teacher')


def pairs(
  runs: Sequence[runs_lib.Run],
) -> Iterator[tuple[runs_lib.Run, runs_lib.Run]]:
  """(normal, nasty) teachers by seed, finished.

  Where a config has no nasty ones, those of its first defense.
  """
  protected = [
    run
    for run in runs
    if run.role == 'teacher' and 'normal' in run.compared_with
  ]
  methods = [run.method for run in protected]
  chosen = 'nasty' if 'nasty' in methods else next(iter(methods), None)
  for run in protected:
    twin = run.compared_with['normal']
    if run.method == chosen and twin in runs:
      yield twin, run


def features(run: runs_lib.Run, store: store_lib.Store) -> np.ndarray:
  """What the last layer of a finished network reads of every test image.

  Returns:
    float32[N, F].
  """
  (material,) = store.open([run])
  return evaluate.predict(
    method.features_fn(material.program.network),
    store.variables(run),
    material.task.test,
    material.program.prepare_test,
    batch_size=material.batch_size,
  )
