"""Two CPU devices, a compilation cache, no silent rank promotion.

JAX_NUM_CPU_DEVICES=8 pytest tests/registry_test.py: as many as you like.
"""

import gc
import os
import pathlib
import resource
import tempfile

# Programs compile in half the time, and run slower: for few, small steps. In
# the environment, so that commands do as well; before JAX reads it.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
# Workers and commands share what takes long.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  os.path.join(tempfile.gettempdir(), 'undistillable-test-jax-cache'),
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'

# Commands do not start again for larger pages of memory.
os.environ.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=0')

import jax  # noqa: E402
import jaxlib.version  # noqa: E402
import pytest  # noqa: E402

from undistillable import cpu  # noqa: E402

# In a third of the time by the older emitter of fusions: the newer one writes
# MLIR first. Later versions have that alone, and end at a flag unknown to them.
if jaxlib.version.__version_info__ < (0, 11):
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_parallel_codegen_split_count=1',  # Workers fill the cores.
  )

cpu.use_fast_convolutions()  # As commands do.

# Of tracing, a quarter is the search for cycles among what is traced.
gc.set_threshold(50_000)

SHARED = pathlib.Path(__file__).parents[2] / 'shared'
MAX_KIB = 2**21  # The memory from which on a worker forgets its programs.
# A worker takes files one by one.
LONGEST = (
  'registry',
  'study',
  'experiments',
  'hosts',
  'main',
  'attacks',
  'kills',
  'layers',
  'train',
  'interop',
  'defenses',
  'null_teacher',
  'config_fields',
  'models',
  'readme',
  'deep_inversion',
)

jax.config.update(
  'jax_num_cpu_devices', int(os.environ.get('JAX_NUM_CPU_DEVICES', 2))
)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of parity fixtures and real data, or a skip with a reason."""
  if not SHARED.is_dir():
    pytest.skip(f'no fixtures and data at {SHARED}')
  return SHARED


@pytest.fixture(scope='module')
def decoded_once():
  """For many studies of digits, each of which would read 2,000 PNG files."""
  from undistillable import data  # Behind what JAX reads above.

  load, known = data.load, {}

  def load_once(name, *, data_dir=None):
    key = name, str(data_dir)
    if name != 'digits' or key not in known:
      known[key] = load(name, data_dir=data_dir)
    return known[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, 'load', load_once)
    yield


@pytest.fixture
def full_compilation():
  """For what is compared closely: programs as users have them optimised."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(autouse=True, scope='module')
def _leave_no_trace():
  """The next file compiles as all others do, in as much memory."""
  yield
  # Or it computes other bits than the processes that it starts.
  reduced = jax.config.values['jax_disable_most_optimizations']
  assert reduced, 'a test of this file wants the fixture full_compilation'
  # Programs that no other file runs grow to several GB.
  if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MAX_KIB:
    jax.clear_caches()


def pytest_collection_finish():
  """Modules and tests stay: there is no need to look through them again."""
  gc.freeze()


def pytest_collection_modifyitems(items):
  """Longest files first, that no worker ends long after the others."""
  last = len(LONGEST)
  places = {f'{name}_test.py': place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path.name, last))
