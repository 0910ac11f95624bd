"""Two CPU devices, a compilation cache, no silent rank promotion."""

import os
import pathlib
import tempfile

import jax
import pytest

SHARED = pathlib.Path(__file__).parents[2] / 'shared'

jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update(
  'jax_compilation_cache_dir',
  os.environ.get(
    'JAX_COMPILATION_CACHE_DIR',
    os.path.join(tempfile.gettempdir(), 'undistillable-test-jax-cache'),
  ),
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of parity fixtures and real data, or a skip with a reason."""
  if not SHARED.is_dir():
    pytest.skip(f'no fixtures and data at {SHARED}')
  return SHARED


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """Another file compiles others; a worker would grow to several GB."""
  yield
  jax.clear_caches()
