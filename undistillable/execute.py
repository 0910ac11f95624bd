"""Trains and evaluates one run, and reads what a finished one left."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from undistillable import (
  checkpoints,
  environment,
  errors,
  evaluate,
  interop,
  parallel,
  runs,
  stores,
  synthesis,
  tasks,
  train,
  writers,
)

_SHOWN_IMAGES = 100


def run_one(
  run: runs.Run,
  store: stores.Store,
  on_step: Callable[[int, float, float], None] | None = None,
) -> dict[str, Any]:
  """Trains a run, or goes on where it stopped, and evaluates it.

  Args:
    run: the run; its parents are finished.
    store: of its workdir.
    on_step: see `train.fit`.

  Returns:
    What is written to result.json.

  Raises:
    errors.DivergedError: its loss or its answers are not finite.
  """
  parts, task = store.program(run), store.task
  frozen = {k: store.variables(parent) for k, parent in run.parents.items()}
  folder = runs.claim(run, store.workdir)
  logits_of = functools.partial(
    evaluate.predict,
    prepare=parts.prepare_test,
    batch_size=store.eval_batch_size,
  )

  watch = _watch(run, task, functools.partial(logits_of, parts.apply_fn))
  if run.role == 'images':
    watch = functools.partial(_show_images, run, folder)
  if run.init_from:
    state = _take_weights(run, run.init_from, store, folder)
  else:
    state = train.fit(
      parts.method,
      store.examples(run),
      parts.prepare,
      epochs=run.recipe['epochs'],
      batch_size=run.recipe['batch_size'],
      frozen=frozen,
      seed=run.seed,
      evaluate_fn=watch,
      evaluate_every_epochs=run.recipe['evaluate_every_epochs'],
      folder=folder,
      checkpoint_every_epochs=run.recipe['checkpoint_every_epochs'],
      on_step=on_step,
      label=f'{run.label} ({run.id})',
      remedy=_remedy(run),
    )
  if run.role == 'images':
    return _finish(run, folder, _judge_images(run, store, state.variables))
  logits = logits_of(parts.apply_fn, state.variables, task.test)
  scores = evaluate.scores(logits, task.test['label'])
  train.check_finite(scores, f'{run.label} ({run.id})', _remedy(run))
  if 'teacher' in run.parents:
    teacher_fn = parts.parent_fns['teacher']
    reference = logits_of(teacher_fn, frozen['teacher'], task.test)
    scores |= {
      f'teacher_{k}': v for k, v in evaluate.fidelity(logits, reference).items()
    }
  numbers = {f'test_{k}': v for k, v in scores.items()}
  return _finish(run, folder, numbers | _warning(run, folder))


def _warning(run: runs.Run, folder: pathlib.Path) -> dict[str, str]:
  """What a method has to say of its last epoch, as of a generator's."""
  collapsed = getattr(run.module, 'collapsed', None)
  epochs = writers.read_metrics(folder)
  if collapsed is None or not epochs:
    return {}
  metrics = {k.removeprefix('train_'): v for k, v in epochs[-1].items()}
  text = collapsed(metrics, run.settings)
  return {'warning': text} if text else {}


