"""Every field of a config with every kind of nonsense: a sentence, or it works.

Where a value is taken, the programs of all runs can be built; nothing is
compiled.
"""

import math
import random
import time

import config_files
import ml_collections
import pytest

from undistillable import attacks, config as config_lib, defenses, errors, plan

_MAX_SECS = 3.0
_MAX_LENGTH = 1000  # Of a sentence.
# By the type of a field: what may be out of its range, and what is of no type
# that it could have.
_ODD = {
  bool: (True, False),
  int: (-1, 0, 1, 2**31, 10**30),
  float: (-1.0, 0.0, 1.0, 1e300, 5e-324, 10**300, 3),
  str: ('', 'no_such', 'no.such', '../x', '\0', 'x' * 300, '☃'),
  tuple: (
    (),
    (-1,),
    (0,),
    (0.5,),
    ('no_such',),
    ('',),
    (1, 1),
    (10**30,),
    (1e300,),
  ),
}
_WRONG = (
  None,
  True,
  7,
  0.5,
  math.nan,
  math.inf,
  -math.inf,
  'no_such',
  b'no',
  (),
  (None,),
  ((),),
  ('no_such', 1),
  [3],
  {'a': 1},
  object,
)


def _leaves(config, prefix=''):
  """(dotted name, type) of all fields."""
  for key in config:
    value = config.get_ref(key).get() if key in config else None
    if isinstance(value, ml_collections.ConfigDict):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      kind = config.get_type(key)
      yield f'{prefix}{key}', tuple if kind is list else kind


_FIELDS = dict(_leaves(config_lib.base()))
_FIELDS |= {
  name.replace('recipe.', 'recipes.cnn4.'): kind
  for name, kind in _FIELDS.items()
  if name.startswith('recipe.')
}


def _config(name):
  """One that reads the field, shrunk to few runs."""
  config = config_files.load('digits')
  method = name.split('.')[0]
  with config.unlocked(), config.ignore_type():
    config.teacher.model, config.students, config.seeds = (
      'cnn4',
      ('cnn4',),
      (0,),
    )
    config.recipes = ml_collections.ConfigDict()
    if name.startswith('recipes.'):
      config.recipes[name.split('.')[1]] = {}
    if method in defenses.DEFENSES:
      config.defenses = (method,)
    elif method in attacks.ATTACKS:
      config.attacks = (method,)
      config.transfer = 'patches'
  return config


def _told(name, value):
  """The sentence about a value of a field; None where it is taken."""
  config = _config(name)
  *parents, last = name.split('.')
  part = config
  for parent in parents:
    part = part[parent]
  with part.unlocked(), part.ignore_type():
    part[last] = value
  start = time.monotonic()
  try:
    plan.make(config)
  except (errors.InputError, OSError) as error:  # As `command.run` does.
    return str(error)
  finally:
    assert time.monotonic() - start < _MAX_SECS, (name, value)
  return None


def _check(name, value):
  said = _told(name, value)
  assert said is None or len(said) < _MAX_LENGTH, (name, said)
  assert said is None or len(said.splitlines()) == 1, (name, said)
  return said


@pytest.mark.parametrize('name', list(_FIELDS))
def test_an_odd_value_is_refused_in_a_sentence_or_taken(name):
  for value in _ODD[_FIELDS[name]]:
    _check(name, value)


@pytest.mark.parametrize('name', list(_FIELDS))
def test_a_value_of_another_type_is_refused_in_a_sentence(name):
  kind = _FIELDS[name]
  for value in random.Random(name).sample(_WRONG, 6):
    said = _check(name, value)
    fits = isinstance(value, kind | (int if kind is float else kind))
    if kind is not tuple and value is not None and not fits:
      assert said is not None, value
