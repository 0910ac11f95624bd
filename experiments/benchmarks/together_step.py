"""What a step of students costs, together and one by one.

  python -m experiments.benchmarks.together_step

Students of one teacher that are trained together see the same batches, and the
teacher answers once for all. Printed is the time of such a step, in terms of
the steps that each student takes alone, added up: the least and the median of
several, taken in turn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import timing
from undistillable import attacks, method as method_lib, models

# Teacher, students, image shape, batch size.
CASES = (
  ('resnetc8', ('cnn8', 'cnn16'), (8, 8, 1), 32),
  ('resnetc20', ('cnn',) * 4, (32, 32, 3), 64),
  ('resnetc20', ('resnetc20',) * 4, (32, 32, 3), 64),
)


def main() -> None:
  for teacher, students, shape, batch_size in CASES:
    secs = timing.measure(*_functions(teacher, students, shape, batch_size))
    together, alone = secs[:, 0], secs[:, 1:]
    least = together.min() / alone.min(0).sum()
    median = np.median(together) / np.median(alone, 0).sum()
    print(
      f'{teacher} to {", ".join(students)}, {batch_size} images of {shape}: '
      f'{1e3 * together.min():.0f} ms together, {least:.2f} times as long as '
      f'one by one (medians: {median:.2f})',
      flush=True,
    )


def _functions(
  teacher_name: str,
  students: tuple[str, ...],
  shape: tuple[int, int, int],
  batch_size: int,
) -> list[Callable[[], Any]]:
  """A step of all students, then one of each, without arguments."""
  key = jax.random.key(0)
  image = jax.random.normal(key, (batch_size, *shape))
  batch = {'image': image, 'label': jnp.arange(batch_size) % 10}
  teacher = models.get_model(teacher_name, 10)
  frozen = {'teacher': jax.jit(teacher.init)(key, image)}
  methods = [
    attacks.kd.make(
      models.get_model(name, 10),
      optax.adam(1e-3),
      teacher=teacher,
      temperature=1.0 + number,  # No two are the same.
      alpha=0.9,
    )
    for number, name in enumerate(students)
  ]

  def bind(method: method_lib.Method) -> Callable[[], Any]:
    state, step = jax.jit(method.init)(key, batch), jax.jit(method.step)
    return lambda: step(state, frozen, batch, key)

  everyone = method_lib.together(tuple(methods))
  return [bind(everyone), *map(bind, methods)]


if __name__ == '__main__':
  main()
