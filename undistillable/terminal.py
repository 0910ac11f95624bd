"""Command lines, and terminals and log files, whatever their encoding."""

import argparse
import codecs
import sys
from typing import Any

# What tables and reports hold beside ASCII.
_PLAIN = {'─': '-', '·': '.', '±': '+-', '…': '...', '×': 'x', '–': '-'}


class Parser(argparse.ArgumentParser):
  """Refuses in one sentence; a flag is written out."""

  def __init__(self, **kwargs: Any):
    super().__init__(**{'allow_abbrev': False, **kwargs})

  def error(self, message: str) -> Any:
    self.exit(1, f'error: {message}\n')


def be_printable() -> None:
  """Lets what a terminal cannot show be replaced, instead of ending a job."""
  codecs.register_error('undistillable', _plain)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='undistillable')


def _plain(error: UnicodeError) -> tuple[str, int]:
  """What stands for characters that an encoding does not have."""
  assert isinstance(error, UnicodeEncodeError)
  missing = error.object[error.start : error.end]
  return ''.join(_PLAIN.get(one, '?') for one in missing), error.end
