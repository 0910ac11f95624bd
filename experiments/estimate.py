"""How long the runs of a config will take on this machine, roughly."""

import functools
import time
from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from undistillable import data
from undistillable.graph import execute, runs as runs_lib
from undistillable.models import __main__ as sizes, layers

# Beside what is counted; seen on two cores.
_SECS_PER_STEP = 0.004
_SECS_PER_PROGRAM = 6.0  # To compile.
_SECS_PER_RUN = 1.0  # To evaluate and to write.
# A step goes forward once and backward twice.
_FORWARD = 1 / 3


class Speed(NamedTuple):
  """Seconds of a training step, forward and backward, for one of each."""

  multiply_add: float
  output: float  # Of a layer: normalised and rectified.
  depthwise_output: float  # By its convolution.


def seconds(runs: Iterable[runs_lib.Run], speed: Speed, together: int) -> float:
  """Time of training, within a factor of two or so.

  Args:
    runs: that are to be trained.
    speed: see `measured_speed`.
    together: see `execute.groups`.
  """
  missing = [run for run in runs if not run.init_from]
  total = _SECS_PER_RUN * len(missing)
  compiled = set()
  for group in execute.groups(missing, together):
    first = group[0]
    compiled.add(tuple(run.as_built for run in group))
    if first.only_serves:
      continue
    secs = sum(_secs_per_image(run, speed) for run in group)
    secs += _FORWARD * sum(
      _secs_per_image(parent, speed) for parent in first.parents.values()
    )
    secs *= first.recipe['batch_size']
    total += num_steps(first) * (len(group) * _SECS_PER_STEP + secs)
  # Each network of a program takes its time.
  return total + _SECS_PER_PROGRAM * sum(map(len, compiled))


def num_steps(run: runs_lib.Run) -> int:
  """Steps of a training, found without loading its data."""
  number, settings = run.num_made, run.learns_from
  if number is None:
    examples = data.get_source(settings['name']).num_examples['train']
    examples = min(examples, settings['limit'] or examples)
    number = int(
      examples * (1 - settings['val_fraction']) * settings['fraction']
    )
  return run.recipe['epochs'] * (number // run.recipe['batch_size'])


def measured_speed() -> Speed:
  """How fast three layers are, here and now, of 16 channels each."""
  # A GPU is to be busy with it for longer than it takes to be told.
  batch = 64 if jax.default_backend() == 'cpu' else 4_096
  images = jnp.ones((batch, 32, 32, 16))
  return Speed(
    _secs(layers.Conv(16, 3, padding=1), images) / (images.size * 9 * 16),
    _secs(layers.BatchNorm(train=True), images) / images.size,
    _secs(layers.Conv(16, 3, padding=1, groups=16), images) / images.size,
  )


def _secs(layer: nn.Module, images: jax.Array) -> float:
  """The best of five times forward and backward."""
  variables = layer.init(jax.random.key(0), images)

  def loss(params: nn.FrozenDict, images: jax.Array) -> jax.Array:
    outputs, _ = layer.apply(
      {**variables, 'params': params}, images, mutable=['batch_stats']
    )
    return jnp.sum(nn.relu(outputs))

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  jax.block_until_ready(step(variables['params'], images))
  secs = []
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(step(variables['params'], images))
    secs.append(time.perf_counter() - start)
  return float(np.min(secs))


def _secs_per_image(run: runs_lib.Run, speed: Speed) -> float:
  """Of a training step."""
  return _secs_of(run.model, run.judged_on['name'], speed)


@functools.cache
def _secs_of(model: str, dataset: str, speed: Speed) -> float:
  source = data.get_source(dataset)
  size = sizes.size(model, source.num_classes, source.image_shape[0])
  counts = size.multiply_adds, size.outputs, size.depthwise_outputs
  return sum(n * secs for n, secs in zip(counts, speed, strict=True))
