"""What one step of DeepInversion costs beside its passes through networks.

  python -m experiments.benchmarks.inversion_step

A pass is a network's answer and its gradient with respect to the images, of
the teacher and, in the adaptive form, of the student. The goal is 1.2 times
that. Printed are the least and the median of several, taken in turn.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import timing
from undistillable import attacks, losses, models

# Teacher, student, image shape, batch size.
CASES = (
  ('resnetc8', 'cnn16', (8, 8, 1), 250),
  ('resnetc20', 'resnetc8', (32, 32, 3), 128),
  ('resnet18', 'resnetc20', (32, 32, 3), 32),
)


def main() -> None:
  for teacher, student, shape, batch_size in CASES:
    networks = {
      'teacher': models.get_model(teacher, 10),
      'student': models.get_model(student, 10),
    }
    for name in ('deep_inversion', 'adaptive_inversion'):
      parents = {k: networks[k] for k in attacks.ATTACKS[name].PARENTS}
      step, passes = _functions(name, parents, shape, batch_size)
      secs = timing.measure(step, passes)
      ratios = (fn(secs, axis=0) for fn in (np.min, np.median))
      least, median = (float(x[0] / x[1]) for x in ratios)
      print(
        f'{name} of {teacher}, {batch_size} images of {shape}: '
        f'{1e3 * secs[:, 0].min():.0f} ms a step, {least:.2f} times its passes '
        f'(medians: {median:.2f})',
        flush=True,
      )


def _functions(
  name: str,
  networks: dict[str, nn.Module],
  shape: tuple[int, ...],
  batch_size: int,
) -> tuple[Callable[[], Any], Callable[[], Any]]:
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
    role: jax.jit(lambda x, network=network: network.init(key, x))(
      batch['image']
    )
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

  step = jax.jit(method.step)
  passes = jax.jit(jax.value_and_grad(loss))
  return (
    lambda: step(state, frozen, batch, key),
    lambda: passes(image, frozen),
  )


if __name__ == '__main__':
  main()
