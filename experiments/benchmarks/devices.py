"""Every method on 1, 2, 4 and 8 devices: how far apart what it trains is.

  JAX_NUM_CPU_DEVICES=8 python -m experiments.benchmarks.devices

Digits with crops and flips, so that every random number has its part; the
networks, the settings and the order of steps are those of any study, for a few
steps: of many, what begins as rounding would grow where two networks contend.
Parents are trained on one device, so that each method is compared
by itself. Prints a line of JSON for every method: the losses' largest relative
difference from those of one device, and that of what was learned, as the norm
of the difference over the norm of the update. For comparison, the same for one
device whose initial weights are changed in their last bits: what rounding
alone becomes in so many steps.
"""

import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from undistillable import attacks, command, config as config_lib, defenses
from undistillable.graph import (
  execute,
  plan,
  runs as runs_lib,
  store as store_lib,
)
from undistillable.training import environment, parallel, train

_DEVICES = flags.DEFINE_list('devices', ['2', '4', '8'], 'Beside one.')
_METHODS = flags.DEFINE_list('methods', [], 'Some alone; default: all.')
_BATCH, _STEPS = 32, 4
_NUDGE = 2**-23  # The distance of two float32 near 1.


def main() -> None:
  """Compares one method after another."""
  logging.set_verbosity(logging.WARNING)
  numbers = [int(number) for number in _DEVICES.value]
  with tempfile.TemporaryDirectory() as folder:
    store = store_lib.Store(pathlib.Path(folder), eval_batch_size=_BATCH)
    compared = _first_of_each(_planned())
    planned = plan.in_order(compared)
    needed = {parent for run in planned for parent in run.parents.values()}
    for run in planned:
      if run in compared:
        line = {'method': run.method, 'model': run.model}
        print(json.dumps(line | _compared(run, store, numbers)), flush=True)
      if run in needed:
        parallel.use(1)
        execute.run_group([run], store)
  print(json.dumps({'environment': environment.describe()}))


def _first_of_each(planned: list[runs_lib.Run]) -> list[runs_lib.Run]:
  """A run of every method that trains, or of those that were asked for."""
  found: dict[str, runs_lib.Run] = {}
  for run in planned:
    if run.module.make and run.epochs:
      found.setdefault(run.method, run)
  wanted = _METHODS.value or found
  return [run for name, run in found.items() if name in wanted]


def _planned() -> list[runs_lib.Run]:
  """Every method, against a network whose answers can be undone."""
  config = config_lib.base()
  config_lib.smoke(config)
  config.limit, config.recipe.batch_size = 200, _BATCH
  config.dataset = config.normalization = 'digits'
  config.transfer = 'patches'
  config.dfme.budget = config.maze.budget = 100 * _STEPS * _BATCH
  config.teacher.model, config.students = 'resnetc8', ('cnn8',)
  config.recipe.augment = 'pad_crop_flip'
  config.recipe.optimizer, config.recipe.learning_rate = 'sgd', 0.02
  config.defenses = tuple(defenses.DEFENSES)
  planned = list(plan.make(config))
  config.defenses = ('reverse_sigmoid',)
  config.attacks = tuple(attacks.ATTACKS)
  return [*planned, *plan.make(config)]


def _compared(
  run: runs_lib.Run, store: store_lib.Store, numbers: list[int]
) -> dict[str, Any]:
  """How far each number of devices is from one."""
  start, one = _trained(run, store, 1)
  update = _norm(start, one[0])
  found: dict[str, Any] = {'steps': len(one[1])}
  others = {f'{number} devices': (number, 0.0) for number in numbers}
  for name, (number, nudge) in {**others, 'rounding': (1, _NUDGE)}.items():
    _, (variables, losses) = _trained(run, store, number, nudge)
    scale = np.maximum(np.abs(one[1]), 1e-3)
    found[name] = {
      'loss': _short(np.max(np.abs(losses - one[1]) / scale)),
      'learned': _short(_norm(one[0], variables) / update),
    }
  return found


def _trained(
  run: runs_lib.Run, store: store_lib.Store, number: int, nudge: float = 0.0
) -> tuple[Any, tuple[Any, np.ndarray]]:
  """The initial variables; and the last ones, with the loss of each step.

  Args:
    run: whose parents are finished.
    store: with those.
    number: of devices.
    nudge: each initial number is enlarged or reduced by this share, by lot.
  """
  parallel.use(number)
  (material,) = store.open([run])
  method, prepare = material.program.method, material.program.prepare
  key = jax.random.key(run.seed)
  frozen = parallel.replicate(dict(material.frozen))
  state = train.initial_state(method, material.examples, prepare, key, frozen)
  start = jax.device_get(state.variables)
  if nudge:
    state = parallel.replicate(_nudged(jax.device_get(state), nudge))
  data = parallel.replicate(dict(material.examples))
  order = parallel.epoch_order(
    key, len(material.examples['label']), run.recipe['batch_size']
  )
  lesson = parallel.Lesson(frozen, data, order, key)
  answers = parallel.answers(method.answer_fns, prepare, lesson)
  known = {**data, 'answers': parallel.replicate(answers)}
  lesson = lesson._replace(arrays=known, num_steps=_STEPS)
  losses = []
  for new, metrics in parallel.epoch_fn(method, prepare)(state, lesson):
    last = new
    losses.append(metrics['loss'])
  return start, (jax.device_get(last.variables), np.concatenate(losses))


def _nudged(state: Any, share: float) -> Any:
  """A state whose floating point numbers are a little larger or smaller."""
  rng = np.random.default_rng(0)

  def change(leaf: Any) -> Any:
    if not np.issubdtype(np.asarray(leaf).dtype, np.floating):
      return leaf
    signs = rng.choice([-share, share], np.shape(leaf))
    return np.asarray(leaf * (1 + signs), leaf.dtype)

  return jax.tree.map(change, state)


def _norm(one: Any, other: Any) -> float:
  """Of the difference of two trees."""

  def leaves() -> Iterator[float]:
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
      yield float(np.sum(np.square(np.float64(x) - np.float64(y))))

  return float(np.sqrt(sum(leaves())))


def _short(value: float) -> float:
  return float(f'{value:.1e}')


if __name__ == '__main__':
  command.run(main)
