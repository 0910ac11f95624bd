"""t-SNE of features and logits, and how far the classes are apart."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from experiments import experiment, teachers
from undistillable.graph import runs as runs_lib, store as store_lib
from undistillable.report import draw, embeddings
from undistillable.storage import disk


def _measure(
  config: ml_collections.ConfigDict,
  runs: Sequence[runs_lib.Run],
  store: store_lib.Store,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """{'<teacher>_<features | logits>': {seed: `embeddings.separation`}}.

  The picture is of the first pair alone, and kept in embedding.npz.
  """
  del config
  task = store.task(runs[0].judged_on)
  chosen = embeddings.choose(task.test['label'])
  labels = task.test['label'][chosen]
  found: dict[str, Any] = {}
  arrays: dict[str, Any] = {}
  for pair in teachers.pairs(runs):
    for name, run in zip(teachers.NAMES, pair, strict=True):
      vectors_of = {
        'features': teachers.features(run, store),
        'logits': store.answers(run, task.test),
      }
      for kind, vectors in vectors_of.items():
        numbers = embeddings.separation(vectors[chosen], labels)
        found.setdefault(f'{name}_{kind}', {})[str(run.seed)] = numbers
        if f'{name}_{kind}' not in arrays:
          projected = embeddings.project(vectors[chosen])
          arrays[f'{name}_{kind}'] = projected
  arrays |= {'label': labels, 'class_names': np.array(task.class_names)}
  disk.save_arrays(folder / 'embedding.npz', arrays)
  return found


def _figures(
  results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
) -> list[draw.Figure]:
  with np.load(folder / 'embedding.npz') as found:
    arrays = dict(found)
  # The numbers below the picture are those of the seed that it shows.
  shown = {
    name: next(iter(by_seed.values()))
    for name, by_seed in results['measurements'].items()
  }
  return [embeddings.figure(arrays, shown)]


EXPERIMENT = experiment.make(
  'embedding',
  'Do nasty teachers keep the classes apart?',
  teachers.plan_teachers,
  _figures,
  _measure,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
