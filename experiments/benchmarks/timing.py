"""Times functions against each other, on machines that are never quiet."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

REPEATS = 10


def measure(*functions: Callable[[], Any]) -> np.ndarray:
  """float[REPEATS, len(functions)], seconds of calls that take turns."""
  secs = np.zeros((REPEATS + 1, len(functions)))
  for row in secs:
    for column, function in enumerate(functions):
      start = time.perf_counter()
      jax.block_until_ready(function())
      row[column] = time.perf_counter() - start
  return secs[1:]  # The first one compiles.
