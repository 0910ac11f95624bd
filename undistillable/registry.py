"""Defenses and attacks by name: of a registry, or a module of one's own."""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from undistillable import errors

# What a method does that trains nothing: a defense, or an attack.
_INSTEAD = ('serve', 'pick')
# What a method may declare, its default first.
_KNOWN = {
  'ACCESS': ('scores', 'labels', 'weights'),
  'DATA': ('own', 'foreign', 'none'),
}
# How the functions of a method are called, where it has them.
_CALLED = {
  'make': ('model', 'optimizer', 'settings', 'parents'),
  'serve': ('query', 'settings'),
}


def find(name: str, known: Mapping[str, ModuleType], kind: str) -> ModuleType:
  """The module of a method.

  Args:
    name: a key of `known`, or a dotted module name such as
      'my_package.my_defense'.
    known: a registry.
    kind: 'defense' or 'attack', for the error.

  Raises:
    errors.InputError: there is none, it cannot be run, or it lacks `make`,
      `Settings` or `PARENTS`, or cannot be called as they are.
  """
  if name in known:
    return known[name]
  if '.' not in name:
    raise errors.InputError(
      f'unknown {kind} {name!r}; known: {", ".join(known)}, or a module of '
      'your own as package.module'
    )
  try:
    module = importlib.import_module(name)
  # A module of one's own can fail in any way when it is run.
  except Exception as error:
    raise errors.InputError(
      f'the {kind} {name!r} cannot be imported ({type(error).__name__}: '
      f'{error})'
    ) from error
  for wanted in ('make', 'Settings', 'PARENTS'):
    if not hasattr(module, wanted):
      raise errors.InputError(
        f'the {kind} {name!r} has no {wanted}; see "Extend it" in the README'
      )
  does = {'defense': ('serve',), 'attack': ('pick',)}.get(kind, _INSTEAD)
  if module.make is None and not any(hasattr(module, one) for one in does):
    raise errors.InputError(
      f'the {kind} {name!r} neither trains (make = None) nor '
      f'{" nor ".join(f"{one}s (it has no {one})" for one in does)}'
    )
  for called, arguments in _CALLED.items():
    function = getattr(module, called, None)
    try:
      if function is not None:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
      raise errors.InputError(
        f'the {kind} {name!r}: its {called} cannot be called as '
        f'{called}({", ".join(arguments)}): {error}'
      ) from error
  try:
    defaults(module)
  except TypeError as error:
    raise errors.InputError(
      f'the {kind} {name!r}: its Settings are no dataclass whose fields all '
      f'have a default ({error})'
    ) from error
  return module


def declared(module: ModuleType, name: str) -> str:
  """Its ACCESS, what a teacher gives away; or its DATA, what it learns from."""
  value, known = getattr(module, name, _KNOWN[name][0]), _KNOWN[name]
  if value not in known:
    raise ValueError(
      f'{module.__name__!r} has {name} = {value!r}; known: {", ".join(known)}'
    )
  return value


def short(name: str) -> str:
  """What a method is called in configs and tables: 'my_defense'."""
  return name.rsplit('.', 1)[-1]


def defaults(module: ModuleType) -> dict[str, Any]:
  """The settings of a method and their defaults."""
  return dataclasses.asdict(module.Settings())


def settings(module: ModuleType, values: Mapping[str, Any]) -> Any:
  """The checked settings of a method.

  Raises:
    errors.InputError: an unknown name, or an impossible value.
  """
  known = inspect.signature(module.Settings).parameters
  unknown = sorted(set(values) - set(known))
  name = short(module.__name__)
  if unknown:
    raise errors.InputError(
      f'{name} has no setting {unknown[0]!r}; known: {", ".join(known)}'
    )
  # Settings are hashed, and the config of a run that was read has lists.
  values = {
    k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
  }
  try:
    return module.Settings(**values)
  except ValueError as error:
    raise errors.InputError(f'{name}: {error}') from error
