"""The command line: every mistake on it, or in a config file, is one sentence.

What it finds is found before data is loaded, or anything compiled or written.
"""

import functools
import inspect
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from undistillable import config as config_lib, cpu, errors, terminal
from undistillable.storage import paths


class _Parser(flags.ArgumentParser):
  """Reads a config file; what is wrong with it is said in a sentence."""

  def parse(self, path: str) -> ml_collections.ConfigDict:
    config = load(path)
    config.lock()
    return config


CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='As configs/cifar10.py:smoke, or cifar10:smoke.'
)
flags.FLAGS['config'].parser = _Parser()


def run(main: Callable[[], None], default: str | None = None) -> None:
  """Calls `main` when the flags are read.

  Args:
    main: what it raises of `errors.InputError` and `OSError` ends the process
      with one sentence.
    default: the config file where none is named.
  """
  terminal.be_printable()
  cpu.use_fast_convolutions()

  def say(argv: list[str]) -> None:
    if len(argv) > 1:
      sys.exit(f'error: unexpected arguments {argv[1:]}; flags start with --')
    try:
      main()
    except (errors.InputError, OSError) as error:
      sys.exit(f'error: {_sentence(error)}')

  app.run(say, flags_parser=functools.partial(parse, default=default))


def parse(argv: list[str], default: str | None = None) -> list[str]:
  """absl's parser, which ends with one sentence for whatever it refuses.

  Modules of one's own that the command line names bring their settings into
  the config first, so that it can set them.
  """
  try:
    for name in _own_methods(argv):
      config_lib.know(name)
    if default is not None:
      flags.set_default(CONFIG, default)
    rest = flags.FLAGS(argv)
    if CONFIG.value is not None:
      config_lib.check(CONFIG.value)
  except (errors.InputError, flags.Error) as error:
    # absl repeats the path, which is in the sentence of `load` already.
    inner = error.__context__
    own = isinstance(inner, errors.InputError)
    sys.exit(f'error: {_sentence(inner if own else error)}')
  # What ml_collections raises for a field that there is not: one in another.
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    reason: Any = error
    while isinstance(reason, Exception):
      reason = reason.args[0]
    reason = f'the config has no field {reason}'.replace('\n', '. ')
    sys.exit(f'error: {config_lib.renamed(" ".join(argv)) or reason}')
  return rest


def config() -> ml_collections.ConfigDict:
  """What --config names, with all changes.

  Raises:
    errors.InputError: it is not given.
  """
  if CONFIG.value is None:
    raise errors.InputError(
      'there is no --config; name a file, as --config=configs/digits.py'
    )
  return CONFIG.value


def load(path: str) -> ml_collections.ConfigDict:
  """The config of a file.

  Args:
    path: of the file, or the name of one of configs/, as 'digits'; behind a
      colon, what its `get_config` is given.

  Raises:
    errors.InputError: there is no such file, it cannot be run, or it gives no
      config.
  """
  file, *preset = path.split(':', 1)
  # Whole, or the colon of a URL would be taken for that of a preset.
  paths.local(path, 'the config file')
  place = paths.local(file, 'the config file')
  if re.fullmatch(r'\w+', file) and not place.exists():
    place = _named(file)
  if not place.is_file():
    raise errors.InputError(f'there is no config file {place}{_hint(place)}')
  try:
    module = runpy.run_path(str(place), run_name='config_file')
    get_config = module.get('get_config')
    if not callable(get_config):
      raise errors.InputError('it has no function get_config')
    try:
      inspect.signature(get_config).bind(*preset)
    except TypeError as error:
      raise errors.InputError(
        f'it has no presets; given {preset[0]!r}'
        if preset
        else f'it needs a preset, as {file}:name'
      ) from error
    found = get_config(*preset)
    if not isinstance(found, ml_collections.ConfigDict):
      raise errors.InputError(
        f'get_config returns {type(found).__name__}, expected the config that '
        'undistillable.config.base() makes'
      )
    config_lib.complete(found)
  except errors.InputError as error:
    raise errors.InputError(f'{place}: {error}') from error
  # A config file is a program, and can fail in any way.
  except Exception as error:
    raise errors.InputError(f'{place}{_where(error, str(place))}') from error
  return found


def _named(name: str) -> pathlib.Path:
  """A file of configs/."""
  known = _of_package()
  if known and name not in known:
    raise errors.InputError(
      f'unknown config {name!r}; known: {", ".join(known)}, or a file'
    )
  return known.get(name, pathlib.Path(name))


def _of_package() -> dict[str, pathlib.Path]:
  """The files of configs/, which is in the package where it is installed."""
  package = pathlib.Path(__file__).parent
  for folder in (package / 'configs', package.parent / 'configs'):
    if known := sorted(folder.glob('[!_]*.py')):
      return {path.stem: path for path in known}
  return {}


def _hint(place: pathlib.Path) -> str:
  """For who names a file of the package from another folder."""
  if place.parent.name != 'configs' or place.stem not in _of_package():
    return ''
  return f'; from any folder, --config={place.stem} is that of the package'


def _where(error: Exception, file: str) -> str:
  """', line 3: NameError: ...', of the last line of the file that ran."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == file
  ]
  line, told = (lines or [None])[-1], str(error)
  if isinstance(error, SyntaxError) and error.filename == file:
    line, told = error.lineno, error.msg
  kind = type(error).__name__
  return f'{f", line {line}" if line else ""}: {kind}: {told}'


def _sentence(error: BaseException | None) -> str:
  """What an error says, on one line."""
  return ' '.join(str(error).split())


def _own_methods(argv: list[str]) -> list[str]:
  """The dotted names in --config.defenses=... and --config.attacks=....

  Of the arena as well, where settings may follow, as in 'kd:alpha=0.1', and in
  --served=... of an audit.
  """
  given = ' '.join(argv)
  fields = r'--config\.(?:arena\.)?(?:defenses|attacks)'
  values = re.findall(rf'{fields}[= ](\(.*?\))(?= --|$)', given)
  values += re.findall(r'--served[= ](\S+)', given)
  return re.findall(r'(?<![\w.=])[^\W\d]\w*(?:\.\w+)+', ' '.join(values))
