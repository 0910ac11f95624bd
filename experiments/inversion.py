"""Images from the weights of a normal and of a nasty teacher, side by side."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from experiments import data_free, experiment, teachers
from undistillable.graph import plan, runs as runs_lib, store as store_lib
from undistillable.report import draw, images
from undistillable.storage import disk
from undistillable.training import evaluate

_MAX_CLASSES = 10
_IMAGES_PER_CLASS = 5


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """Both teachers of every seed, their images, and a student alone to judge."""
  planned = plan.make(
    plan.vary(config, data_free.robbed(config, 'deep_inversion'))
  )
  return plan.in_order(run for run in planned if 'images' not in run.parents)


def _measure(
  config: ml_collections.ConfigDict,
  runs: Sequence[runs_lib.Run],
  store: store_lib.Store,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """{'normal' | 'nasty': {seed: what is said of the images}}.

  The judge is a student that was trained alone: it knows neither teacher.
  Images of the first pair are kept in images.npz.
  """
  del config
  found: dict[str, Any] = {name: {} for name in teachers.NAMES}
  shown: dict[str, Any] = {}
  judges = {run.seed: run for run in runs if run.method == 'scratch'}
  for run in runs:
    if run.role != 'images' or run.seed not in judges:
      continue
    name = teachers.NAMES[run.parents['teacher'].method != 'none']
    arrays = store.images(run)
    logits = store.answers(judges[run.seed], arrays)
    result = store.result(run) or {}
    found[name][str(run.seed)] = {
      'judge_accuracy': evaluate.scores(logits, arrays['label'])['accuracy'],
      'num_images': len(arrays['label']),
      'teacher_accuracy': result['images_teacher_accuracy'],
      'batch_norm_distance': result['images_batch_norm_distance'],
      'class_balance': result['images_class_balance'],
    }
    if name not in shown:
      chosen = _by_class(arrays['label'])
      shown[name] = arrays['image'][chosen]
      shown[f'{name}_label'] = arrays['label'][chosen]
  disk.save_arrays(folder / 'images.npz', shown)
  return found


def _by_class(labels: np.ndarray) -> np.ndarray:
  """Indices of a few images of each class, a row of all classes at a time."""
  found = [
    np.flatnonzero(labels == label)[:_IMAGES_PER_CLASS]
    for label in np.unique(labels)[:_MAX_CLASSES]
  ]
  rows = min(map(len, found))
  return np.stack([indices[:rows] for indices in found], axis=1).ravel()


def _figures(
  results: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path
) -> list[draw.Figure]:
  with np.load(folder / 'images.npz') as found:
    arrays = dict(found)
  return [images.figure(arrays, results['measurements'])]


EXPERIMENT = experiment.make(
  'inversion',
  'What do images from the weights of a nasty teacher show?',
  _plan,
  _figures,
  _measure,
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
