"""A run is one trained network, and its name is its content.

The resolved config of a run, its seed and the ids of the runs it depends on
are hashed into its id; its folder holds config.json, metrics.jsonl,
checkpoints and, once it is finished, its variables and result.json. A finished
run is never touched again, any other is resumed.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
import re
from collections.abc import Hashable, Mapping
from types import ModuleType
from typing import Any

from undistillable import attacks, defenses, errors, registry
from undistillable.storage import disk

# Raise it when the same config would no longer train the same network.
VERSION = 3
# Networks in which `skeptical` listens where it always did; in others it has
# listened elsewhere since then, and what it trains has another version.
_TAPPED_AS_BEFORE = re.compile(r'cnn\d*|mlp')
_HASH = re.compile('sha256:[0-9a-f]{64}')
# What must agree for two runs to go through the same batches side by side.
_SHARED_FIELDS = (
  'epochs',
  'batch_size',
  'augment',
  'evaluate_every_epochs',
  'checkpoint_every_epochs',
)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One network to train, or to serve.

  Attributes:
    role: 'teacher', 'partner' for another network of the owner that serves
      beside a teacher, 'student', 'helper' for a network that a thief trains on
      the way to his student, or 'images' for a set of them that an attack
      makes up.
    model: a name of `models.MODELS`; of images, the network they come from.
    method: a name of `defenses.DEFENSES` for a network of the owner, of
      `attacks.ATTACKS` for all others, or a dotted module name.
    settings: of the method, all of them. Of those that its module declares to
      be `FILES`, too, the content is hashed and not the name.
    parents: the runs whose networks the method reads, by role; 'images' is a
      run whose images are learned from instead of a data set.
    learns_from: name, limit, val_fraction, val_seed and fraction of a data
      set; see `undistillable.config`. Of recorded answers also 'transfer', the
      name of the data set whose images were asked about as well.
    judged_on: name, limit, val_fraction and val_seed of one, likewise.
    normalization: see `undistillable.config`.
    queries: see there.
    recipe: how it is trained; see there.
    dtype: 'float32' or 'bfloat16', of the computation.
    seed: of everything random.
    init_from: a file of weights, or of what answers, that makes training
      superfluous; its content is hashed, its name is not. Of a run that was
      read, that hash.
    compared_with: the runs that tables compare it with, which are no part of
      its content: 'control', the same student alone; 'null', by the same
      attack on nobody; 'normal', the normal twin of a protected teacher, or
      the same attack on that.
  """

  role: str
  model: str
  method: str
  settings: Mapping[str, Any]
  parents: Mapping[str, 'Run']
  learns_from: Mapping[str, Any]
  judged_on: Mapping[str, Any]
  normalization: str
  queries: str
  recipe: Mapping[str, Any]
  dtype: str
  seed: int
  init_from: str | None = None
  compared_with: Mapping[str, 'Run'] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """What is hashed: all of it, as JSON has it."""
    content = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != 'compared_with'
    }
    content['parents'] = {k: run.id for k, run in self.parents.items()}
    if self.init_from is not None:
      content['init_from'] = _hash_of('init_from', self.init_from)
    files = getattr(self.module, 'FILES', ())  # Settings that are paths.
    content['settings'] = {
      name: _hash_of(name, value) if value and name in files else value
      for name, value in self.settings.items()
    }
    if '.' in self.method:  # One's own, of which VERSION says nothing.
      try:
        source = inspect.getsource(self.module)
      except (OSError, TypeError):  # It was made in memory.
        source = ''
      digest = hashlib.sha256(source.encode()).hexdigest()
      content['source'] = f'sha256:{digest}'
    content['version'] = VERSION
    if self.method == 'skeptical' and not _TAPPED_AS_BEFORE.fullmatch(
      self.model
    ):
      content['version'] = VERSION + 0.1
    return disk.as_json(content)

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
  def shown_method(self) -> str:
    """The method, or that which made up the images it learns from."""
    images = self.parents.get('images')
    return registry.short(images.method if images else self.method)

  @property
  def label(self) -> str:
    """What it is, for people."""
    method, teacher = self.shown_method, self.parents.get('teacher')
    if teacher:
      method += f'({teacher.shown_method})'
    return f'{self.role} {self.model} {method} seed {self.seed}'

  @property
  def is_owners(self) -> bool:
    """Whether it is a network of the owner, and none of a thief."""
    return self.role in ('teacher', 'partner')

  @property
  def module(self) -> ModuleType:
    """`defenses.<method>` or `attacks.<method>`."""
    found = defenses if self.is_owners else attacks
    return found.get(self.method)

  @functools.cached_property
  def method_settings(self) -> Any:
    """The settings, checked, as the method takes them."""
    return registry.settings(self.module, self.settings)

  @property
  def only_serves(self) -> bool:
    """Whether nothing is trained: the network is that of a parent.

    Of the owner's it is the parent 'normal', of a student one of `candidates`.
    """
    return self.module.make is None

  @property
  def epochs(self) -> int:
    """How long it is trained; 0 where nothing is."""
    return 0 if self.init_from or self.only_serves else self.recipe['epochs']

  def robs(self, role: str) -> bool:
    """Whether a parent is one whose answers it steals."""
    served = role == 'teacher' or self.parents[role].role == 'partner'
    return served and not self.is_owners

  @property
  def candidates(self) -> dict[str, 'Run']:
    """Those of which a student that is not trained is one, by role."""
    if self.is_owners or not self.only_serves:
      return {}
    return {k: run for k, run in self.parents.items() if k != 'teacher'}

  @property
  def robs_nobody(self) -> bool:
    """Whether it is an attack without a teacher: see `null_teacher`."""
    if self.is_owners or 'teacher' in self.parents:
      return False
    return 'teacher' in self.module.PARENTS

  @property
  def access_to_data(self) -> str:
    """What its method learns from: 'own', 'foreign' or 'none'."""
    return registry.declared(self.module, 'DATA')

  @property
  def access(self) -> str:
    """What its teacher gives away: 'labels', 'scores' or 'weights'."""
    return registry.declared(self.module, 'ACCESS')

  @property
  def has_owners_data(self) -> bool:
    """Whether it learns from images of the owner, or at least their like."""
    return self.access_to_data == 'own' and 'images' not in self.parents

  @property
  def asks_once(self) -> bool:
    """Whether the networks that it hears are asked about every image once."""
    return self.queries == 'cached' or self.recipe['augment'] == 'none'

  @functools.cached_property
  def answers_key(self) -> Hashable:
    """Equal for runs that hear the same answers, and gain by it together."""
    if not self.parents or self.num_made is not None or self.asks_once:
      return self.id
    if self.only_serves:
      return self.id
    return (
      self.role,
      self.method,
      self.seed,
      self.dtype,
      self.queries,
      tuple((role, parent.id) for role, parent in self.parents.items()),
      json.dumps([self.learns_from, self.judged_on], sort_keys=True),
      tuple(self.recipe[field] for field in _SHARED_FIELDS),
    )

  @functools.cached_property
  def as_built(self) -> 'Run':
    """Itself, less what its program does not depend on."""
    parents = {role: run.as_asked for role, run in self.parents.items()}
    return dataclasses.replace(self, parents=parents, seed=0, compared_with={})

  @property
  def as_asked(self) -> 'Run':
    """Itself, less what its answers do not depend on, but for its weights."""
    method, settings, parents = self.method, self.settings, self.parents
    if not hasattr(self.module, 'serve'):
      method = 'none' if self.is_owners else 'scratch'
      settings, parents = {}, {}
    return dataclasses.replace(
      self,
      method=method,
      settings=settings,
      parents={role: run.as_asked for role, run in parents.items()},
      recipe={},
      learns_from={},
      queries='',
      seed=0,
      init_from=None,
      compared_with={},
    )

  @property
  def chain(self) -> list['Run']:
    """This set of images, and those that its student has learned from."""
    student = self.parents.get('student')
    before = student.parents['images'].chain if student else []
    return [*before, self]

  @property
  def num_made(self) -> int | None:
    """How many images it learns from that a method made up or will; or None."""
    if 'images' in self.parents:
      return sum(
        run.settings['num_images'] for run in self.parents['images'].chain
      )
    if self.access_to_data != 'none':
      return None
    steps = self.recipe['steps_per_epoch'] * self.recipe['batch_size']
    return self.settings.get('num_images', steps)


