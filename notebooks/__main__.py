"""The command line; see `notebooks`."""

import argparse
import os
import pathlib
import tempfile

import notebooks


def main() -> None:
  """Makes notebooks of their sources."""
  parser = argparse.ArgumentParser(
    prog='python -m notebooks',
    description=notebooks.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('names', nargs='*', help=', '.join(notebooks.NAMES))
  parser.add_argument('--execute', action='store_true')
  arguments = parser.parse_args()
  unknown = sorted({*arguments.names} - {*notebooks.NAMES})
  if unknown:
    parser.error(
      f'there is no {unknown[0]}; known: {", ".join(notebooks.NAMES)}'
    )
  for name in arguments.names or notebooks.NAMES:
    made = notebooks.source(name)
    if arguments.execute:
      executed = notebooks.source(name)
      with tempfile.TemporaryDirectory() as folder:
        notebooks.execute(executed, pathlib.Path(folder), os.environ)
      notebooks.take_outputs(made, executed)
    elif (notebooks.FOLDER / f'{name}.ipynb').exists():
      notebooks.take_outputs(made, notebooks.read(name))
    notebooks.write(name, made)


if __name__ == '__main__':
  main()
