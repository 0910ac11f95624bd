"""Prepares, checks and lists data sets.

  python -m undistillable.data prepare cifar10
  python -m undistillable.data prepare tiny_imagenet \
    --archive=tiny-imagenet-200.zip --data_dir=data
  python -m undistillable.data check cifar10
  python -m undistillable.data list
"""

import argparse
import gc
import signal
import sys
from collections.abc import Sequence

from undistillable import data, errors, terminal
from undistillable.data import dataset, folders


def _prepare(arguments: argparse.Namespace) -> None:
  folder, is_new = data.prepare(
    arguments.name,
    data_dir=arguments.data_dir,
    archive=arguments.archive,
    unverified=arguments.unverified,
    show_progress=True,
  )
  done = 'prepared in' if is_new else 'is already prepared in'
  print(f'{arguments.name} {done} {folder}: {_describe(arguments)}')
  source = data.get_source(arguments.name)
  for left in folders.leftovers(source, folder.parents[1]):
    print(f'{left} can be removed if no other preparation runs')


def _check(arguments: argparse.Namespace) -> None:
  print(f'{arguments.name}: {_describe(arguments)}')


def _list(arguments: argparse.Namespace) -> None:
  print(f'in {dataset.resolve_dir(arguments.data_dir)}:')
  for arguments.name in data.DATASETS:
    try:
      state = _describe(arguments)
    except data.DataError as error:
      state = str(error)
    print(f'  {arguments.name:14} {state}')


def _describe(arguments: argparse.Namespace) -> str:
  """How many images there are, and whether these are all."""
  source = data.get_source(arguments.name)
  data_dir = dataset.resolve_dir(arguments.data_dir)
  if not folders.find(source, data_dir):
    data.check(arguments.name, data_dir=data_dir)
    return 'embedded; prepared when it is first loaded'
  folder = folders.check(source, data_dir)
  numbers = {split: folder.num_examples(split) for split in folder.shards}
  given = f'{numbers["train"]:,} train and {numbers["test"]:,} test images'
  if numbers == source.num_examples:
    return given
  expected = source.num_examples
  return given + (
    f', only part of {expected["train"]:,} and {expected["test"]:,}'
  )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = terminal.Parser(
    prog='python -m undistillable.data',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(required=True)
  for fn in (_prepare, _check, _list):
    command = commands.add_parser(fn.__name__.removeprefix('_'))
    command.set_defaults(fn=fn)
    if fn is not _list:
      command.add_argument('name', help=', '.join(data.DATASETS))
    command.add_argument(
      '--data_dir', help="holds data sets; by default tfds' own folder"
    )
    command.add_argument(
      '--config', help='a config file that registers data sets of its own'
    )
    if fn is _prepare:
      command.add_argument(
        '--archive', help='an archive on disk, instead of the network'
      )
      command.add_argument(
        '--unverified',
        action='store_true',
        help='accept an archive that is not the official one, as a subset is',
      )
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  # A polite kill unwinds the stack too, so that nothing half-made is left.
  for name in ('SIGTERM', 'SIGHUP'):
    number = getattr(signal, name, None)  # Not everywhere.
    # Under nohup a hangup is ignored, and is to be.
    if number and signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, lambda number, _: sys.exit(128 + number))
  terminal.be_printable()
  arguments = _parse(argv)
  try:
    if arguments.config:
      from undistillable import command  # Only then does anybody wait for jax.

      command.load(arguments.config)
    arguments.fn(arguments)
  except (errors.InputError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 128 + signal.SIGINT
  return 0


if __name__ == '__main__':
  # jax hooks into the garbage collector: an exception that a signal raises
  # while that runs is printed and lost, and the preparation goes on.
  gc.disable()
  sys.exit(main())
