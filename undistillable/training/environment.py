"""Versions and hardware: what every result needs beside it."""

import datetime
import importlib.metadata
import os
import platform

import jax

import undistillable
from undistillable.training import parallel

_PACKAGES = (
  'undistillable',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'tensorflow-datasets',
  'numpy',
)


def describe() -> dict[str, str]:
  """Versions and hardware: what a result needs beside it."""
  device = jax.devices()[0]
  return {
    **{name: _version(name) for name in _PACKAGES},
    'python': platform.python_version(),
    'platform': platform.platform(),
    'device': f'{device.platform}: {device.device_kind}',
    'devices': str(parallel.num_devices()),
    'cpus': str(os.cpu_count()),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
  }


def _version(package: str) -> str:
  """Of a package; it need not be installed, only importable, as in a clone."""
  try:
    # None, or a KeyError, where the metadata are damaged.
    found = importlib.metadata.version(package)
  except (importlib.metadata.PackageNotFoundError, KeyError):
    found = None
  if found is None and package == 'undistillable':
    return f'{undistillable.__version__}, not installed'
  return found or 'unknown'
