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
    'undistillable.main',
    'the same, and tries every attack of a client with data of his own',
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
  undistillable audit --config=digits --workdir=/tmp/audit
  undistillable export --workdir=/tmp/digits --to=/tmp/protected
  undistillable data list

COMMAND --help says more; --version prints the version. Each is a module, too:
run and audit are python -m undistillable.main, any other is python -m
undistillable.COMMAND.
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
    if name == 'audit':
      rest = _with_attacks(rest)
    sys.argv[1:] = rest
    module, _ = _COMMANDS[name]
    runpy.run_module(module, run_name='__main__', alter_sys=True)


def _help() -> str:
  width = max(map(len, _COMMANDS))
  commands = [
    f'  {name:{width}}  {told}' for name, (_, told) in _COMMANDS.items()
  ]
  return _HELP.format(commands='\n'.join(commands))


def _with_attacks(flags: list[str]) -> list[str]:
  """The flags of the main job, and the attacks where they name none."""
  given = {flag.lstrip('-').split('=')[0] for flag in flags}
  # Without a config there is nothing to change, as the main job says.
  if 'config.attacks' in given or 'config' not in given:
    return flags
  from undistillable import attacks  # Imports JAX.

  names = tuple(
    name
    for name, module in attacks.ATTACKS.items()
    if 'teacher' in module.PARENTS
    and getattr(module, 'DATA', 'own') == 'own'
    and getattr(module, 'ACCESS', 'scores') != 'weights'
  )
  # Last, since changes must follow the config.
  return [*flags, f'--config.attacks={names!r}']


if __name__ == '__main__':
  main()
