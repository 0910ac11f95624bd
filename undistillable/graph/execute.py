"""Which run is next, how it is trained, and what it came to."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from undistillable import errors, interop, models, oracle
from undistillable.graph import programs, runs as runs_lib, store as store_lib
from undistillable.models import black_box
from undistillable.storage import disk, lease
from undistillable.training import (
  checkpoints,
  environment,
  evaluate,
  hosts,
  parallel,
  train,
  writers,
)

Run = runs_lib.Run

_SECS_BETWEEN_LOOKS = 2.0  # At what another process trains.
_MAPS = pathlib.Path('/proc/self/maps')
_MOST_MAPS = pathlib.Path('/proc/sys/vm/max_map_count')


def train_all(
  planned: Sequence[Run],
  store: store_lib.Store,
  *,
  together: int,
  max_accuracy_drop: float | None,
  show_progress: bool,
) -> dict[str, dict[str, Any]]:
  """Trains what is missing, beside any other process that does.

  Args:
    planned: each run after those that it depends on.
    store: of their workdir.
    together: the most runs of a group, see `groups`.
    max_accuracy_drop: of a protected teacher, in points; more stops everything
      with a DivergedError, as a run does that diverges. None goes on without.
    show_progress: whether there is a bar.

  Returns:
    {run id: result} of all runs.
  """
  results = store.results(planned)

  def check() -> None:
    """Of all runs that can be judged by now: a parent's result may be lost."""
    if max_accuracy_drop is None:
      return
    for run in planned:
      others = (*run.parents.values(), *run.compared_with.values())
      needed = {run.id, *(other.id for other in others)}
      if needed <= results.keys():
        _stop_if_failed(run, results, max_accuracy_drop)

  check()
  missing = [run for run in planned if run.id not in results]
  steps = sum(
    store.num_steps(run) for run in missing if not store.is_trained(run)
  )
  shown = bool(missing) and show_progress and hosts.is_main()
  progress = writers.Progress(steps, len(planned), show=shown)
  with progress:
    while missing:
      results |= _train_some(missing, store, results, together, progress)
      make_room()
      check()
      missing = [run for run in planned if run.id not in results]
  return {run.id: results[run.id] for run in planned}


def _train_some(
  missing: Sequence[Run],
  store: store_lib.Store,
  results: Mapping[str, Any],
  together: int,
  progress: writers.Progress,
) -> dict[str, dict[str, Any]]:
  """{run id: result} of the first runs that can be trained, or that others did.

  Any number of processes may share a workdir: each trains what no other is
  training, and waits where there is nothing left but that.
  """
  waits_for = None
  for group in groups(missing, together):
    parents = [parent.id for parent in group[0].parents.values()]
    if not results.keys() >= set(parents):
      continue  # Others train them.
    failed = _failed(group[0], results)
    if failed:
      reason = f'its parent {failed} did not finish'
      # It was not tried; nothing is written.
      return {
        run.id: _describe(run, 'skipped') | {'reason': reason} for run in group
      }
    with contextlib.ExitStack() as stack:
      mine = [run for run in group if store.take(run, stack)]
      # Another process may have finished one a moment ago.
      done = {run.id: store.result(run) for run in mine}
      mine = [run for run in mine if not done[run.id]]
      if mine:
        progress.start(len(results) + 1, mine[0].label, len(mine) - 1)
        try:
          new = run_group(mine, store, progress.advance)
        except (lease.LostError, OSError) as error:
          if not _is_lost(error, mine, store):
            raise
          logging.warning('%s; it goes on with others', error)
          return {}
        done |= {r.id: one for r, one in zip(mine, new, strict=True)}
      if done:
        return {name: result for name, result in done.items() if result}
    waits_for = waits_for or group[0]
  assert waits_for, 'runs are in an order in which they can be trained'
  progress.say(f'waits for {waits_for.label}, trained by another process')
  time.sleep(_SECS_BETWEEN_LOOKS)
  return store.results(missing)


def _is_lost(
  error: Exception, group: Iterable[Run], store: store_lib.Store
) -> bool:
  """Whether what could not be written is trained by another process by now."""
  if isinstance(error, lease.LostError):
    return True  # On every host.
  alone = hosts.count() == 1
  return alone and not all(lease.stands(store.folder(run)) for run in group)


