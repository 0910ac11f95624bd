"""Images a second of the training step of any network, on any device.

  python -m experiments.benchmarks.step --network=resnet18 --kind=kd

The step is what `train.fit` compiles: images are gathered and normalised on
the device, then forwards, backwards, SGD with momentum and weight decay. Kind
'nasty' adds the answer of a frozen network of the same architecture, 'kd' that
of a frozen ResNet-18, each asked for before an epoch as `train.fit` does.
Prints one line of JSON. Where several of these share a device, `--lock` names a
file of theirs: they compile side by side, and are timed in turn.
"""

import contextlib
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging

from undistillable import (
  attacks,
  command,
  cpu,
  data,
  defenses,
  method as method_lib,
  models,
)
from undistillable.data import batches
from undistillable.models import __main__ as sizes
from undistillable.training import environment, optimizers, parallel, train

_NETWORK = flags.DEFINE_enum(
  'network', 'cnn', list(models.MODELS), 'What is trained.'
)
_KIND = flags.DEFINE_enum(
  'kind', 'teacher', ['teacher', 'nasty', 'kd'], 'How it is trained.'
)
_BATCH = flags.DEFINE_integer('batch', 128, 'Images a step, on all devices.')
_SIZE = flags.DEFINE_integer('size', 32, 'Pixels of a side.')
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of the layers.'
)
_SECS = flags.DEFINE_float('secs', 10.0, 'How long to measure, about.')
_LOCK = flags.DEFINE_string(
  'lock', None, 'A file; nobody who names it compiles while another is timed.'
)

_CLASSES = 10
_KD_TEACHER = 'resnet18'
_BATCHES = 4  # That lie on the device.
_EPOCH = 128  # Steps.
# Multiply-adds a second times 2, dense and without sparsity, by `device_kind`.
# NVIDIA and Google, data sheets; of float32, on NVIDIA, TF32.
_PEAK_TFLOPS = {
  ('NVIDIA H100 80GB HBM3', 'bfloat16'): 989.0,
  ('NVIDIA H100 80GB HBM3', 'float32'): 494.0,
  ('NVIDIA H200', 'bfloat16'): 989.0,
  ('NVIDIA H200', 'float32'): 494.0,
  ('TPU v5 lite', 'bfloat16'): 197.0,
}


def main() -> None:
  """Times one network, and prints what was found."""
  logging.set_verbosity(logging.WARNING)  # JAX looks for all backends.
  batch, dtype = _BATCH.value, jnp.dtype(_DTYPE.value)
  parallel.check_batch_size(batch, _BATCHES * batch)
  method, frozen = _method(dtype)
  prepare = batches.prepare_fn(*data.NORMALIZATIONS['cifar10'], dtype=dtype)
  rng = np.random.default_rng(0)
  number, pixels = _BATCHES * batch, _SIZE.value
  arrays = {
    'image': rng.integers(0, 256, (number, pixels, pixels, 3), np.uint8),
    'label': rng.integers(0, _CLASSES, number).astype(np.int32),
  }
  key = jax.random.key(0)
  state = train.initial_state(method, arrays, prepare, key)
  frozen, arrays = parallel.replicate((frozen, arrays))
  run_epoch = parallel.epoch_fn(method, prepare)
  order = parallel.epoch_order(key, number, batch)
  few, order = order, np.tile(order, (_EPOCH // len(order), 1, 1))

  def ask() -> dict[str, np.ndarray]:
    """What frozen networks say to a few steps, as before an epoch."""
    lesson = parallel.Lesson(frozen, arrays, few, key)
    return parallel.answers(method.answer_fns, prepare, lesson)

  def epochs() -> Iterator[int]:
    """Numbers of steps as they are finished, epoch by epoch."""
    nonlocal state
    while True:
      for new, metrics in run_epoch(state, lesson):
        state = state if new is None else new
        yield len(metrics['loss'])

  with _locked(shared=True):
    start = time.perf_counter()
    known = {**arrays, 'answers': parallel.replicate(ask())}
    lesson = parallel.Lesson({}, known, order, key)
    steps = epochs()
    next(steps)
    compile_secs = time.perf_counter() - start
  with _locked(shared=False):
    secs = _secs_a_step(steps)
    ask_secs = min(_secs_of(ask) for _ in range(3)) / len(few)
  images_per_s = batch / (statistics.median(secs) + ask_secs)
  print(
    json.dumps(
      {
        'network': _NETWORK.value,
        'kind': _KIND.value,
        'batch': batch,
        'size': pixels,
        'dtype': _DTYPE.value,
        'images_per_s': round(images_per_s, 1),
        'steps': len(secs),
        'compile_s': round(compile_secs, 1),
        'peak_memory_mb': _peak_memory_mb(),
        'share_of_peak': _share_of_peak(images_per_s),
        'environment': environment.describe(),
      }
    )
  )


def _method(dtype: Any) -> tuple[method_lib.Method, dict[str, Any]]:
  """What is timed, and the variables of its frozen networks."""
  model = models.get_model(_NETWORK.value, _CLASSES, dtype=dtype)
  optimizer = optimizers.sgd(0.01)
  image = np.zeros((1, _SIZE.value, _SIZE.value, 3), np.float32)

  def variables(network: nn.Module) -> Any:
    return jax.jit(network.init)(jax.random.key(1), image)

  if _KIND.value == 'nasty':
    method = defenses.nasty.make(
      model, optimizer, defenses.nasty.Settings(), {'adversary': model}
    )
    return method, {'adversary': variables(model)}
  if _KIND.value == 'kd':
    teacher = models.get_model(_KD_TEACHER, _CLASSES, dtype=dtype)
    method = attacks.kd.make(
      model, optimizer, attacks.kd.Settings(), {'teacher': teacher}
    )
    return method, {'teacher': variables(teacher)}
  return defenses.none.make(model, optimizer), {}


@contextlib.contextmanager
def _locked(shared: bool) -> Iterator[None]:
  """Holds the lock, if there is one, with others that share it or alone."""
  if _LOCK.value is None:
    yield
    return
  import fcntl  # Not there on Windows.

  with open(_LOCK.value, 'a') as file:
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    yield  # Closing the file gives it back.


def _secs_a_step(steps: Iterator[int]) -> list[float]:
  """Of each step, on average over those of its call, after a first call."""
  next(steps)
  secs: list[float] = []
  calls, end = 0, time.perf_counter() + _SECS.value
  while calls < 3 or time.perf_counter() < end:
    start = time.perf_counter()
    count = next(steps)
    secs += [(time.perf_counter() - start) / count] * count
    calls += 1
  return secs


def _secs_of(function: Callable[[], Any]) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def _peak_memory_mb() -> int:
  """Of the device; on a CPU of the process, compilation included."""
  stats = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'] // 2**20
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def _share_of_peak(images_per_s: float) -> float | None:
  """Operations of the networks over what the devices can do; if known."""
  kind = jax.devices()[0].device_kind
  peak = _PEAK_TFLOPS.get((kind, _DTYPE.value))
  if peak is None:
    return None
  # Backwards takes twice as many as forwards.
  passes = [(_NETWORK.value, 3)]
  if _KIND.value != 'teacher':
    passes.append((_KD_TEACHER if _KIND.value == 'kd' else _NETWORK.value, 1))
  operations = sum(
    2 * count * sizes.size(name, _CLASSES, _SIZE.value).multiply_adds
    for name, count in passes
  )
  device_peak = 1e12 * peak * jax.device_count()
  return round(images_per_s * operations / device_peak, 3)


if __name__ == '__main__':
  cpu.use_huge_pages()
  command.run(main)
