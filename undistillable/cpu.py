"""What XLA and the system are told about CPUs, before the first array is made.

XLA reads `XLA_FLAGS` once, then, and ends the process at a flag that it does
not know: so each is for the versions of JAX that it was measured with.
"""

import importlib.util
import os
import pathlib
import platform
import sys
from typing import Any

import jax

_ONEDNN = '--xla_cpu_experimental_onednn_custom_call=true'
# YNNPACK, which comes before oneDNN and Eigen.
_NO_YNN = (
  '--xla_cpu_experimental_ynn_fusion_type='
  '-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
)
_VERSION = jax.__version_info__
# Those of a GPU or a TPU, which read the same flags, and may know others.
_HAS_PLUGINS = any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))
_IS_LINUX_ON_X86 = (platform.system(), platform.machine()) == (
  'Linux',
  'x86_64',
)
_FLAGS: tuple[str, ...] = ()
if _IS_LINUX_ON_X86 and not _HAS_PLUGINS:
  if (0, 11) <= _VERSION < (0, 13):
    _FLAGS = _ONEDNN, _NO_YNN
  elif (0, 10) <= _VERSION < (0, 11):
    _FLAGS = (_NO_YNN,)  # Its jaxlib has no oneDNN.

# With JAX 0.10 a loop over tiles of images takes three times as long.
HAS_FAST_LOOPS = _VERSION >= (0, 11)

_HUGE_PAGES = 'glibc.malloc.hugetlb'
_PACKAGES = 'undistillable', 'experiments'


def use_fast_convolutions() -> None:
  """Has a CPU's convolutions done by the fastest library in `jaxlib`.

  On Linux and x86-64, with JAX 0.11 and 0.12, that is oneDNN, which PyTorch
  uses, and with 0.10 Eigen. Every command calls this. Elsewhere nothing
  changes, nor beside a plugin for GPUs or TPUs, nor where `XLA_FLAGS` speaks of
  oneDNN or YNNPACK already, or where JAX keeps what it has compiled in a
  folder: it cannot write programs of oneDNN. Too late when the first array is
  made.
  """
  config: Any = jax.config  # It does not declare its values.
  keeps = (
    config.jax_enable_compilation_cache and config.jax_compilation_cache_dir
  )
  mentioned = any(name in _flags() for name in ('onednn', 'ynn'))
  if not keeps and not mentioned:
    _add(*_FLAGS)


def has_onednn() -> bool:
  """Whether a CPU's convolutions are left to oneDNN."""
  given = _flags().split()
  return _ONEDNN in _FLAGS and all(flag in given for flag in _FLAGS)


def use_huge_pages() -> None:
  """Starts a command of this package again, with memory in pages of 2 MB.

  Once, as the same process, with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, which
  is read when a process starts: for what fills gigabytes, a CPU spends up to a
  third of its time on looking up pages of 4 KiB. Nothing happens beside a
  plugin for GPUs or TPUs; where that variable speaks of huge pages already;
  where Linux gives them to all, or to none; and in a program of one's own, a
  debugger or a notebook.
  """
  given = os.environ.get('GLIBC_TUNABLES', '')
  if (
    _is_a_command_of_ours()
    and not _HAS_PLUGINS
    and _HUGE_PAGES not in given
    and platform.libc_ver()[0] == 'glibc'
    and _gives_huge_pages_to_who_asks()
  ):
    os.environ['GLIBC_TUNABLES'] = f'{given}:{_HUGE_PAGES}=1'.lstrip(':')
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_a_command_of_ours() -> bool:
  """Whether all that runs is `python -m` or `undistillable` with a module."""
  given = sys.orig_argv[1:]
  if '-m' in given[:-1]:
    started = given[given.index('-m') + 1]
  else:
    started = pathlib.Path(*given[:1]).name
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  runs = '' if spec is None else spec.name
  return bool(sys.executable) and all(
    name.partition('.')[0] in _PACKAGES for name in (started, runs)
  )


def _gives_huge_pages_to_who_asks() -> bool:
  """Whether Linux does, and does not give them to everybody anyway."""
  setting = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
  try:
    return '[madvise]' in setting.read_text()
  except OSError:
    return False


def _flags() -> str:
  return os.environ.get('XLA_FLAGS', '')


def _add(*flags: str) -> None:
  if flags:
    os.environ['XLA_FLAGS'] = ' '.join((_flags(), *flags)).strip()


# With JAX 0.7.2 and 0.8.0, not with 0.8.3, a product of matrices may be one
# with the weights that lay in the same place of the memory before: XNNPACK
# keeps them, packed, by their address.
if _VERSION < (0, 9) and 'xnnpack' not in _flags():
  _add('--xla_cpu_use_xnnpack=false')