def _failed(run: Run, results: Mapping[str, Any]) -> str | None:
  """A parent for want of which there is nothing to train, or None.

  Of candidates a single one is enough: nobody picks a student that diverged.
  """
  bad = {
    role: parent.id
    for role, parent in run.parents.items()
    if results[parent.id]['status'] != 'finished'
  }
  candidates = run.candidates.keys()
  if not candidates <= bad.keys():
    bad = {role: name for role, name in bad.items() if role not in candidates}
  return next(iter(bad.values()), None)


def _stop_if_failed(
  run: Run, results: Mapping[str, Any], max_drop: float
) -> None:
  """Stops before students are trained against a teacher that is no use."""
  if results[run.id]['status'] != 'finished':
    raise errors.DivergedError(results[run.id]['reason'])
  twin = run.compared_with.get('normal')
  if run.role != 'teacher' or twin is None:
    return
  before, after = results[twin.id], results[run.id]
  key = 'val_accuracy'
  if None in (before[key], after[key]):
    key = 'test_accuracy'
  drop = before[key] - after[key]
  if drop > max_drop:
    raise errors.DivergedError(
      f'{run.label} ({run.id}): its accuracy collapsed to {after[key]:.1f} %, '
      f'{drop:.1f} points below its normal twin; {remedy(run)}, or '
      f'raise max_accuracy_drop (now {max_drop}) to go on with it'
    )


def groups(runs: Iterable[Run], most: int) -> list[list[Run]]:
  """Which runs are trained side by side: those that hear the same answers.

  All of a group, at most so many, are in the device's memory at once. The runs
  are in an order in which they can be trained one by one, and so are the
  groups, which have the order of the first of each.
  """
  found: list[list[Run]] = []
  open_groups: dict[Hashable, list[Run]] = {}
  for run in runs:
    key = run.answers_key
    group = open_groups.get(key)
    if group is None or len(group) == most:
      group = open_groups[key] = []
      found.append(group)
    group.append(run)
  return found


def run_group(
  group: Sequence[Run],
  store: store_lib.Store,
  on_step: train.OnStepFn | None = None,
) -> list[dict[str, Any]]:
  """Trains a group of `groups`, or goes on where it stopped, and judges it.

  Returns:
    What is written to each result.json; of a run whose loss or whose answers
    are not finite, that it diverged.
  """
  materials = store.open(group)
  # The others were trained, and have no result: they were killed before they
  # had one, or it is damaged.
  missing = [one for one in materials if not store.is_trained(one.run)]
  outcomes = _train(missing, store, on_step) if missing else {}
  return [_conclude(one, store, outcomes.get(one.run)) for one in materials]


def _train(
  materials: Sequence[store_lib.Material],
  store: store_lib.Store,
  on_step: train.OnStepFn | None,
) -> dict[Run, Any]:
  """The variables of each network, or the DivergedError that stopped it."""
  first, run = materials[0], materials[0].run
  if run.init_from:
    return {run: parallel.replicate(weights_of_file(run, store))}
  if run.only_serves:
    return {run: store.variables(store.source(run))}
  states = train.fit_together(
    [
      train.Trainee(
        one.program.method,
        _watch(one),
        one.folder,
        f'{one.run.label} ({one.run.id})',
        remedy(one.run),
      )
      for one in materials
    ],
    first.examples,
    first.program.prepare,
    epochs=run.recipe['epochs'],
    batch_size=run.recipe['batch_size'],
    frozen=first.frozen,
    seed=run.seed,
    stream=run.method,
    ask_with=first.program.prepare_test if run.asks_once else None,
    evaluate_every_epochs=run.recipe['evaluate_every_epochs'],
    checkpoint_every_epochs=run.recipe['checkpoint_every_epochs'],
    resident=store.resident,
    on_step=on_step,
  )
  return {
    one.run: state if isinstance(state, Exception) else state.variables
    for one, state in zip(materials, states, strict=True)
  }


def make_room() -> None:
  """Lets go of compiled programs before the system refuses the next one.

  On a CPU a program of XLA has hundreds of memory maps, JAX keeps them all, and
  on Linux a process has `vm.max_map_count`, 65,530: those of a hundred methods.
  """
  try:
    with _MAPS.open('rb') as file:
      number = sum(1 for _ in file)
    most = int(_MOST_MAPS.read_text())
  except (OSError, ValueError):
    return  # Another system.
  if number > most / 2:
    jax.clear_caches()


def remedy(run: Run) -> str:
  """What to change when the training of a run comes to nothing."""
  if run.init_from:
    return f'they come from {run.init_from}'
  rate = f'the learning rate (now {run.recipe["learning_rate"]})'
  if hasattr(run.module, 'remedy'):
    return f'{run.module.remedy(run.method_settings)}, or {rate}'
  if hasattr(run.module, 'serve'):
    return f'change the settings of {run.shown_method}'
  return f'lower {rate}'


