"""From a config to the runs of a study, in order; nothing is trained."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import ml_collections

from undistillable import (
  attacks,
  config as config_lib,
  data,
  defenses,
  errors,
  models,
  registry,
)
from undistillable.attacks import synthesis
from undistillable.graph import programs, runs as runs_lib
from undistillable.models import black_box
from undistillable.storage import paths
from undistillable.training import parallel

Run = runs_lib.Run


def make(
  config: ml_collections.ConfigDict,
  runs_fn: 'Callable[[Job], Iterable[Run]] | None' = None,
) -> list[Run]:
  """The runs of the main job, in an order in which they can be trained.

  For every seed: the normal teacher (and an adversary, where that is another
  network), a protected teacher for every defense, every student alone, and
  every attack by every student on every teacher.

  Args:
    config: see `undistillable.config`.
    runs_fn: the runs of a seed, where they are others; what they depend on
      before them.

  Returns:
    Each run once; what a run depends on comes before it.

  Raises:
    errors.InputError: an unknown name or an impossible value.
  """
  config_lib.check(config)
  try:
    _check(config)
    runs_fn = runs_fn or Job.all_runs
    planned = [run for s in config.seeds for run in runs_fn(Job(config, s))]
    planned = in_order(planned)
    for run in planned:
      _check_recipe(run.recipe)
      # Any number of examples shows whether the parts fit.
      programs.build(run, run.recipe['batch_size'])
  except ValueError as error:
    raise errors.InputError(f'config: {error}') from error
  return planned


@dataclasses.dataclass(frozen=True)
class Job:
  """One seed of a config: what a method builds its runs from.

  Attributes:
    config: see `undistillable.config`.
    seed: of all runs.
  """

  config: ml_collections.ConfigDict
  seed: int

  @functools.cached_property
  def normal(self) -> Run:
    """The normal teacher."""
    return self._trained_normally(self.config.teacher)

  @functools.cached_property
  def adversary(self) -> Run:
    """What a defense undermines: the normal teacher, or another network."""
    chosen = self.config.adversary
    return self._trained_normally(chosen) if chosen.model else self.normal

  def all_runs(self) -> list[Run]:
    """The runs of the main job."""
    defended = [self.defend(name) for name in self.config.defenses]
    owners = [self.normal, self.adversary, *(r for d in defended for r in d)]
    teachers = list(dict.fromkeys([self.normal, *(d[-1] for d in defended)]))
    return owners + [
      run
      for model in self.config.students
      for run in self._thieves(model, teachers)
    ]

  def defend(self, name: str) -> list[Run]:
    """The runs of a defense; the last one is the protected teacher."""
    module = defenses.get(name)
    if module is defenses.none:
      return [self.normal]  # Trained, or of a file.
    plan = getattr(module, 'plan', None)
    *before, teacher = plan(self) if plan else [self.teacher(name)]
    twin = {'normal': self.normal}
    return [*before, dataclasses.replace(teacher, compared_with=twin)]

  def attack(self, name: str, teacher: Run | None, model: str) -> list[Run]:
    """The runs of an attack; the last one is the student.

    Args:
      name: of the attack.
      teacher: whom it robs; None for nobody, see `null_teacher`.
      model: of the student.
    """
    twin = teacher.compared_with.get('normal') if teacher else None
    return self._once(
      (name, teacher, twin, model),
      lambda: self._attack(name, teacher, twin, model),
    )

  def _attack(
    self, name: str, teacher: Run | None, twin: Run | None, model: str
  ) -> list[Run]:
    plan = getattr(attacks.get(name), 'plan', None)
    found = (
      plan(self, teacher, model)
      if plan
      else [self.student(name, model, {'teacher': teacher})]
    )
    others: dict[str, list[Run]] = {}
    if twin:
      others['normal'] = self._beside(found, name, twin, model)
    if teacher and self._has_null(name):
      others['null'] = self._beside(found, name, None, model)
    compared = []
    for index, run in enumerate(found):
      with_it = {k: v[index] for k, v in others.items() if v[index] != run}
      if run.role == 'student':
        with_it = {'control': self.control(run.model), **with_it}
      compared.append(dataclasses.replace(run, compared_with=with_it))
    return compared

  def _beside(
    self, found: list[Run], name: str, teacher: Run | None, model: str
  ) -> list[Run]:
    """The runs of the same attack on another; themselves where it fits none."""
    try:
      others = self.attack(name, teacher, model)
    except ValueError:
      return found
    # Whoever needs other steps on the way has the student alone in common.
    alike = len(others) == len(found)
    return others if alike else [*found[:-1], others[-1]]

  def _has_null(self, name: str) -> bool:
    """Whether an attack is run on nobody too: where it hears answers."""
    module = attacks.get(name)
    hears = 'teacher' in module.PARENTS
    reads = registry.declared(module, 'ACCESS') == 'weights'
    return self.config.null_teacher and hears and not reads

  def control(self, model: str) -> Run:
    """A student that is trained alone."""
    (run,) = self._once(model, lambda: [self.student('scratch', model)])
    return run

  @functools.cached_property
  def _planned(self) -> dict[Hashable, list[Run]]:
    return {}

  def _once(self, key: Hashable, make: Callable[[], list[Run]]) -> list[Run]:
    """Many runs are compared with the same ones."""
    if key not in self._planned:
      self._planned[key] = make()
    return self._planned[key]

  def teacher(
    self,
    method: str,
    parents: Mapping[str, Run] | None = None,
    model: str | None = None,
    settings: Mapping[str, Any] | None = None,
  ) -> Run:
    """A network of the owner.

    Args:
      method: of `defenses`.
      parents: beside 'normal' and 'adversary', which it finds itself.
      model: default: that of the config.
      settings: which differ from those of the config.
    """
    own = {'normal': self.normal, 'adversary': self.adversary} | dict(
      parents or {}
    )
    module = defenses.get(method)
    roles = module.PARENTS
    if module.make is None and 'normal' not in roles:
      raise ValueError(
        f'defense {method!r} has make = None, so it serves the network of its '
        f"parent 'normal', but PARENTS = {roles}; expected ('normal',)"
      )
    missing = set(roles) - set(own)
    if missing:
      raise ValueError(
        f'defense {method!r} has the parents {sorted(missing)}, but no plan '
        'that says what they are'
      )
    run = self._run(
      'teacher',
      model or self.config.teacher.model,
      method,
      {role: own[role] for role in roles},
      settings,
    )
    if run.only_serves:
      # What is served is one network, and so is its protected form.
      return dataclasses.replace(run, seed=own['normal'].seed)
    return run

  def student(
    self,
    method: str,
    model: str,
    parents: Mapping[str, Run | None] | None = None,
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
  ) -> Run:
    """A network of the thief.

    Args:
      method: of `attacks`.
      model: of the student.
      parents: of which it takes those that its method reads, and 'images';
        a teacher of None is nobody, see `null_teacher`.
      settings: which differ from those of the config.
      recipe: what differs from the config's for this model and method.
    """
    given, wanted = parents or {}, attacks.get(method).PARENTS
    missing = sorted(set(wanted) - set(given))
    if missing:
      raise ValueError(
        f'attack {method!r} has the parents {missing}, but no plan that says '
        'what they are; a thief is given the teacher'
      )
    roles = [*wanted, 'images']
    return self._run(
      'student',
      model,
      method,
      {role: run for role in roles if (run := given.get(role))},
      settings,
      recipe,
    )

  def helper(self, *args: Any, **kwargs: Any) -> Run:
    """A network that a thief trains on the way; arguments as of `student`."""
    return dataclasses.replace(self.student(*args, **kwargs), role='helper')

  def images(self, method: str, parents: Mapping[str, Run]) -> Run:
    """Images that an attack makes up from the network of a teacher."""
    # The range that a byte can have, as the teacher sees it.
    settings = synthesis.value_range(self.config.normalization)
    model = parents['teacher'].model
    return self._run('images', model, method, parents, settings)

  def student_of_images(self, model: str, teacher: Run, images: Run) -> Run:
    """A student of a teacher's answers to images that were made up."""
    parents = {'teacher': teacher, 'images': images}
    changes = self.config.recipes.get('made_up', {})
    return self.student('kd', model, parents, recipe=dict(changes))

  def settings(self, method: str, module: Any) -> dict[str, Any]:
    """Those of a method: its defaults, and what the config changes."""
    found, name = registry.defaults(module), registry.short(method)
    if name in self.config:  # To get what is missing takes 1 ms.
      found |= dict(self.config[name])
    return found

  def _thieves(self, model: str, teachers: list[Run]) -> Iterable[Run]:
    yield self.control(model)
    for name in self.config.attacks:
      if self._has_null(name):
        yield from self.attack(name, None, model)
      for teacher in teachers:
        yield from self.attack(name, teacher, model)

  def _trained_normally(self, chosen: ml_collections.ConfigDict) -> Run:
    run = self._run('teacher', chosen.model, 'none', {})
    if chosen.init_from is None:
      return run
    path = paths.local(chosen.init_from, 'init_from')
    if not path.is_file():
      raise ValueError(f'init_from: there is no file {path}')
    if black_box.is_recorded(chosen.model):
      run = self._asked_about(run)
    # Whatever seed: the same file is the same network.
    return dataclasses.replace(run, init_from=str(path), seed=0)

  def _asked_about(self, run: Run) -> Run:
    """Whose answers are recorded, with the foreign images that thieves have."""
    config = self.config
    if config.queries != 'cached' or run.dtype != 'float32':
      raise ValueError(
        f'queries={config.queries!r}, dtype={run.dtype!r}; expected '
        "'cached' and 'float32', since the answers of this network are "
        'recorded, once for each image'
      )
    foreign = (
      registry.declared(attacks.get(name), 'DATA') == 'foreign'
      for name in config.attacks
    )
    if not (config.transfer and any(foreign)):
      return run
    asked = {**run.learns_from, 'transfer': config.transfer}
    return dataclasses.replace(run, learns_from=asked)

  def _run(
    self,
    role: str,
    model: str,
    method: str,
    parents: Mapping[str, Run],
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
  ) -> Run:
    config = self.config
    judged_on = {
      'name': config.dataset,
      'limit': config.limit,
      'val_fraction': config.val_fraction,
      'val_seed': 0,
    }
    # The owner has all of the training set.
    fraction = 1.0 if role == 'teacher' else config.fraction
    run = Run(
      role=role,
      model=model,
      method=method,
      settings={},
      parents=parents,
      learns_from=judged_on | {'fraction': fraction},
      judged_on=judged_on,
      normalization=config.normalization,
      queries=config.queries if 'teacher' in parents else 'fresh',
      recipe=recipe_of(config, model, method) | dict(recipe or {}),
      dtype=config.dtype or _default_dtype(),
      seed=self.seed,
    )
    _check_black_box(run)
    found = self.settings(method, run.module) | dict(settings or {})
    learns_from = run.learns_from
    if 'images' in parents or run.access_to_data == 'none':
      learns_from = {}
    elif run.access_to_data == 'foreign':
      learns_from = self._transfer_set(judged_on)
    elif config.outliers is not None and getattr(run.module, 'OUTLIERS', False):
      if config.outliers == config.dataset:
        raise ValueError(
          f'outliers={config.outliers!r} is what is learned; expected images '
          'unlike these'
        )
      self._check_foreign('outliers', config.outliers)
      learns_from = {**learns_from, 'outliers': config.outliers}
    return dataclasses.replace(run, settings=found, learns_from=learns_from)

  def _transfer_set(self, own: Mapping[str, Any]) -> dict[str, Any]:
    """The foreign images that a thief has."""
    name = self.config.transfer
    if name is None:
      raise ValueError(
        'transfer is not set; name the data set whose images a thief without '
        'any of the owner has'
      )
    self._check_foreign('transfer', name)
    return {**own, 'name': name, 'fraction': self.config.fraction}

  def _check_foreign(self, field: str, name: str) -> None:
    """Raises ValueError where other images do not fit those of the owner."""
    own = self.config.dataset
    shapes = {n: data.get_source(n).image_shape for n in (name, own)}
    if len(set(shapes.values())) > 1:
      raise ValueError(
        f'{field}: images of {name} are {shapes[name]}, those of {own} '
        f'{shapes[own]}; they must have one shape'
      )


