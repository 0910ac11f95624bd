"""What a step of DAFL or DeepInversion costs beside its passes.

  python -m experiments.benchmarks.passes

The passes of DAFL are: the generator and the teacher, forwards and backwards;
both again, forwards, for the student's images; the student, forwards and
backwards. That of DeepInversion is a network's answer and its gradient with
respect to the images, of the teacher and, in the adaptive form, of the student.
Each is compiled and timed apart; all take turns. The goal is 1.2 times their
sum. Printed are the least and the median of several.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from undistillable import attacks, losses, models
from undistillable.attacks import dafl
from undistillable.models import generator as generator_lib

# Settings, teacher, student, image shape, batch size.
_DAFL = (
  (
    dafl.Settings(latent_dim=100, generator_width=32),
    'resnetc8',
    'cnn16',
    (8, 8, 1),
    128,
  ),
  (dafl.Settings(), 'resnetc20', 'resnetc8', (32, 32, 3), 64),
)
# Teacher, student, image shape, batch size.
_INVERSION = (
  ('resnetc8', 'cnn16', (8, 8, 1), 250),
  ('resnetc20', 'resnetc8', (32, 32, 3), 128),
  ('resnet18', 'resnetc20', (32, 32, 3), 32),
)
_REPEATS = 10


def main() -> None:
  """Prints a line for each case."""
  for settings, teacher, student, shape, number in _DAFL:
    networks = _networks(teacher, student)
    functions = _dafl(settings, networks, shape, number)
    _report(f'dafl of {teacher}, {number} images of {shape}', functions)
  for teacher, student, shape, number in _INVERSION:
    for name in ('deep_inversion', 'adaptive_inversion'):
      roles = attacks.ATTACKS[name].PARENTS
      networks = {k: _networks(teacher, student)[k] for k in roles}
      functions = _inversion(name, networks, shape, number)
      _report(f'{name} of {teacher}, {number} images of {shape}', functions)


def _networks(teacher: str, student: str) -> dict[str, nn.Module]:
  return {
    'teacher': models.get_model(teacher, 10),
    'student': models.get_model(student, 10),
  }


def _report(what: str, functions: list[Callable[[], Any]]) -> None:
  """Times a step, and after it its passes, against each other."""
  secs = np.zeros((_REPEATS + 1, len(functions)))
  for row in secs:
    for column, function in enumerate(functions):
      start = time.perf_counter()
      jax.block_until_ready(function())
      row[column] = time.perf_counter() - start
  secs = secs[1:]  # The first one compiles.
  (least, *passes), (median, *medians) = secs.min(0), np.median(secs, 0)
  parts = ', '.join(f'{1e3 * x:.0f}' for x in passes)
  print(
    f'{what}: {1e3 * least:.0f} ms a step, {least / sum(passes):.2f} times its '
    f'passes (medians: {median / sum(medians):.2f}), which take {parts} ms',
    flush=True,
  )


def _dafl(
  settings: dafl.Settings,
  networks: dict[str, nn.Module],
  shape: tuple[int, int, int],
  batch_size: int,
) -> list[Callable[[], Any]]:
  """A step of the method, then each of its passes, without arguments."""
  teacher, student = networks['teacher'], networks['student']
  generator = generator_lib.Generator(shape, settings.generator_width)
  method = dafl.make(student, optax.adam(1e-3), settings, {'teacher': teacher})
  key = jax.random.key(0)
  image = jax.random.normal(key, (batch_size, *shape))
  noise = jax.random.normal(key, (batch_size, settings.latent_dim))
  batch = {'image': image, 'index': jnp.arange(batch_size)}
  frozen = {'teacher': jax.jit(teacher.init)(key, image)}
  state = jax.jit(method.init)(key, batch, frozen)

  def generate(params: Any) -> jax.Array:
    variables = {**state.generator.variables, 'params': params}
    return generator.apply(
      variables, noise, train=True, mutable=['batch_stats']
    )[0]

  def answer(image: jax.Array) -> jax.Array:
    logits: Any = teacher.apply(frozen['teacher'], image)
    return logits

  def surprise(logits: jax.Array) -> jax.Array:
    return losses.cross_entropy(logits, logits.argmax(-1)).mean()

  def learn(params: Any) -> jax.Array:
    variables = {**state.student.variables, 'params': params}
    return surprise(
      student.apply(variables, image, train=True, mutable=['batch_stats'])[0]
    )

  passes = [
    (
      jax.grad(lambda params: (image * generate(params)).sum()),
      state.generator.params,
    ),
    (jax.grad(lambda image: surprise(answer(image))), image),
    (generate, state.generator.params),
    (answer, image),
    (jax.grad(learn), state.student.params),
  ]
  return [
    functools.partial(jax.jit(method.step), state, frozen, batch, key),
    *(
      functools.partial(jax.jit(function), argument)
      for function, argument in passes
    ),
  ]


def _inversion(
  name: str,
  networks: dict[str, nn.Module],
  shape: tuple[int, ...],
  batch_size: int,
) -> list[Callable[[], Any]]:
  """A step of the method, and the passes alone, without arguments."""
  channels = shape[-1]
  module = attacks.get(name)
  settings = module.Settings(
    num_images=4 * batch_size,
    low=(-2.0,) * channels,
    high=(2.0,) * channels,
    flip=True,
  )
  method = module.make(networks['teacher'], optax.adam(0.1), settings, networks)
  batch = {
    'image': jnp.zeros((batch_size, *shape)),
    'index': jnp.arange(batch_size),
  }
  key = jax.random.key(0)
  frozen = {
    role: jax.jit(network.init)(key, batch['image'])
    for role, network in networks.items()
  }
  state = method.init(key, batch, frozen)
  image, label = state.image[:batch_size], state.label[:batch_size]

  def loss(image: jax.Array, frozen: Any) -> jax.Array:
    total = jnp.zeros(())
    for role, network in networks.items():
      logits: Any = network.apply(frozen[role], image)
      total += losses.cross_entropy(logits, label).mean()
    return total

  return [
    functools.partial(jax.jit(method.step), state, frozen, batch, key),
    functools.partial(jax.jit(jax.value_and_grad(loss)), image, frozen),
  ]


if __name__ == '__main__':
  main()
