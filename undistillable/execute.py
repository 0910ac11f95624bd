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
  programs,
  runs,
  tasks,
  train,
  writers,
)


class Store:
  """The networks of a workdir: what their runs left, loaded when needed."""

  def __init__(
    self,
    workdir: pathlib.Path,
    dataset: Mapping[str, Any],
    data_dir: str | None = None,
    eval_batch_size: int = 256,
  ):
    """Loads nothing yet.

    Args:
      workdir: the study's folder.
      dataset: as in `runs.Run`.
      data_dir: see `data.load`.
      eval_batch_size: over all devices.
    """
    self.workdir = workdir
    self.eval_batch_size = eval_batch_size
    self._dataset, self._data_dir = dataset, data_dir
    # The last few: the teachers of all seeds serve students in turn.
    self.variables = functools.lru_cache(maxsize=8)(self._variables)

  @functools.cached_property
  def task(self) -> tasks.Task:
    """The data set."""
    return tasks.load(self._dataset, self._data_dir)

  def examples(self, run: runs.Run) -> tasks.Arrays:
    """What a run is trained on."""
    return self.task.share(run.dataset['fraction'], run.seed)

  def program(self, run: runs.Run) -> programs.Program:
    """The functions of a run."""
    num_examples = len(self.examples(run)['label'])
    return programs.build(run, self.task.num_classes, num_examples)

  def num_steps(self, run: runs.Run) -> int:
    """Steps of the whole training of a run."""
    if run.init_from:
      return 0
    per_epoch = len(self.examples(run)['label']) // run.recipe['batch_size']
    return run.recipe['epochs'] * per_epoch

  def result(self, run: runs.Run) -> dict[str, Any] | None:
    """What a finished run wrote; None for any other."""
    return runs.result(run, self.workdir)

  def _variables(self, run: runs.Run) -> dict[str, Any]:
    """The variables of a finished run, from its checkpoint."""
    parts = self.program(run)
    template = train.abstract_state(
      parts.method, self.task.train, parts.prepare_test
    )
    folder = runs.folder(run, self.workdir) / 'checkpoints'
    return checkpoints.load(folder, template).variables


def run_one(
  run: runs.Run,
  store: Store,
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

  # The test set serves the article's way of counting only: nothing is chosen
  # by it, here or in what is reported as the accuracy.
  seen = {'val': task.val, 'test': task.test}
  seen = {
    name: part
    for name, part in seen.items()
    if len(part['label']) and (name == 'val' or run.recipe['best_on_test'])
  }

  def validate(variables: Any) -> dict[str, float]:
    return {
      f'{name}_{key}': value
      for name, part in seen.items()
      for key, value in evaluate.scores(
        logits_of(parts.apply_fn, variables, part), part['label']
      ).items()
    }

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
      evaluate_fn=validate if seen else None,
      evaluate_every_epochs=run.recipe['evaluate_every_epochs'],
      folder=folder,
      checkpoint_every_epochs=run.recipe['checkpoint_every_epochs'],
      on_step=on_step,
      label=f'{run.label} ({run.id})',
      remedy=_remedy(run),
    )
  logits = logits_of(parts.apply_fn, state.variables, task.test)
  scores = evaluate.scores(logits, task.test['label'])
  train.check_finite(scores, f'{run.label} ({run.id})', _remedy(run))
  if 'teacher' in run.parents:
    teacher_fn = parts.parent_fns['teacher']
    reference = logits_of(teacher_fn, frozen['teacher'], task.test)
    scores |= {
      f'teacher_{k}': v for k, v in evaluate.fidelity(logits, reference).items()
    }
  return _finish(run, folder, scores)


def _take_weights(
  run: runs.Run, path: str, store: Store, folder: pathlib.Path
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
  run: runs.Run, folder: pathlib.Path, scores: Mapping
) -> dict[str, Any]:
  """Writes result.json, with which a run is finished."""
  epochs = writers.read_metrics(folder)
  content = {
    **_describe(run, 'finished'),
    **{f'test_{k}': v for k, v in scores.items()},
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


def diverged(run: runs.Run, store: Store, reason: str) -> dict[str, Any]:
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
    'method': run.method,
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
