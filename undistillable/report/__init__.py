"""What a study found: one tidy table, the words, the figures, the pages.

`summary` makes the table from the entries of results.json; all else reads it.
`write.write` makes report.md, report.html and the figures.
"""

import contextlib
import os
import pathlib
import sys
import tempfile


def _import_matplotlib() -> None:
  """Whatever a user has set for figures of his own; none of it is used here."""
  try:
    import matplotlib  # noqa: F401
  # It reads MPLBACKEND and matplotlibrc, which may be damaged, as it comes.
  except (OSError, ValueError):
    for name in [n for n in sys.modules if n.split('.')[0] == 'matplotlib']:
      del sys.modules[name]
    backend = os.environ.pop('MPLBACKEND', None)
    try:
      with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        pathlib.Path('matplotlibrc').touch()  # It looks here first.
        import matplotlib  # noqa: F401
    finally:
      if backend is not None:
        os.environ['MPLBACKEND'] = backend


_import_matplotlib()
