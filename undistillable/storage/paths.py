"""Paths that users give: on this machine, and without ~."""

import os
import pathlib
import re

from undistillable import errors

# Also what pathlib leaves of one: 'gs:/bucket'. One letter is a drive.
_URL = re.compile(r'[A-Za-z][\w+.-]+:/')


def local(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """A path on this machine.

  Args:
    path: may begin with ~ or ~user.
    name: what the path is for, as users call it.

  Raises:
    errors.InputError: it is empty, a URL, or of a user who is not known.

  Example:
    >>> local('~/work', 'workdir').is_absolute()
    True
  """
  text = os.fspath(path)
  if not text:
    raise errors.InputError(f'{name} is empty; expected a path')
  if _URL.match(text):
    raise errors.InputError(
      f'{name}={text} is no local path; copy or mount what is there, and give '
      'a path on this machine'
    )
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError as error:  # ~ without a home.
    raise errors.InputError(f'{name}={text}: {error}') from error


def check_folder(path: pathlib.Path, name: str) -> None:
  """Checks that a folder is there or can be made; writes nothing.

  Args:
    path: of the folder.
    name: what it is for, as users call it.

  Raises:
    errors.InputError: a part of it is a file, or cannot be written.
  """
  found = next(one for one in (path, *path.absolute().parents) if one.exists())
  if not found.is_dir():
    raise errors.InputError(
      f'{name}={path}: {found} is a file, expected a folder'
    )
  if not os.access(found, os.W_OK | os.X_OK):
    raise errors.InputError(f'{name}={path}: {found} cannot be written')
