"""The examples in docstrings print what stands there."""

import doctest
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _name(path):
  """How the module in a file is imported."""
  name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  return name.removesuffix('.__init__')


MODULES = [
  _name(path)
  for path in sorted((ROOT / 'undistillable').rglob('*.py'))
  if '>>>' in path.read_text()
]


@pytest.mark.parametrize('name', MODULES)
def test_the_examples_of_a_module(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # Some write files.
  module = importlib.import_module(name)
  arrays = {'jax': jax, 'jnp': jnp, 'np': np}
  found = doctest.testmod(module, extraglobs=arrays)
  assert found.attempted
  assert not found.failed
