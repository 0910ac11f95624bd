"""The command `undistillable`: what a user types most.

Each of its commands is a module that `python -m` runs as well. Nothing that
takes long to import is imported before it is known which.
"""

import runpy
import sys

import undistillable

_COMMANDS = {
  'run': ('undistillable.main', 'protects a teacher, robs it, reports'),
  'audit': (
    'undistillable.audit',
    'tries attacks on one network, and comes to a verdict',
  ),
  'status': (
    'undistillable.status',
    'shows who trains what in a workdir, and what is left',
  ),
  'export': (
    'undistillable.export',
    'writes a protected network to one folder, to deploy it',
  ),
  'data': ('undistillable.data', 'prepares, checks and lists data sets'),
  'models': ('undistillable.models', 'lists the networks and their sizes'),
}
_HELP = """\
usage: undistillable COMMAND ...

{commands}

for example

  undistillable run --config=digits --workdir=/tmp/digits --config.seeds='(0,)'
  undistillable audit --config=digits --weights=mine.safetensors --model=cnn8
  undistillable export --workdir=/tmp/digits --to=/tmp/protected
  undistillable data list

COMMAND --help says more; --version prints the version. Each is a module, too:
run is python -m undistillable.main, any other python -m undistillable.COMMAND.
"""


def main() -> None:
  """Runs one command with what is left of the command line."""
  name, *rest = sys.argv[1:] or ['--help']
  if name in ('-h', '--help', 'help'):
    print(_help(), end='')
  elif name == '--version':
    print(undistillable.__version__)
  elif name not in _COMMANDS:
    known = ', '.join(_COMMANDS)
    sys.exit(f'error: unknown command {name!r}; known: {known}')
  else:
    sys.argv[1:] = rest
    if not sys.flags.safe_path and '' not in sys.path:
      sys.path.insert(0, '')  # As python -m does: for modules of one's own.
    module, _ = _COMMANDS[name]
    runpy.run_module(module, run_name='__main__', alter_sys=True)


def _help() -> str:
  width = max(map(len, _COMMANDS))
  commands = [
    f'  {name:{width}}  {told}' for name, (_, told) in _COMMANDS.items()
  ]
  return _HELP.format(commands='\n'.join(commands))


if __name__ == '__main__':
  main()
