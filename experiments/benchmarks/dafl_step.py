"""What one step of DAFL costs beside its passes through networks.

  python -m experiments.benchmarks.dafl_step

The passes are: the generator and the teacher, forwards and backwards; both
again, forwards, for the student's images; the student, forwards and backwards.
Each is compiled and timed apart. The goal is 1.2 times their sum. Printed are
the least and the median of several, taken in turn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import timing
from undistillable import losses, models
from undistillable.attacks import dafl
from undistillable.models import generator as generator_lib

# Settings, teacher, student, image shape, batch size.
CASES = (
  (
    dafl.Settings(latent_dim=100, generator_width=32),
    'resnetc8',
    'cnn16',
    (8, 8, 1),
    128,
  ),
  (dafl.Settings(), 'resnetc20', 'resnetc8', (32, 32, 3), 64),
)


def main() -> None:
  for settings, teacher, student, shape, batch_size in CASES:
    secs = timing.measure(
      *_functions(settings, teacher, student, shape, batch_size)
    )
    step, passes = secs[:, 0], secs[:, 1:]
    least = step.min() / passes.min(0).sum()
    median = np.median(step) / np.median(passes, 0).sum()
    parts = ', '.join(f'{1e3 * x:.0f}' for x in passes.min(0))
    print(
      f'{teacher} to {student}, {batch_size} images of {shape}: '
      f'{1e3 * step.min():.0f} ms a step, {least:.2f} times its passes '
      f'(medians: {median:.2f}), which take {parts} ms',
      flush=True,
    )


def _functions(
  settings: dafl.Settings,
  teacher_name: str,
  student_name: str,
  shape: tuple[int, int, int],
  batch_size: int,
) -> list[Callable[[], Any]]:
  """A step of the method, then each of its passes, without arguments."""
  teacher = models.get_model(teacher_name, 10)
  student = models.get_model(student_name, 10)
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

  step = jax.jit(method.step)
  passes = [
    (jax.grad(lambda params: (image * generate(params)).sum()), 'generator'),
    (jax.grad(lambda image: surprise(answer(image))), 'image'),
    (generate, 'generator'),
    (answer, 'image'),
    (jax.grad(learn), 'student'),
  ]
  arguments = {
    'generator': state.generator.params,
    'image': image,
    'student': state.student.params,
  }

  def bind(function: Callable[[Any], Any], name: str) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: compiled(arguments[name])

  return [
    lambda: step(state, frozen, batch, key),
    *(bind(function, name) for function, name in passes),
  ]


if __name__ == '__main__':
  main()