def _watch(material: store_lib.Material) -> train.EvaluateFn | None:
  """Looks at a run in training; None where there is nothing to look at.

  Whoever has no data of the owner has none held out either. The test set
  serves the article's way of counting only: nothing is chosen by it.
  """
  run, task = material.run, material.task
  if hasattr(run.module, 'watch'):
    return run.module.watch(material)
  if not run.has_owners_data:
    return None
  parts = {'val': task.val} if len(task.val['label']) else {}
  if run.recipe['best_on_test']:
    parts['test'] = task.test

  def watch(variables: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, part in parts.items():
      logits = material.answers(part, variables)
      scores = evaluate.scores(logits, part['label'])
      found |= {f'{name}_{key}': value for key, value in scores.items()}
    return found

  return watch if parts else None


def _picked(run: Run, store: store_lib.Store) -> dict[str, Any]:
  """Which candidate a student is, and what it took to find that out."""
  picked = store.source(run)
  result = store.result(picked)
  # All of them hear the same answers to the same questions.
  queries = result['queries'] if result else None
  return {
    'picked': {'id': picked.id, 'settings': disk.as_json(picked.settings)},
    'queries': queries,
  }


def _conclude(
  material: store_lib.Material, store: store_lib.Store, outcome: Any
) -> dict[str, Any]:
  """Judges what a training came to, and writes it.

  The outcome is variables, or the error that ended the training; or None, for
  the variables that are in the folder.
  """
  run, folder = material.run, material.folder
  try:
    if isinstance(outcome, errors.DivergedError):
      raise outcome
    if outcome is None:
      outcome = checkpoints.load_variables(folder)
    elif not run.only_serves:
      checkpoints.save_variables(
        folder, {k: v for k, v in outcome.items() if v}
      )
    if not run.only_serves:
      _save_for_pytorch(run, folder, outcome)
    numbers = getattr(run.module, 'judge', _judge)(material, outcome)
  except errors.DivergedError as error:
    content = _describe(run, 'diverged') | {'reason': str(error)}
    content['environment'] = environment.describe()
  else:
    epochs = hosts.by_main(writers.read_metrics)(folder)
    last = epochs[-1] if epochs else _held_out(material, outcome)
    content = {
      **_describe(run, 'finished'),
      **numbers,
      **_last_epoch(run, epochs),
      'queries': num_queries(material),
      'val_accuracy': last.get('val_accuracy'),
      'best_test_accuracy': max(
        (
          epoch['test_accuracy'] for epoch in epochs if 'test_accuracy' in epoch
        ),
        default=None,
      ),
      'epochs': epochs[-1]['epoch'] if epochs else 0,
      'seconds': round(sum(epoch['secs'] for epoch in epochs), 3),
      'environment': environment.describe(),
      **(_picked(run, store) if run.candidates else {}),
    }
  store.finish(run, content)
  return content


def _held_out(material: store_lib.Material, variables: Any) -> dict[str, float]:
  """How a network that is not trained here does on the held-out part."""
  watch = _watch(material)
  return watch(variables) if watch else {}


def _judge(material: store_lib.Material, variables: Any) -> dict[str, Any]:
  """How a network does on the test set, and how like its teacher.

  Which images it is right about is kept, of the held-out part as well: so that
  networks can be compared image by image later.
  """
  run, task = material.run, material.task
  test = task.test
  logits = material.answers(test, variables)
  scores = evaluate.scores(logits, test['label'])
  train.check_finite(scores, f'{run.label} ({run.id})', remedy(run))
  if 'teacher' in run.parents:
    found = evaluate.fidelity(logits, material.answers_of('teacher', test))
    scores |= {f'teacher_{key}': value for key, value in found.items()}
  scores['examples'] = len(test['label'])
  further = getattr(run.module, 'further', None)
  if further:
    scores |= further(material, variables)
  hits = {'test_hits': evaluate.pack(logits.argmax(-1) == test['label'])}
  if run.has_owners_data and len(task.val['label']):
    found = material.answers(task.val, variables).argmax(-1)
    hits['val_hits'] = evaluate.pack(found == task.val['label'])
  return {f'test_{k}': v for k, v in scores.items()} | hits


def _last_epoch(
  run: Run, epochs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """What a method measured in its last epoch, and has to say of it."""
  if not epochs:
    return {}
  metrics = {
    key.removeprefix('train_'): value
    for key, value in epochs[-1].items()
    if key.startswith('train_')
  }
  warn = getattr(run.module, 'warning', None)
  text = warn(metrics, run.method_settings) if warn else None
  return {'training': metrics} | ({'warning': text} if text else {})


def num_queries(material: store_lib.Material) -> int | None:
  """How many images a run asks its teacher about; None where it has none."""
  run, program, frozen = material.run, material.program, material.frozen
  if 'teacher' not in run.parents:
    return None
  if run.access == 'weights':
    return 0
  num_examples = len(material.examples['label'])
  batch_size = run.recipe['batch_size']
  num_steps = run.recipe['epochs'] * (num_examples // batch_size)
  if 'teacher' in program.method.answer_fns:
    each = num_examples if run.asks_once else num_steps * batch_size
    return each * sum(map(run.robs, program.method.answer_fns))
  # It asks by itself.
  key, order = jax.random.key(0), jax.numpy.arange(batch_size)
  batch = jax.eval_shape(program.prepare, material.examples, order, key)
  state = jax.eval_shape(program.method.init, key, batch, frozen)
  asked = oracle.queries(program.method.step, state, frozen, batch, key)
  return num_steps * asked


@hosts.by_main
def _save_for_pytorch(run: Run, folder: pathlib.Path, variables: Any) -> None:
  """Writes model.safetensors, with PyTorch's names."""
  if 'params' not in variables or run.model not in models.MODELS:
    return
  try:
    state_dict = interop.to_torch(run.model, variables)
  except ValueError as error:  # Of a network of one's own.
    logging.warning('no model.safetensors in %s: %s', folder, error)
    return
  interop.save(folder / 'model.safetensors', state_dict)


def weights_of_file(
  run: Run, store: store_lib.Store, *, only_try: bool = False
) -> dict[str, Any]:
  """The variables of a network whose weights, or answers, come from a file.

  Where it is only a try, what answers is asked about a few images alone.

  Raises:
    errors.InputError: they are not whole, not finite, or of another network.
  """
  path, task = str(run.init_from), store.task(run.judged_on)
  program = programs.build(run, store.num_examples(run))
  if isinstance(program.network, black_box.BlackBox):
    try:
      if only_try:
        return program.network.asked([task.train['image'][:2]], 2)
      return _asked(program.network, run, store)
    except errors.InputError as error:
      raise errors.InputError(f'{path}: {error}') from error
  try:
    found = interop.from_torch(run.model, interop.load(path))
  except (ImportError, ValueError) as error:
    raise errors.InputError(f'init_from={path}: {error}') from error
  wanted = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype),
    {k: v for k, v in programs.initial_shapes(run).variables.items() if v},
  )
  expected, given = (
    interop.to_torch(run.model, variables) for variables in (wanted, found)
  )
  differing = [
    f'{name} (expected {array.shape}, found {given[name].shape})'
    for name, array in expected.items()
    if given[name].shape != array.shape
  ]
  if differing:
    raise errors.InputError(
      f'init_from={path}: the weights are for other images or classes '
      f'than those of {run.judged_on["name"]} '
      f'({len(task.class_names)} classes): {", ".join(differing)}'
    )
  broken = [k for k, array in given.items() if not np.isfinite(array).all()]
  if broken:
    raise errors.InputError(
      f'init_from={path}: not all numbers are finite in {", ".join(broken)}'
    )
  return found


@hosts.by_main
def _asked(
  network: black_box.BlackBox, run: Run, store: store_lib.Store
) -> dict[str, Any]:
  """The variables of a black box; see `BlackBox.asked`."""
  task = store.task(run.judged_on)
  sets = [part['image'] for part in (task.train, task.val, task.test)]
  if 'transfer' in run.learns_from:
    foreign = {**run.judged_on, 'name': run.learns_from['transfer']}
    sets.append(store.task(foreign).train['image'])
  kept = store.folder(run) / 'checkpoints'  # While it is not finished.
  return network.asked(sets, store.eval_batch_size, kept)


def _describe(run: Run, status: str) -> dict[str, Any]:
  """What is said of every run first."""
  return {
    'id': run.id,
    'status': status,
    'role': run.role,
    'model': run.model,
    'method': run.shown_method,
    'parents': {role: parent.id for role, parent in run.parents.items()},
    'dataset': run.judged_on['name'],
    'seed': run.seed,
    'config': run.config,
  }
