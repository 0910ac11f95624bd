"""How a run does: while it is trained, and at its end."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from undistillable import (
  evaluate,
  method,
  runs,
  stores,
  synthesis,
  trainee,
  writers,
)

_SHOWN_IMAGES = 100


def judge(run: runs.Run, store: stores.Store, variables: Any) -> dict[str, Any]:
  """The numbers of a finished run, for its result.json.

  Raises:
    errors.DivergedError: the answers of a network are not finite.
  """
  judge_fn = _images if run.role == 'images' else _network
  return judge_fn(run, store, variables)


def watch(
  run: runs.Run, store: stores.Store, folder: pathlib.Path
) -> trainee.EvaluateFn | None:
  """Looks at a run in training; None where there is nothing to look at.

  Whoever has no data has none held out either. The test set serves the
  article's way of counting only: nothing is chosen by it.
  """
  if run.role == 'images':
    return functools.partial(_show_images, run, folder)
  if run.data_free or 'images' in run.parents:
    return None
  task, apply_fn = store.task, store.program(run).apply_fn
  parts = {'val': task.val} if len(task.val['label']) else {}
  if run.recipe['best_on_test']:
    parts['test'] = task.test

  def watch(variables: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, part in parts.items():
      logits = _logits(store, run, apply_fn, variables, part)
      scores = evaluate.scores(logits, part['label'])
      found |= {f'{name}_{key}': value for key, value in scores.items()}
    return found

  return watch if parts else None


def warning(run: runs.Run, folder: pathlib.Path) -> dict[str, str]:
  """What a method has to say of its last epoch, as of a generator's."""
  collapsed = getattr(run.module, 'collapsed', None)
  epochs = writers.read_metrics(folder)
  if collapsed is None or not epochs:
    return {}
  metrics = {k.removeprefix('train_'): v for k, v in epochs[-1].items()}
  text = collapsed(metrics, run.settings)
  return {'warning': text} if text else {}


def remedy(run: runs.Run) -> str:
  """What to change when the loss of a run is not finite."""
  if run.init_from:
    return f'they come from the weights in {run.init_from}'
  rate = run.recipe['learning_rate']
  if 'omega' in run.settings:
    omega = run.settings['omega']
    return f'lower omega (now {omega}), or the learning rate (now {rate})'
  return f'lower the learning rate (now {rate})'


def _network(
  run: runs.Run, store: stores.Store, variables: Any
) -> dict[str, Any]:
  """How a network does on the test set, and how like its teacher."""
  parts, test = store.program(run), store.task.test
  logits = _logits(store, run, parts.apply_fn, variables, test)
  scores = evaluate.scores(logits, test['label'])
  trainee.check_finite(scores, f'{run.label} ({run.id})', remedy(run))
  if 'teacher' in run.parents:
    teacher = store.variables(run.parents['teacher'])
    reference = _logits(store, run, parts.parent_fns['teacher'], teacher, test)
    scores |= {
      f'teacher_{k}': v for k, v in evaluate.fidelity(logits, reference).items()
    }
  scores['examples'] = len(test['label'])
  return {f'test_{k}': v for k, v in scores.items()}


def _images(
  run: runs.Run, store: stores.Store, variables: Mapping[str, Any]
) -> dict[str, Any]:
  """What its teacher makes of a set of images."""
  parts, teacher = store.program(run), run.parents['teacher']
  known = store.variables(teacher)
  arrays = stores.images_of(run, variables)
  logits = _logits(store, run, parts.parent_fns['teacher'], known, arrays)
  found = evaluate.scores(logits, arrays['label'])
  return {
    **{f'images_teacher_{k}': v for k, v in found.items()},
    'images_class_balance': synthesis.class_balance(logits).tolist(),
    'images_batch_norm_distance': synthesis.batch_norm_distance(
      teacher.network(store.task.num_classes), known, arrays, parts.prepare_test
    ),
  }


def _show_images(
  run: runs.Run, folder: pathlib.Path, variables: Mapping[str, Any]
) -> dict[str, float]:
  """Writes a picture of the first images while they are made; no numbers."""
  shown = stores.images_of(run, variables)['image'][:_SHOWN_IMAGES]
  synthesis.write_grid(folder / 'images.png', shown)
  return {}


def _logits(
  store: stores.Store,
  run: runs.Run,
  apply_fn: method.ApplyFn,
  variables: Any,
  arrays: Mapping[str, np.ndarray],
) -> np.ndarray:
  """The answers of a network to images as a run prepares them for testing."""
  return evaluate.predict(
    apply_fn,
    variables,
    arrays,
    store.program(run).prepare_test,
    batch_size=store.eval_batch_size,
  )