def _watch(
  run: runs.Run, task: tasks.Task, logits_of: Callable[..., np.ndarray]
) -> Callable[[Any], dict[str, float]] | None:
  """Looks at a network in training; None where there is nothing to look at.

  Whoever has no data has none held out either. The test set serves the
  article's way of counting only: nothing is chosen by it.
  """
  if run.data_free or 'images' in run.parents:
    return None
  parts = {'val': task.val} if len(task.val['label']) else {}
  if run.recipe['best_on_test']:
    parts['test'] = task.test

  def watch(variables: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, part in parts.items():
      values = evaluate.scores(logits_of(variables, part), part['label'])
      found |= {f'{name}_{key}': value for key, value in values.items()}
    return found

  return watch if parts else None


def _show_images(
  run: runs.Run, folder: pathlib.Path, variables: Mapping[str, Any]
) -> dict[str, float]:
  """Writes a picture of the first images while they are made; no numbers."""
  shown = stores.images_of(run, variables)['image'][:_SHOWN_IMAGES]
  synthesis.write_grid(folder / 'images.png', shown)
  return {}


def _judge_images(
  run: runs.Run, store: stores.Store, variables: Mapping[str, Any]
) -> dict[str, Any]:
  """What its teacher makes of a set of images."""
  parts, teacher = store.program(run), run.parents['teacher']
  known = store.variables(teacher)
  arrays = stores.images_of(run, variables)
  logits = evaluate.predict(
    parts.parent_fns['teacher'],
    known,
    arrays,
    parts.prepare_test,
    batch_size=store.eval_batch_size,
  )
  found = evaluate.scores(logits, arrays['label'])
  return {
    **{f'images_teacher_{k}': v for k, v in found.items()},
    'images_class_balance': synthesis.class_balance(logits).tolist(),
    'images_batch_norm_distance': synthesis.batch_norm_distance(
      teacher.network(store.task.num_classes), known, arrays, parts.prepare_test
    ),
  }


def _take_weights(
  run: runs.Run, path: str, store: stores.Store, folder: pathlib.Path
) -> Any:
  """The state of a network whose weights come from a file, checkpointed."""
  parts = store.program(run)
  state = train.initial_state(
    parts.method, store.task.train, parts.prepare_test, jax.random.key(0)
  )
  try:
    found = interop.from_torch(run.model, interop.load(path))
  except ValueError as error:
    raise errors.InputError(f'init_from={path}: {error}') from error
  wanted = {k: v for k, v in state.variables.items() if v}
  if jax.tree.map(np.shape, found) != jax.tree.map(np.shape, wanted):
    raise errors.InputError(
      f'init_from={path}: the weights are for other images or classes '
      f'than those of {run.dataset["name"]} '
      f'({store.task.num_classes} classes)'
    )
  state = parallel.replicate(state.replace(**found))
  with checkpoints.Checkpoints(folder / 'checkpoints') as written:
    written.save(0, state)
  return state


def _finish(
  run: runs.Run, folder: pathlib.Path, numbers: Mapping[str, Any]
) -> dict[str, Any]:
  """Writes result.json, with which a run is finished."""
  epochs = writers.read_metrics(folder)
  content = {
    **_describe(run, 'finished'),
    **numbers,
    'val_accuracy': epochs[-1].get('val_accuracy') if epochs else None,
    'best_test_accuracy': max(
      (epoch['test_accuracy'] for epoch in epochs if 'test_accuracy' in epoch),
      default=None,
    ),
    'epochs': 0 if run.init_from else run.recipe['epochs'],
    'seconds': round(sum(epoch['secs'] for epoch in epochs), 3),
    'config': run.config,
    'environment': environment.describe(),
  }
  writers.write_json(folder / 'result.json', content)
  return content


def diverged(run: runs.Run, store: stores.Store, reason: str) -> dict[str, Any]:
  """Records that a run came to nothing: it would do so every time."""
  content = _describe(run, 'diverged') | {'reason': reason}
  content |= {'config': run.config, 'environment': environment.describe()}
  writers.write_json(runs.folder(run, store.workdir) / 'result.json', content)
  return content


def skipped(run: runs.Run, reason: str) -> dict[str, Any]:
  """Stands for the result of a run that was not tried; nothing is written."""
  content = _describe(run, 'skipped') | {'reason': reason}
  return content | {'config': run.config}


def _describe(run: runs.Run, status: str) -> dict[str, Any]:
  """What is said of every run first."""
  return {
    'id': run.id,
    'status': status,
    'role': run.role,
    'model': run.model,
    'method': run.attack,
    'parents': [parent.id for parent in run.parents.values()],
    'dataset': run.dataset['name'],
    'seed': run.seed,
  }


def _remedy(run: runs.Run) -> str:
  """What to change when the loss of a run is not finite."""
  rate = run.recipe['learning_rate']
  if 'omega' in run.settings:
    omega = run.settings['omega']
    return f'lower omega (now {omega}), or the learning rate (now {rate})'
  return f'lower the learning rate (now {rate})'
