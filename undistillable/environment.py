"""Versions and hardware: what every result needs beside it."""

import datetime
import importlib.metadata
import os
import platform

import jax

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
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    **versions,
    'python': platform.python_version(),
    'platform': platform.platform(),
    'device': f'{device.platform}: {device.device_kind}',
    'devices': str(jax.device_count()),
    'cpus': str(os.cpu_count()),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
  }
