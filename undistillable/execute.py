"""Trains runs, evaluates them, and writes down what they came to."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from undistillable import (
  checkpoints,
  environment,
  errors,
  evaluate,
  interop,
  method,
  parallel,
  runs,
  stores,
  synthesis,
  train,
  writers,
)

_SHOWN_IMAGES = 100


def run_group(
  group: Sequence[runs.Run],
  store: stores.Store,
  on_step: train.OnStepFn | None = None,
) -> list[dict[str, Any]]:
  """Trains runs, or goes on where they stopped, and evaluates them.

  Args:
    group: of `groups.split`; their parents are finished.
    store: of their workdir.
    on_step: see `train.fit_together`.

  Returns:
    What is written to each result.json; of a run whose loss or whose answers
    are not finite, that it diverged.
  """
  folders = [runs.claim(run, store.workdir) for run in group]
  first = group[0]
  if first.init_from:
    states = [_take_weights(first, first.init_from, store, folders[0])]
  else:
    states = train.fit_together(
      [
        train.Trainee(
          store.program(run).method,
          _watch(run, store, folder),
          folder,
          f'{run.label} ({run.id})',
          _remedy(run),
        )
        for run, folder in zip(group, folders, strict=True)
      ],
      store.examples(first),
      store.program(first).prepare,
      epochs=first.recipe['epochs'],
      batch_size=first.recipe['batch_size'],
      frozen=_frozen(first, store),
      seed=first.seed,
      evaluate_every_epochs=first.recipe['evaluate_every_epochs'],
      checkpoint_every_epochs=first.recipe['checkpoint_every_epochs'],
      on_step=on_step,
    )
  return [
    _conclude(run, store, folder, state)
    for run, folder, state in zip(group, folders, states, strict=True)
  ]


def _frozen(run: runs.Run, store: stores.Store) -> dict[str, Any]:
  """The variables that the method of a run reads, by role."""
  return {k: store.variables(parent) for k, parent in run.parents.items()}


def _conclude(
  run: runs.Run, store: stores.Store, folder: pathlib.Path, state: Any
) -> dict[str, Any]:
  """Judges what a training came to, and writes it."""
  try:
    if isinstance(state, errors.DivergedError):
      raise state
    judge = _judge_images if run.role == 'images' else _judge
    numbers = judge(run, store, state.variables)
  except errors.DivergedError as error:
    return _diverged(run, folder, str(error))
  return _finish(run, folder, numbers | _warning(run, folder))


def _judge(
  run: runs.Run, store: stores.Store, variables: Any
) -> dict[str, Any]:
  """How a network does on the test set, and how like its teacher.

  Raises:
    errors.DivergedError: its answers are not finite.
  """
  parts, test = store.program(run), store.task.test
  logits = _logits(store, run, parts.apply_fn, variables, test)
  scores = evaluate.scores(logits, test['label'])
  train.check_finite(scores, f'{run.label} ({run.id})', _remedy(run))
  if 'teacher' in run.parents:
    teacher = store.variables(run.parents['teacher'])
    reference = _logits(store, run, parts.parent_fns['teacher'], teacher, test)
    scores |= {
      f'teacher_{k}': v for k, v in evaluate.fidelity(logits, reference).items()
    }
  return {f'test_{k}': v for k, v in scores.items()}


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
  run: runs.Run, store: stores.Store, folder: pathlib.Path
) -> train.EvaluateFn | None:
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
  logits = _logits(store, run, parts.parent_fns['teacher'], known, arrays)
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


def _diverged(
  run: runs.Run, folder: pathlib.Path, reason: str
) -> dict[str, Any]:
  """Records that a run came to nothing: it would do so every time."""
  content = _describe(run, 'diverged') | {'reason': reason}
  content |= {'config': run.config, 'environment': environment.describe()}
  writers.write_json(folder / 'result.json', content)
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