def _hash_of(name: str, file: str) -> str:
  """The hash of what is in a file; one that is no file but a hash stays."""
  if _HASH.fullmatch(file):
    return file
  path = pathlib.Path(file)
  found = path.read_bytes()
  if disk.contradict(path.parent, path.name, found):
    raise errors.InputError(
      f'{name}={path} is damaged: {path.parent / disk.SUMS} says so'
    )
  return f'sha256:{hashlib.sha256(found).hexdigest()}'


def read(folder: pathlib.Path) -> Run:
  """The run that a folder is named after, and its parents from beside it.

  Args:
    folder: of the run.

  Returns:
    The run, less what it is compared with.

  Raises:
    errors.InputError: the folder holds no run, or not the one that it is named
      after: of another version of undistillable or of a module of one's own.
  """
  path = folder / 'config.json'
  if not path.is_file():
    raise errors.InputError(f'{folder} is no folder of a run: no config.json')
  content = disk.read_json(path)
  try:
    given = {
      field.name: content[field.name]
      for field in dataclasses.fields(Run)
      if field.name != 'compared_with'
    }
    parents = {
      role: read(folder.with_name(name))
      for role, name in given['parents'].items()
    }
    run = Run(**given | {'parents': parents})
    name = run.id
  except errors.InputError:
    raise
  # The last: of a parent that is no name of a folder.
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.InputError(f'{path} is no config of a run') from error
  if name != folder.name:
    raise errors.InputError(
      f'{path} is not the config that its folder is named after: it was '
      'changed, or is of another version of undistillable or of the module '
      f'{run.method!r}; train it again in another --workdir'
    )
  return run
