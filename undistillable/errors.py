"""What a user can mend: `main` prints it as one sentence, without a trace."""


class InputError(ValueError):
  """A config, a folder or a file that does not fit; the message says how."""


class DivergedError(InputError):
  """A training whose loss is no longer finite, or whose accuracy collapsed."""
