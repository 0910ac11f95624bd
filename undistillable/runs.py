"""A run is one trained network, and its name is its content.

The resolved config of a run, its seed and the ids of the runs it depends on
are hashed into its id; its folder holds config.json, metrics.jsonl,
checkpoints and, once it is finished, result.json. A finished run is never
touched again, any other is resumed.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from undistillable import attacks, defenses, errors, models, writers

# Raise it when the same config would no longer train the same network.
VERSION = 2
DTYPES = ('bfloat16', 'float32')


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One network to train.

  Attributes:
    role: 'teacher', 'student', or 'images' for a set of them that an attack
      makes up.
    model: a name of `models.MODELS`; of images, the network they come from.
    method: a name of `defenses.DEFENSES` for a teacher, of `attacks.ATTACKS`
      for all others.
    settings: of the method.
    parents: the runs whose networks the method reads, by role; 'images' is a
      run whose images are learned from instead of the data set.
    dataset: name, normalization, val_fraction, val_seed, limit and fraction;
      see configs/digits.py.
    recipe: how it is trained; see there too.
    dtype: 'float32' or 'bfloat16', of the computation.
    seed: of everything random.
    init_from: a file of weights that makes training superfluous; its content
      is hashed, its name is not.
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
  init_from: str | None = None

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """What is hashed: all of it, as JSON has it."""
    content = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
    }
    content['parents'] = {k: run.id for k, run in self.parents.items()}
    if self.init_from is not None:
      weights = pathlib.Path(self.init_from).read_bytes()
      content['init_from'] = f'sha256:{hashlib.sha256(weights).hexdigest()}'
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
  def depth(self) -> int:
    """How many teachers, or else how many thefts, must come before it."""
    owner = self.role == 'teacher'
    same = [r for r in self.parents.values() if (r.role == 'teacher') == owner]
    return max((1 + run.depth for run in same), default=0)

  @property
  def data_free(self) -> bool:
    """Whether the method sees no data, but makes up its own."""
    return getattr(self.module, 'DATA_FREE', False)

  @property
  def chain(self) -> list['Run']:
    """This set of images, and those that its student has learned from."""
    student = self.parents.get('student')
    before = student.parents['images'].chain if student else []
    return [*before, self]

  @property
  def attack(self) -> str:
    """The method, or that which made up the images it learns from."""
    images = self.parents.get('images')
    return images.method if images else self.method

  @property
  def label(self) -> str:
    """What it is, for people."""
    source = self.parents.get('teacher')
    method = f'{self.attack}({source.method})' if source else self.attack
    return f'{self.role} {self.model} {method} seed {self.seed}'

  @property
  def module(self) -> ModuleType:
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

  def network(self, num_classes: int) -> nn.Module:
    """The untrained module."""
    if self.dtype not in DTYPES:
      raise ValueError(
        f'unknown dtype {self.dtype!r}; known: {", ".join(DTYPES)}'
      )
    dtype = jnp.dtype(self.dtype)
    return models.get_model(self.model, num_classes, dtype=dtype)


def folder(run: Run, workdir: pathlib.Path) -> pathlib.Path:
  """Where a run is kept."""
  return workdir / 'runs' / run.id


def claim(run: Run, workdir: pathlib.Path) -> pathlib.Path:
  """The folder of a run, made where it is missing.

  Raises:
    errors.InputError: it holds a run of another config.
  """
  place = folder(run, workdir)
  place.mkdir(parents=True, exist_ok=True)
  path = place / 'config.json'
  if not path.exists():
    writers.write_json(path, run.config)
  elif writers.read_json(path) != run.config:
    raise errors.InputError(
      f'{path} is not the config that its folder is named after; delete the '
      'folder to train that network again, or choose another --workdir'
    )
  return place


def result(run: Run, workdir: pathlib.Path) -> dict[str, Any] | None:
  """What a finished run wrote; None for any other."""
  path = folder(run, workdir) / 'result.json'
  if not path.exists():
    return None
  claim(run, workdir)
  return writers.read_json(path)
