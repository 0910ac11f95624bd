"""The only place that imports tfds: late, without bars, logs or prints."""

import contextlib
import io
import types
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def quiet() -> Iterator[types.ModuleType]:
  """Yields the module `tensorflow_datasets`, silent for as long.

  tfds prints with `print`, logs at INFO (which absl's `app.run` shows) and
  draws several bars for a preparation of half a second.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield tfds
  finally:
    logging.set_verbosity(verbosity)
