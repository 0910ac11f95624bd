"""How long the runs of a config will take on this machine, roughly."""

import functools
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from undistillable import data, groups, programs, runs as runs_lib
from undistillable.models import __main__ as sizes

# Beside its multiplications; seen on two cores.
_SECS_PER_STEP = 0.004
_SECS_PER_PROGRAM = 6.0  # To compile.
_SECS_PER_RUN = 1.0  # To evaluate and to write.


def seconds(runs: Iterable[runs_lib.Run], rate: float, together: int) -> float:
  """Time of training, within a factor of two or so.

  Networks reach about the speed of a single convolution.

  Args:
    runs: that are to be trained.
    rate: multiply-adds a second; see `measured_rate`.
    together: see `groups.split`.
  """
  missing = [run for run in runs if not run.init_from]
  total = _SECS_PER_RUN * len(missing)
  compiled = set()
  for group in groups.split(missing, together):
    first = group[0]
    compiled.add(tuple(programs.anonymous(run) for run in group))
    # A step goes forward once and backward twice; parents forward only.
    operations = sum(3 * _operations(run) for run in group)
    operations += sum(_operations(parent) for parent in first.parents.values())
    operations *= first.recipe['batch_size']
    secs = len(group) * _SECS_PER_STEP + operations / rate
    total += num_steps(first) * secs
  # Each network of a program takes its time.
  return total + _SECS_PER_PROGRAM * sum(map(len, compiled))


def num_steps(run: runs_lib.Run) -> int:
  """Steps of a training, found without loading its data."""
  return run.recipe['epochs'] * (_num_examples(run) // run.recipe['batch_size'])


def _num_examples(run: runs_lib.Run) -> int:
  """How many a run sees in an epoch."""
  if 'images' in run.parents:
    return sum(map(_num_examples, run.parents['images'].chain))
  if run.role == 'images':
    return run.settings['num_images']
  if run.data_free:
    return run.recipe['steps_per_epoch'] * run.recipe['batch_size']
  settings = run.dataset
  examples = data.get_source(settings['name']).num_examples['train']
  examples = min(examples, settings['limit'] or examples)
  return int(examples * (1 - settings['val_fraction']) * settings['fraction'])


def measured_rate() -> float:
  """Multiply-adds a second of a convolution of 16 channels, here and now."""
  batch, channels = 64, 16
  images = jnp.ones((batch, 32, 32, channels))
  kernel = jnp.ones((3, 3, channels, channels))
  conv = jax.jit(
    lambda x, k: jax.lax.conv_general_dilated(
      x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
  )
  conv(images, kernel).block_until_ready()
  secs = []
  for _ in range(5):
    start = time.perf_counter()
    conv(images, kernel).block_until_ready()
    secs.append(time.perf_counter() - start)
  return images.size * 9 * channels / float(np.min(secs))


def _operations(run: runs_lib.Run) -> int:
  """Multiply-adds of one image."""
  return _operations_of(run.model, run.dataset['name'])


@functools.cache
def _operations_of(model: str, dataset: str) -> int:
  source = data.get_source(dataset)
  return sizes.size(model, source.num_classes, source.image_shape[0])[1]
