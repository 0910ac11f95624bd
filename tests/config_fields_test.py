"""Every field of a config with every kind of nonsense: a sentence, or it works.

Where a value is taken, the programs of all runs can be built; nothing is
compiled.
"""

import math
import random
import time

import config_files
import hypothesis
import ml_collections
import pytest
from hypothesis import strategies

from undistillable import attacks, config as config_lib, defenses, errors
from undistillable.graph import plan

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


def _values(config, prefix=''):
  """(dotted name, default) of all fields."""
  for key in config:
    value = config.get_ref(key).get() if key in config else None
    if isinstance(value, ml_collections.ConfigDict):
      yield from _values(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _leaves(config, prefix=''):
  """(dotted name, type) of all fields."""
  for key in config:
    value = config.get_ref(key).get() if key in config else None
    if isinstance(value, ml_collections.ConfigDict):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      kind = config.get_type(key)
      yield f'{prefix}{key}', tuple if kind is list else kind


_DATA = strategies.sampled_from(['digits', 'patches', 'cifar10'])
_MODELS = strategies.sampled_from(['cnn4', 'cnn8', 'mlp'])
_WORDS = strategies.sampled_from(['digits', 'fresh', 'bfloat16', 'no_such'])
# What texts stand in these, so that most values are of use by themselves.
_NAMES = {
  'attacks': strategies.sampled_from([*attacks.ATTACKS]),
  'defenses': strategies.sampled_from([*defenses.DEFENSES]),
  'students': _MODELS,
  'teacher.model': _MODELS,
  'adversary.model': _MODELS,
  'dataset': _DATA,
  'outliers': strategies.none() | _DATA,
  'transfer': strategies.none() | _DATA,
}
# By the type of a field, what it may well be; what it cannot be is above.
_LIKELY = {
  bool: strategies.booleans(),
  int: strategies.integers(-1, 100),
  float: strategies.floats(-1.0, 10.0),
  str: _WORDS,
}


def _likely(name, default, kind):
  """What a field may well be, of its name, its default and its type."""
  if kind is not tuple:
    return _NAMES.get(name, _LIKELY[kind])
  kinds = {type(one) for one in default} & set(_LIKELY)
  if len(kinds) != 1:
    return strategies.just(())
  one = _NAMES.get(name, _LIKELY[kinds.pop()])
  return strategies.lists(one, min_size=1, max_size=3, unique=True).map(tuple)


_FIELDS = dict(_leaves(config_lib.base()))
_FIELDS |= {
  name.replace('recipe.', 'recipes.cnn4.'): kind
  for name, kind in _FIELDS.items()
  if name.startswith('recipe.')
}


_DIGITS = config_files.load('digits').copy_and_resolve_references().to_dict()
_DEFAULTS = dict(_values(config_lib.base()))
_VALUES = {
  name: _likely(name, _DEFAULTS[name.replace('recipes.cnn4.', 'recipe.')], kind)
  for name, kind in _FIELDS.items()
}
# Of these the plan makes runs; most of all fields are a method's own affair.
_PLANNED = sorted(
  name
  for name in _FIELDS
  if '.' not in name or name in _NAMES or name.startswith('recipe.')
)


def _config(names):
  """One that reads the fields, shrunk to few runs."""
  # Neither locked nor of fixed types, which takes long to switch off.
  config = ml_collections.ConfigDict(_DIGITS, type_safe=False)
  config.teacher.model, config.students, config.seeds = (
    'cnn4',
    ('cnn4',),
    (0,),
  )
  config.recipes = ml_collections.ConfigDict(type_safe=False)
  if 'outliers' in names:
    config.defenses = ('adaptive_misinformation',)
  for name in names:
    method = name.split('.')[0]
    if name.startswith('recipes.'):
      config.recipes[name.split('.')[1]] = {}
    if method in defenses.DEFENSES:
      config.defenses = (method,)
    elif method in attacks.ATTACKS:
      config.attacks = (method,)
      config.transfer = 'patches'
  return config


def _told(values):
  """The sentence about {field: value}; None where they are taken."""
  config = _config(values)
  for name, value in values.items():
    *parents, last = name.split('.')
    part = config
    for parent in parents:
      part = part[parent]
    part[last] = value
  start = time.monotonic()
  try:
    plan.make(config)
  except (errors.InputError, OSError) as error:  # As `command.run` does.
    return str(error)
  finally:
    assert time.monotonic() - start < _MAX_SECS, values
  return None


def _check(values):
  said = _told(values)
  assert said is None or len(said) < _MAX_LENGTH, (values, said)
  assert said is None or len(said.splitlines()) == 1, (values, said)
  return said


@pytest.mark.parametrize('name', list(_FIELDS))
def test_an_odd_value_is_refused_in_a_sentence_or_taken(name):
  for value in _ODD[_FIELDS[name]]:
    _check({name: value})


@pytest.mark.parametrize('name', list(_FIELDS))
def test_a_value_of_another_type_is_refused_in_a_sentence(name):
  kind = _FIELDS[name]
  for value in random.Random(name).sample(_WRONG, 6):
    said = _check({name: value})
    fits = isinstance(value, kind | (int if kind is float else kind))
    if kind is not tuple and value is not None and not fits:
      assert said is not None, value


@hypothesis.settings(
  max_examples=200, deadline=None, derandomize=True, database=None
)
@hypothesis.example({'maze.budget': 10**5, 'recipe.batch_size': 0})
@hypothesis.example({'dfme.budget': 10**5, 'recipe.steps_per_epoch': 0})
@hypothesis.given(
  strategies.sets(
    strategies.sampled_from(_PLANNED)
    | strategies.sampled_from(sorted(_FIELDS)),
    min_size=2,
    max_size=5,
  ).flatmap(
    lambda names: strategies.fixed_dictionaries(
      {name: _VALUES[name] for name in sorted(names)}
    )
  )
)
def test_values_that_contradict_each_other_are_refused_in_a_sentence(values):
  _check(values)
