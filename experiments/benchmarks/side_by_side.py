"""Networks of one kind trained one after another, and as one under vmap.

  python -m experiments.benchmarks.side_by_side --network=cnn8 --pixels=8

Students of several seeds who hear the same answers see the same batches, so
that one program could take a step of all of them. Both ways are compiled as
loops of steps and timed in turn. Prints one line of JSON: milliseconds for one
step of one network, the medians of several rounds, and their ratio.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from undistillable import command, defenses, models
from undistillable.training import environment

_NETWORK = flags.DEFINE_enum(
  'network', 'cnn8', list(models.MODELS), 'What is trained.'
)
_NUMBER = flags.DEFINE_integer('number', 5, 'Networks side by side.')
_BATCH = flags.DEFINE_integer('batch', 64, 'Images a step.')
_PIXELS = flags.DEFINE_integer('pixels', 32, 'Of a side.')
_STEPS = flags.DEFINE_integer('steps', 10, 'Of a loop.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Of both ways.')


def main() -> None:
  """Times both ways, and prints what was found."""
  steps, number = _STEPS.value, _NUMBER.value
  rng = np.random.default_rng(0)
  shape = (_BATCH.value, _PIXELS.value, _PIXELS.value, 3)
  batch = {
    'image': jnp.asarray(rng.normal(size=shape), jnp.float32),
    'label': jnp.asarray(rng.integers(0, 10, _BATCH.value)),
  }
  method = defenses.none.make(
    models.get_model(_NETWORK.value, 10), optax.sgd(0.1, momentum=0.9)
  )
  keys = jax.random.split(jax.random.key(0), number)
  states = jax.jit(jax.vmap(method.init, in_axes=(0, None, None)))(
    keys, batch, {}
  )

  def step(state: Any) -> Any:
    return method.step(state, {}, batch, jax.random.key(1))[0]

  def loop(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return jax.jit(
      lambda state: jax.lax.fori_loop(0, steps, lambda _, s: step(s), state)
    )

  alone, together = loop(step), loop(jax.vmap(step))
  apart = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(number)]
  ways = {
    'one_after_another': lambda: [alone(state) for state in apart],
    'vmap': lambda: together(states),
  }
  for way in ways.values():
    jax.block_until_ready(way())  # Compiled.
  found: dict[str, list[float]] = {name: [] for name in ways}
  for _ in range(_ROUNDS.value):
    for name, way in ways.items():
      start = time.perf_counter()
      jax.block_until_ready(way())
      secs = time.perf_counter() - start
      found[name].append(1e3 * secs / steps / number)
  medians = {name: statistics.median(ms) for name, ms in found.items()}
  print(
    json.dumps(
      {
        'network': _NETWORK.value,
        'number': number,
        'batch': _BATCH.value,
        'pixels': _PIXELS.value,
        **{f'{name}_ms': round(ms, 3) for name, ms in medians.items()},
        'ratio': round(medians['one_after_another'] / medians['vmap'], 2),
        'environment': environment.describe(),
      }
    )
  )


if __name__ == '__main__':
  command.run(main)
