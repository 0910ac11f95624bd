"""A run is one trained network, and its name is its content.

The resolved config of a run, its seed and the ids of the runs it depends on
are hashed into its id; its folder holds config.json, metrics.jsonl,
checkpoints and, once it is finished, result.json. A finished run is never
touched again, any other is resumed.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from undistillable import (
  attacks,
  checkpoints,
  data,
  defenses,
  errors,
  evaluate,
  method as method_lib,
  models,
  optimizers,
  parallel,
  train,
  writers,
)
from undistillable.data import batches

# Raise it when the same config would no longer train the same network.
VERSION = 1
DTYPES = ('bfloat16', 'float32')


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One network to train.

  Attributes:
    role: 'teacher' or 'student'.
    model: a name of `models.MODELS`.
    method: a name of `defenses.DEFENSES` for a teacher, of `attacks.ATTACKS`
      for a student.
    settings: of the method.
    parents: the runs whose networks the method reads, by role.
    dataset: name, normalization, val_fraction and val_seed.
    recipe: how it is trained; see configs/digits.py.
    dtype: 'float32' or 'bfloat16', of the computation.
    seed: of everything random.
  """

  role: str
  model: str
  method: str
  settings: Mapping[str, Any]
  parents: Mapping[str, 'Run']
  dataset: Mapping[str, Any]
  recipe: Mapping[str, Any]
  dtype: str
  seed: int

  @property
  def config(self) -> dict[str, Any]:
    """What is hashed: all of it, as JSON has it."""
    content = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
    }
    content['parents'] = {k: run.id for k, run in self.parents.items()}
    content['version'] = VERSION
    return writers.as_json(content)

  @functools.cached_property
  def id(self) -> str:
    """The name of the run and of its folder."""
    text = json.dumps(self.config, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f'{self.role}-{self.model}-{digest}'

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Run) and self.id == other.id

  def __hash__(self) -> int:
    return hash(self.id)

  @property
  def label(self) -> str:
    """What it is, for people."""
    source = self.parents.get('teacher')
    method = f'{self.method}({source.method})' if source else self.method
    return f'{self.role} {self.model} {method} seed {self.seed}'

  @property
  def module(self):
    """`defenses.<method>` or `attacks.<method>`."""
    registry, kind = (
      (defenses.DEFENSES, 'defense')
      if self.role == 'teacher'
      else (attacks.ATTACKS, 'attack')
    )
    if self.method not in registry:
      raise ValueError(
        f'unknown {kind} {self.method!r}; known: {", ".join(registry)}'
      )
    return registry[self.method]

  def network(self, num_classes: int):
    """The untrained module."""
    if self.dtype not in DTYPES:
      raise ValueError(
        f'unknown dtype {self.dtype!r}; known: {", ".join(DTYPES)}'
      )
    dtype = jnp.dtype(self.dtype)
    return models.get_model(self.model, num_classes, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled for a run; runs that differ in their seed share it."""

  method: method_lib.Method
  prepare: parallel.PrepareFn
  prepare_test: parallel.PrepareFn
  apply_fn: method_lib.ApplyFn


def program(run: Run, num_classes: int, num_examples: int) -> Program:
  """Builds the functions of a run; compiles nothing.

  Args:
    run: the run.
    num_classes: of its data set.
    num_examples: in its training set.

  Returns:
    The program; the same object for runs that differ in their seed alone.

  Raises:
    ValueError: an unknown name or an impossible value in its config.
  """
  parents = {
    role: dataclasses.replace(
      parent, method='none', settings={}, parents={}, recipe={}, seed=0
    )
    for role, parent in run.parents.items()
  }
  anonymous = dataclasses.replace(run, parents=parents, seed=0)
  return _program(anonymous, num_classes, num_examples)


@functools.lru_cache(maxsize=16)
def _program(run: Run, num_classes: int, num_examples: int) -> Program:
  """See `program`."""
  recipe = dict(run.recipe)
  parallel.check_batch_size(recipe['batch_size'], num_examples)
  parents = {
    role: method_lib.frozen_fn(parent.network(num_classes))
    for role, parent in run.parents.items()
  }
  network = run.network(num_classes)
  schedule = optimizers.get_schedule(
    recipe['schedule'],
    learning_rate=recipe['learning_rate'],
    epochs=recipe['epochs'],
    steps_per_epoch=num_examples // recipe['batch_size'],
    milestones=recipe['milestones'],
    gamma=recipe['gamma'],
    warmup_epochs=recipe['warmup_epochs'],
  )
  optimizer = optimizers.get_optimizer(
    recipe['optimizer'],
    schedule,
    momentum=recipe['momentum'],
    weight_decay=recipe['weight_decay'],
  )
  make = _checked(run, run.module.make)
  mean, std = data.NORMALIZATIONS[run.dataset['normalization']]
  prepare = functools.partial(
    batches.prepare_fn, mean, std, dtype=jnp.dtype(run.dtype)
  )
  return Program(
    method=make(network, optimizer, **parents, **run.settings),
    prepare=prepare(augment=recipe['augment']),
    prepare_test=prepare(),
    apply_fn=method_lib.frozen_fn(network),
  )


def _checked(run: Run, make: Callable) -> Callable:
  """`make`, if the settings of the run are those that it takes."""
  known = {
    name
    for name, parameter in inspect.signature(make).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  } - set(run.parents)
  if known != set(run.settings):
    raise ValueError(
      f'{run.method!r} takes the settings {sorted(known)}; '
      f'the config gives {sorted(run.settings)}'
    )
  return make


def execute(
  run: Run,
  dataset: 'Splits',
  frozen: method_lib.Frozen,
  workdir: pathlib.Path,
  on_step: Callable[[int, float, float], None] | None = None,
) -> dict[str, Any]:
  """Trains a run, or goes on where it stopped, and evaluates it.

  Args:
    run: the run; its parents are finished.
    dataset: see `Splits`.
    frozen: the variables of its parents, by role.
    workdir: the study's folder.
    on_step: see `train.fit`.

  Returns:
    What is written to result.json.
  """
  folder = claim(run, workdir)
  parts = program(run, dataset.num_classes, len(dataset.train['label']))
  logits_of = functools.partial(evaluate.predict, prepare=parts.prepare_test)

  def validate(variables):
    logits = logits_of(parts.apply_fn, variables, dataset.val)
    return evaluate.scores(logits, dataset.val['label'])

  state = train.fit(
    parts.method,
    dataset.train,
    parts.prepare,
    epochs=run.recipe['epochs'],
    batch_size=run.recipe['batch_size'],
    frozen=frozen,
    seed=run.seed,
    evaluate_fn=validate if len(dataset.val['label']) else None,
    evaluate_every_epochs=run.recipe['evaluate_every_epochs'],
    folder=folder,
    checkpoint_every_epochs=run.recipe['checkpoint_every_epochs'],
    on_step=on_step,
    label=f'{run.label} ({run.id})',
    remedy=_remedy(run),
  )
  logits = logits_of(parts.apply_fn, state.variables, dataset.test)
  scores = evaluate.scores(logits, dataset.test['label'])
  if 'teacher' in run.parents:
    apply_fn = method_lib.frozen_fn(
      run.parents['teacher'].network(dataset.num_classes)
    )
    reference = logits_of(apply_fn, frozen['teacher'], dataset.test)
    scores |= {
      f'teacher_{k}': v for k, v in evaluate.fidelity(logits, reference).items()
    }
  return _finish(run, folder, scores)


def claim(run: Run, workdir: pathlib.Path) -> pathlib.Path:
  """The folder of a run, made where it is missing.

  Raises:
    errors.InputError: it holds a run of another config.
  """
  folder = workdir / 'runs' / run.id
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / 'config.json'
  if not path.exists():
    writers.write_json(path, run.config)
  elif writers.read_json(path) != run.config:
    raise errors.InputError(
      f'{path} is not the config that its folder is named after; delete the '
      'folder to train that network again, or choose another --workdir'
    )
  return folder


def result(run: Run, workdir: pathlib.Path) -> dict[str, Any] | None:
  """What a finished run wrote; None for any other."""
  path = workdir / 'runs' / run.id / 'result.json'
  if not path.exists():
    return None
  claim(run, workdir)
  return writers.read_json(path)


def variables(
  run: Run, workdir: pathlib.Path, dataset: 'Splits'
) -> dict[str, Any]:
  """The variables of a finished run, from its checkpoint."""
  parts = program(run, dataset.num_classes, len(dataset.train['label']))
  template = train.abstract_state(
    parts.method, dataset.train, parts.prepare_test
  )
  folder = workdir / 'runs' / run.id / 'checkpoints'
  return checkpoints.load(folder, template).variables


def _finish(run: Run, folder: pathlib.Path, scores: Mapping) -> dict[str, Any]:
  """Writes result.json, with which a run is finished."""
  epochs = writers.read_metrics(folder)
  content = {
    'id': run.id,
    'status': 'finished',
    'role': run.role,
    'model': run.model,
    'method': run.method,
    'parents': [parent.id for parent in run.parents.values()],
    'dataset': run.dataset['name'],
    'seed': run.seed,
    **{f'test_{k}': v for k, v in scores.items()},
    'val_accuracy': epochs[-1].get('val_accuracy') if epochs else None,
    'epochs': run.recipe['epochs'],
    'seconds': round(sum(epoch['secs'] for epoch in epochs), 3),
    'config': run.config,
  }
  writers.write_json(folder / 'result.json', content)
  return content


def _remedy(run: Run) -> str:
  """What to change when the loss of a run is not finite."""
  rate = run.recipe['learning_rate']
  if 'omega' in run.settings:
    omega = run.settings['omega']
    return f'lower omega (now {omega}), or the learning rate (now {rate})'
  return f'lower the learning rate (now {rate})'


@dataclasses.dataclass(frozen=True)
class Splits:
  """A data set with its held-out part.

  Attributes:
    train, val, test: image uint8[N, H, W, C] and label int32[N]; val is a part
      of the training set, held out, and may be empty.
    class_names: one a class.
  """

  train: Mapping[str, np.ndarray]
  val: Mapping[str, np.ndarray]
  test: Mapping[str, np.ndarray]
  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    return len(self.class_names)


def load_splits(
  dataset: Mapping[str, Any], data_dir: str | None = None
) -> Splits:
  """Loads the data set that runs name, and holds out its validation part."""
  loaded = data.load(dataset['name'], data_dir=data_dir)
  kept, val = data.hold_out(
    loaded.train, dataset['val_fraction'], dataset['val_seed']
  )
  return Splits(kept, val, loaded.test, loaded.class_names)
