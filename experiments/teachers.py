"""What the experiments share that look at the teachers alone."""

from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from experiments import experiment
from undistillable import (
  evaluate,
  method,
  plan,
  runs as runs_lib,
  stores,
)

NAMES = ('normal', 'nasty')


def plan_teachers(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The normal and the protected teacher of every seed."""
  planned = experiment.plan_all([config])
  return plan.in_order(run for run in planned if run.role == 'teacher')


def pairs(
  runs: Sequence[runs_lib.Run],
) -> Iterator[tuple[runs_lib.Run, runs_lib.Run]]:
  """(normal, protected) teachers of one architecture and seed, finished."""
  normal = {(r.model, r.seed): r for r in runs if r.method == 'none'}
  # Weights from a file are one network for all seeds.
  given = {r.model: r for r in normal.values() if r.init_from}
  for run in runs:
    if 'adversary' in run.parents:
      found = normal.get((run.model, run.seed), given.get(run.model))
      if found:
        yield found, run


def answers(
  run: runs_lib.Run, store: stores.Store, *, features: bool = False
) -> np.ndarray:
  """What a teacher makes of every test image.

  Args:
    run: a finished run.
    store: of its workdir.
    features: whether what its last layer reads is wanted instead of logits.

  Returns:
    float32[N, K], or float32[N, F].
  """
  parts = store.program(run)
  apply_fn = parts.apply_fn
  if features:
    apply_fn = method.features_fn(run.network(store.task.num_classes))
  return evaluate.predict(
    apply_fn,
    store.variables(run),
    store.task.test,
    parts.prepare_test,
    batch_size=store.eval_batch_size,
  )
