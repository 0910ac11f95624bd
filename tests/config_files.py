"""The files of configs/, as the command line reads them."""

import importlib.util
import pathlib

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'


def load(name, *preset):
  """The config of a file, by the name of the file and of the preset."""
  spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*preset)
