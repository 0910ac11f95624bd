"""What a user can mend: `main` prints it as one sentence, without a trace."""

from collections.abc import Collection


class InputError(ValueError):
  """A config, a folder or a file that does not fit; the message says how."""


class DivergedError(InputError):
  """A training whose loss is no longer finite, or whose accuracy collapsed."""


def check_known(kind: str, name: object, known: Collection[str]) -> None:
  """Raises InputError unless a name is one of those that are known.

  Args:
    kind: what it is a name of, as 'dataset'.
    name: to be checked.
    known: all that there are.
  """
  if name not in known:
    raise InputError(f'unknown {kind} {name!r}; known: {", ".join(known)}')
