"""Trains runs, and writes down what they came to."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from undistillable import (
  checkpoints,
  environment,
  errors,
  interop,
  judging,
  parallel,
  runs,
  stores,
  train,
  trainee,
  writers,
)


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
        trainee.Trainee(
          store.program(run).method,
          judging.watch(run, store, folder),
          folder,
          f'{run.label} ({run.id})',
          judging.remedy(run),
        )
        for run, folder in zip(group, folders, strict=True)
      ],
      store.examples(first),
      store.program(first).prepare,
      epochs=first.recipe['epochs'],
      batch_size=first.recipe['batch_size'],
      frozen=_frozen(first, store),
      seed=first.seed,
      stream=first.method,
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
    numbers = judging.judge(run, store, state.variables)
  except errors.DivergedError as error:
    return _diverged(run, folder, str(error))
  return _finish(run, folder, numbers | judging.warning(run, folder))


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
  except (ImportError, ValueError) as error:
    raise errors.InputError(f'init_from={path}: {error}') from error
  wanted = {k: v for k, v in state.variables.items() if v}
  expected, given = (
    {k: x.shape for k, x in interop.to_torch(run.model, variables).items()}
    for variables in (wanted, found)
  )
  differing = [
    f'{name} (expected {shape}, found {given[name]})'
    for name, shape in expected.items()
    if given[name] != shape
  ]
  if differing:
    raise errors.InputError(
      f'init_from={path}: the weights are for other images or classes '
      f'than those of {run.dataset["name"]} '
      f'({store.task.num_classes} classes): {", ".join(differing)}'
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