def vary(
  config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """A copy of a config in which some fields have other values.

  Args:
    config: left as it is.
    changes: {dotted name: value}.

  Example:
    >>> config = ml_collections.ConfigDict({'nasty': {'omega': 0.004}})
    >>> vary(config, {'nasty.omega': 0.1}).nasty.omega
    0.1
  """
  varied = config.copy_and_resolve_references()
  varied.update_from_flattened_dict(dict(changes))
  return varied


def in_order(runs: Iterable[Run]) -> list[Run]:
  """Each run once, what it depends on before it, named or not.

  Otherwise the owner's networks come first, and what they depend on; and runs
  of one program follow each other, since what is compiled for them is dropped
  again when many others come in between.
  """
  named = dict.fromkeys(runs)
  unique = list(
    dict.fromkeys(
      one
      for run in named
      for one in line(run)
      # As it was named: with what it is compared with.
      if one is run or one not in named
    )
  )
  first: dict[Run, int] = {}
  program = {
    run: first.setdefault(run.as_built, index)
    for index, run in enumerate(unique)
  }
  owners = {one for run in unique if run.is_owners for one in line(run)}
  unique.sort(key=lambda run: (run not in owners, program[run]))
  ordered: list[Run] = []
  waiting = dict.fromkeys(unique)
  while waiting:
    ready = next(
      run for run in waiting if waiting.keys().isdisjoint(run.parents.values())
    )
    ordered.append(ready)
    del waiting[ready]
  return ordered


def line(run: Run) -> list[Run]:
  """A run, and before it all that it depends on."""
  before = [one for parent in run.parents.values() for one in line(parent)]
  return [*dict.fromkeys(before), run]


def _check(config: ml_collections.ConfigDict) -> None:
  """What no single run can see."""
  for field in ('seeds', 'students', 'defenses', 'attacks'):
    if not config[field]:
      raise ValueError(f'{field} is empty; name at least one')
  if len(set(config.seeds)) < len(config.seeds):
    raise ValueError(
      f'seeds={config.seeds} names a seed twice; it is one network all the same'
    )
  # Of a larger one JAX takes the last 32 bits: it would be another's twin.
  if any(not 0 <= seed < 2**32 for seed in config.seeds):
    raise ValueError(
      f'seeds={config.seeds}; expected numbers >= 0 and below 2**32'
    )
  for one in (config.defenses, config.attacks):
    if len(set(map(registry.short, one))) < len(set(one)):
      raise ValueError(f'{one}: two modules of one name would share settings')
  methods = {*defenses.DEFENSES, *attacks.ATTACKS}
  for name in (*config.defenses, *config.attacks):
    if '.' in name and registry.short(name) in methods:
      raise ValueError(
        f'{name!r}: {registry.short(name)!r} is a method of the package, '
        'whose settings it would get; call your module otherwise'
      )
  if config.adversary.init_from and not config.adversary.model:
    raise ValueError(
      'adversary.init_from is set, but not adversary.model; without it the '
      'normal teacher is the adversary'
    )
  named = (*config.defenses, *config.attacks, 'made_up')
  known = {*models.MODELS, *methods}
  for name in set(config.recipes) - known - set(map(registry.short, named)):
    raise ValueError(f'recipes: there is no model or method {name!r}')
  errors.check_known('dataset', config.dataset, data.DATASETS)
  errors.check_known('normalization', config.normalization, data.NORMALIZATIONS)
  errors.check_known('queries', config.queries, ('cached', 'fresh'))
  if config.dtype is not None:
    errors.check_known('dtype', config.dtype, ('bfloat16', 'float32'))
  if not 0 <= config.val_fraction < 1:
    raise ValueError(
      f'val_fraction={config.val_fraction}; expected 0 <= val_fraction < 1'
    )
  if not 0 < config.fraction <= 1:
    raise ValueError(
      f'fraction={config.fraction}; expected 0 < fraction <= 1, the share of '
      'the training set that the thief has'
    )
  for field in ('eval_batch_size', 'together'):
    if config[field] < 1:
      raise ValueError(f'{field}={config[field]}; expected at least 1')
  if config.limit is not None and config.limit < 1:
    raise ValueError(f'limit={config.limit}; expected at least 1, or None')


def _check_black_box(run: Run) -> None:
  """Raises ValueError for what only the weights of a network allow."""
  trains = run.module.make and run.module is not defenses.none
  if run.is_owners and trains and run.model in black_box.KNOWN:
    raise ValueError(
      f'defense {run.method!r} trains, and of {run.model} only the answers are '
      'known'
    )
  for one in run.parents.values():
    if run.access == 'weights' and one.model in black_box.KNOWN:
      raise ValueError(
        f'it reads the weights, and of {one.model} only the answers are known'
      )
    if run.access_to_data == 'none' and black_box.is_recorded(one.model):
      raise ValueError(
        f'it makes up its images, and the answers of {one.model} are recorded '
        'for those of data sets'
      )


def _check_recipe(recipe: Mapping[str, Any]) -> None:
  """What no part of a program looks at."""
  parallel.check_batch_size(recipe['batch_size'], recipe['batch_size'])
  for field in ('evaluate_every_epochs', 'checkpoint_every_epochs'):
    if recipe[field] < 1:
      raise ValueError(f'{field}={recipe[field]}; expected at least 1')


def recipe_of(
  config: ml_collections.ConfigDict, model: str, method: str = 'none'
) -> dict[str, Any]:
  """How a network is trained: as all are, its model is, and its method is."""
  recipe = config.recipe.to_dict()
  for name in (model, registry.short(method)):
    if name in config.recipes:
      recipe |= dict(config.recipes[name])
  return recipe


def _default_dtype() -> str:
  """bfloat16 pays where there are matrix units for it."""
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
