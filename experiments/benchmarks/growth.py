"""How the cost grows: with images, classes, batches, devices, runs; streamed.

  python -m experiments.benchmarks.growth --out=experiments/results/growth

Each part is measured in a process of its own; what is compared takes turns in
it, so that ratios within a part hold on a machine that others use as well. A
CPU is split into eight devices for one part. Writes results.json and a figure,
and prints the table; --parts=images,runs measures these anew, and leaves the
others as they are.
"""

import argparse
import concurrent.futures
import functools
import itertools
import multiprocessing
import pathlib
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from matplotlib import figure as mpl_figure

from experiments.benchmarks import kills
from undistillable import attacks, defenses, method as method_lib, models, study
from undistillable.data import batches
from undistillable.graph import plan, runs as runs_lib, store as store_lib
from undistillable.models import __main__ as sizes
from undistillable.report import draw
from undistillable.storage import disk
from undistillable.training import (
  environment,
  optimizers,
  parallel,
  streaming,
  train,
)

_ROUNDS = 5  # In which what is compared takes turns.
_IMAGES_A_TURN = 4096
_BATCH = 128
_DEVICES = 8  # That a CPU is split into.
_PREPARE = batches.prepare_fn((0.5,), (0.25,), augment='pad_crop_flip')

Rows = list[dict[str, Any]]


def of_images(quick: bool = False) -> Rows:
  """Seconds of an epoch of `cnn8` by images, as `train.fit` goes through it.

  All of it: order, steps, metrics and checkpoint; but the first one, which
  compiles.
  """
  rows = []
  for number in (256, 512) if quick else (1_024, 4_096, 16_384, 65_536):
    with tempfile.TemporaryDirectory() as folder:
      secs, _ = _epochs('cnn8', _arrays(number), folder=folder)
    rows.append({'images': number, 'epoch_s': statistics.median(secs)})
  return rows


def of_classes(quick: bool = False) -> Rows:
  """Seconds of a step of `cnn` by classes, alone and with recorded answers."""
  return _timed(
    ({'classes': number, 'kind': kind}, _turn(kind, number, _BATCH, quick))
    for number in ((10, 20) if quick else (10, 100, 200, 1000))
    for kind in ('teacher', 'kd')
  )


def of_batches(quick: bool = False) -> Rows:
  """Seconds of a step of `cnn` by images in a batch."""
  return _timed(
    ({'batch': number}, _turn('teacher', 10, number, quick))
    for number in ((32, 64) if quick else (32, 64, 128, 256, 512, 1024))
  )


def of_devices(quick: bool = False) -> Rows:
  """Seconds of a step of `cnn`, of one batch that devices share."""
  turns = []
  for number in (1, 2, 4, 8):
    if number <= len(jax.devices()):
      parallel.use(number)
      turn = _turn('teacher', 10, _BATCH, quick)
      turns.append(({'devices': number}, turn))
  return _timed(turns)


def of_runs(quick: bool = False) -> Rows:
  """Seconds of what a study does besides training, by finished runs.

  A tiny study is trained for one seed; its runs are then copied to the names
  of those of other seeds. `plan_s` is planning and naming, `check_s` looking
  at every result and its checksums, `all_s` the command, report included.
  """
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    first = _study_config(place, 1)
    study.run(first, place / 'trained')
    for number in (5, 10) if quick else (10, 100, 1000):
      config = _study_config(place, number // 5)
      workdir = place / str(number)
      _pretend(first, config, place / 'trained', workdir)
      start = time.perf_counter()
      planned = plan.make(config)
      names = {run.id for run in planned}
      plan_s = time.perf_counter() - start
      assert len(names) == number
      start = time.perf_counter()
      store = store_lib.Store(workdir, config.data_dir)
      assert all(store.result(run) for run in planned)
      check_s = time.perf_counter() - start
      start = time.perf_counter()
      study.run(config, workdir)
      rows.append(
        {
          'runs': number,
          'plan_s': plan_s,
          'check_s': check_s,
          'all_s': time.perf_counter() - start,
          'results_kb': (workdir / 'results.json').stat().st_size // 1000,
          'report_kb': (workdir / 'report.html').stat().st_size // 1000,
        }
      )
  return rows


def of_streams(quick: bool = False) -> Rows:
  """Seconds of an epoch, resident and streamed; and of sending its images.

  `repeats` says whether a resident training came to the same bits again, and
  `equal` whether a streamed one did.
  """
  rows: Rows = []
  for network, number in (
    [('mlp', 512)] if quick else [('mlp', 65_536), ('cnn8', 32_768)]
  ):
    arrays = _arrays(number)
    secs: dict[bool, list[float]] = {True: [], False: []}
    states: dict[bool, list[Any]] = {True: [], False: []}
    for _ in range(2):
      for resident in (True, False):
        found, state = _epochs(network, arrays, resident=resident)
        secs[resident] += found
        states[resident].append(state)
    first, again = states[True]
    rows.append(
      {
        'network': network,
        'pixels': 32,
        'images': number,
        'resident_s': statistics.median(secs[True]),
        'streamed_s': statistics.median(secs[False]),
        'repeats': _are_equal(first, again),
        'equal': all(_are_equal(first, one) for one in states[False]),
      }
    )
  for pixels, number in [(32, 512)] if quick else [(32, 65_536), (224, 4_096)]:
    arrays = _arrays(number, pixels=pixels)
    key = jax.random.key(0)
    order = parallel.epoch_order(key, number, _BATCH)
    lesson = parallel.Lesson({}, arrays, order, key)
    secs_to_send = []
    for _ in range(3):
      start = time.perf_counter()
      for part in streaming.parts(lesson):
        jax.block_until_ready(part.arrays)
      secs_to_send.append(time.perf_counter() - start)
    rows.append(
      {'pixels': pixels, 'images': number, 'sent_s': min(secs_to_send)}
    )
  return rows


def of_memory(quick: bool = False) -> Rows:
  """Bytes of a step of two ResNets on Tiny-ImageNet, compiled for this device.

  `state` is parameters, momentum and statistics; `step` what it works with,
  images and gradients included; `layers` what its layers put out, which is what
  the backward pass reads.
  """
  networks = ('cnn8',) if quick else ('resnet18', 'resnet50')
  return [_memory(network, 8 if quick else _BATCH) for network in networks]


def _memory(network: str, batch: int) -> dict[str, Any]:
  """Of one network."""
  pixels, classes = 64, 200
  method = _method('teacher', network, classes)
  arrays, everything = _arrays(batch, classes, pixels), np.arange(batch)
  key = jax.random.key(0)

  def step(state: Any, arrays: Any, key: jax.Array) -> Any:
    images = {**_PREPARE(arrays, everything, key), 'answers': {}}
    return method.step(state, {}, images, key)

  images = jax.eval_shape(_PREPARE, arrays, everything, key)
  state = jax.eval_shape(method.init, key, images, {})
  lowered = jax.jit(step, donate_argnums=0).lower(state, arrays, key)
  found: Any = lowered.compile().memory_analysis()
  state_bytes = sum(
    x.size * x.dtype.itemsize
    for x in jax.tree.leaves(state)
    if np.issubdtype(x.dtype, np.number)
  )
  outputs = sizes.size(network, classes, pixels).outputs
  return {
    'network': network,
    'pixels': pixels,
    'classes': classes,
    'batch': batch,
    'state_mb': state_bytes // 10**6,
    'step_mb': found.temp_size_in_bytes // 10**6,
    'layers_mb': 4 * batch * outputs // 10**6,
  }


PARTS: dict[str, Callable[[bool], Rows]] = {
  'images': of_images,
  'classes': of_classes,
  'batches': of_batches,
  'devices': of_devices,
  'runs': of_runs,
  'streams': of_streams,
  'memory': of_memory,
}


def main() -> None:
  """Measures the parts that are asked for, each in a process of its own."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--out', required=True, type=pathlib.Path)
  parser.add_argument('--parts', help='Which, with commas; default: all.')
  parser.add_argument('--quick', action='store_true', help='For a test.')
  args = parser.parse_args()
  out = args.out.expanduser()
  out.mkdir(parents=True, exist_ok=True)
  path = out / 'results.json'
  results = disk.read_json(path) if path.exists() else {}
  context = multiprocessing.get_context('spawn')
  for name in args.parts.split(',') if args.parts else PARTS:
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:
      results[name] = process.submit(_measured, name, args.quick).result()
    disk.write_json(path, results)
  draw.render(figure(results), out)
  print(table(results))


def _measured(name: str, quick: bool) -> dict[str, Any]:
  """A part, by a process that does nothing else."""
  logging.set_verbosity(logging.WARNING)  # JAX looks for all backends.
  jax.config.update('jax_num_cpu_devices', _DEVICES if name == 'devices' else 1)
  return {
    'rows': PARTS[name](quick),
    'peak_memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    // 1000,
    'environment': environment.describe(),
  }


class _Line(NamedTuple):
  """A row of the table, and lines of a panel."""

  part: str  # Of `PARTS`.
  title: str  # Of its panel.
  name: str  # Of what is measured; where there are several kinds, they say it.
  axis: str  # The field of what grows.
  unit: str  # The field of what it costs, in seconds.
  scale: float = 1.0  # From seconds to what is shown.
  grows: bool = True  # Maybe in proportion, which is drawn beside it.


_LINES = (
  _Line('images', 'Epoch of cnn8 (s)', 'all of an epoch', 'images', 'epoch_s'),
  _Line('classes', 'Step of cnn (ms)', '', 'classes', 'step_s', 1e3, False),
  _Line('batches', 'Step of cnn (ms)', 'teacher', 'batch', 'step_s', 1e3),
  _Line(
    'devices', 'Step of cnn (ms)', 'teacher', 'devices', 'step_s', 1e3, False
  ),
  _Line('runs', 'Finished study (s)', 'plan and names', 'runs', 'plan_s'),
  _Line('runs', 'Finished study (s)', 'check of results', 'runs', 'check_s'),
  _Line('runs', 'Finished study (s)', 'whole command', 'runs', 'all_s'),
)


def _rows(part: str, results: Mapping[str, Any]) -> Rows:
  """What was measured of a part; nothing where it was not asked for yet."""
  return results[part]['rows'] if part in results else []


def _series(
  line: _Line, results: Mapping[str, Any]
) -> list[tuple[str, list[float], list[float]]]:
  """[(name, x, y)] of a line: one for each kind."""
  found: dict[str, tuple[str, list[float], list[float]]] = {}
  for row in _rows(line.part, results):
    name = row.get('kind', line.name)
    _, x, y = found.setdefault(name, (name, [], []))
    x.append(row[line.axis])
    y.append(line.scale * row[line.unit])
  return list(found.values())


def table(results: Mapping[str, Any]) -> str:
  """What was measured, in Markdown.

  Args:
    results: the content of results.json; of some parts, or of all.
  """
  lines: list[tuple[str, ...]] = []
  for line in _LINES:
    for name, x, y in _series(line, results):
      axis = ', '.join(f'{one:,}' for one in x)
      values = ', '.join(f'{float(f"{one:.3g}"):,g}' for one in y)
      lines.append((f'{line.title}, {name}', f'{axis} {line.axis}', values))
  for row in _rows('streams', results):
    if 'network' in row:
      told = 'equal bits' if row['equal'] else 'other bits'
      name = f'Epoch of {row["network"]} (s), {row["images"]:,} images; {told}'
      values = f'{row["resident_s"]:.3g}, {row["streamed_s"]:.3g}'
      lines.append((name, 'resident, streamed', values))
    else:
      axis = f'{row["pixels"]} pixels a side'
      rate = f'{row["images"] / row["sent_s"]:,.0f}'
      lines.append(('Gathered and sent (images/s), no step', axis, rate))
  for row in _rows('memory', results):
    name = (
      f'Step of {row["network"]} (MB): state, layers, all; batch '
      f'{row["batch"]}, {row["classes"]} classes'
    )
    values = ', '.join(f'{row[f"{one}_mb"]:,}' for one in ('state', 'layers'))
    axis = f'{row["pixels"]} pixels a side'
    lines.append((name, axis, f'{values}, {row["step_mb"]:,}'))
  lines = [('what', 'of', 'measured'), ('---', '---', '--:'), *lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def figure(results: Mapping[str, Any]) -> draw.Figure:
  """A panel for each part that is measured in time.

  Args:
    results: the content of results.json; of some parts, or of all.
  """
  titles = {line.part: f'{line.title} by {line.part}' for line in _LINES}
  titles['streams'] = 'Epoch (s), resident and streamed'
  shown = {k: title for k, title in titles.items() if k in results}
  return draw.Figure(
    heading='Growth',
    name='growth',
    draw=functools.partial(_panels, results, shown) if shown else None,
    title='What a training and a study cost as they grow',
    alt=f'Panels: {"; ".join(shown.values())}.',
    caption='Dashed: in proportion to the first point.'
    if shown
    else 'No part was measured that is shown here.',
  )


def _panels(
  results: Mapping[str, Any], titles: Mapping[str, str]
) -> list[mpl_figure.Figure]:
  """Logarithmic axes where something may grow in proportion; bars last."""
  panels: list[mpl_figure.Figure] = []
  colors = [draw.COLORS[name] for name in ('normal', 'defense-0', 'defense-2')]
  for part, lines in itertools.groupby(_LINES, lambda line: line.part):
    if part not in titles:
      continue
    panels.append(draw.panel(2.4))
    ax = panels[-1].subplots()
    shown = [(line, one) for line in lines for one in _series(line, results)]
    for (line, (name, x, y)), color in zip(shown, colors, strict=False):
      ax.plot(x, y, 'o-', markersize=4, color=color, label=name)
      if line.grows:
        even = [y[0] * one / x[0] for one in x]
        ax.plot(x, even, '--', linewidth=0.7, color=color)
    ax.set_title(titles[part])
    ax.set_xscale('log')
    ax.set_xticks(x, [f'{one:,}' for one in x])
    ax.set_xticks([], minor=True)
    if line.grows:
      ax.set_yscale('log')
    else:
      ax.set_ylim(0.0, 1.3 * max(y))
    ax.yaxis.set_major_formatter('{x:g}')
    ax.grid(axis='y')
    ax.legend()
  if 'streams' not in titles:
    return panels
  panels.append(draw.panel(2.4))
  ax = panels[-1].subplots()
  rows = [row for row in _rows('streams', results) if 'network' in row]
  for offset, (kind, color) in enumerate(
    zip(('resident', 'streamed'), colors, strict=False)
  ):
    places = [place + 0.36 * offset for place in range(len(rows))]
    secs = [row[f'{kind}_s'] for row in rows]
    ax.bar(places, secs, 0.34, color=color, label=kind)
  ax.margins(y=0.3)
  ax.set_title(titles['streams'])
  ax.set_xticks(
    [place + 0.18 for place in range(len(rows))],
    [f'{row["network"]}, {row["images"]:,} images' for row in rows],
  )
  ax.grid(axis='y')
  ax.legend()
  return panels


def _arrays(
  number: int, num_classes: int = 10, pixels: int = 32
) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (number, pixels, pixels, 3), np.uint8),
    'label': rng.integers(0, num_classes, number, np.int32),
  }


@functools.cache
def _method(kind: str, network: str, num_classes: int) -> method_lib.Method:
  model = models.get_model(network, num_classes)
  optimizer = optimizers.sgd(0.01)
  if kind == 'kd':
    return attacks.kd.make(
      model, optimizer, attacks.kd.Settings(), {'teacher': model}
    )
  return defenses.none.make(model, optimizer)


def _epochs(
  network: str, arrays: Mapping[str, np.ndarray], **options: Any
) -> tuple[list[float], Any]:
  """Seconds of each epoch of a training but the first, and its variables."""
  ends = []

  def note(variables: Any) -> dict[str, float]:
    ends.append(time.perf_counter())
    return {}

  state = train.fit(
    _method('teacher', network, 10),
    arrays,
    _PREPARE,
    epochs=4,
    batch_size=_BATCH,
    evaluate_fn=note,
    **options,
  )
  return np.diff(ends).tolist(), jax.device_get(state.variables)


def _are_equal(one: Any, other: Any) -> bool:
  """Bit for bit."""
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def _turn(
  kind: str, num_classes: int, batch: int, quick: bool
) -> Callable[[], int]:
  """What takes some steps when it is called, and says how many; compiled."""
  method = _method(kind, 'cnn8' if quick else 'cnn', num_classes)
  number = 2 * batch if quick else max(_IMAGES_A_TURN, 4 * batch)
  arrays = _arrays(number, num_classes)
  key = jax.random.key(0)
  state = train.initial_state(method, arrays, _PREPARE, key)
  answers = {
    role: np.zeros((number, num_classes), np.float32)
    for role in method.answer_fns
  }
  known = parallel.replicate({**arrays, 'answers': answers})
  run_epoch = parallel.epoch_fn(method, _PREPARE)
  order = parallel.epoch_order(key, number, batch)
  lesson = parallel.Lesson({}, known, order, key)

  def turn() -> int:
    nonlocal state
    for new, _ in run_epoch(state, lesson):
      state = state if new is None else new
    return len(order)

  turn()
  return turn


def _timed(turns: Iterable[tuple[dict[str, Any], Callable[[], int]]]) -> Rows:
  """Each of the settings with the median time of its steps."""
  timed = [(*one, list[float]()) for one in turns]
  for _ in range(_ROUNDS):
    for _, turn, secs in timed:
      start = time.perf_counter()
      num_steps = turn()
      secs.append((time.perf_counter() - start) / num_steps)
  return [
    {**settings, 'step_s': statistics.median(secs)}
    for settings, _, secs in timed
  ]


def _study_config(
  folder: pathlib.Path, num_seeds: int
) -> ml_collections.ConfigDict:
  """Five tiny networks a seed, for an epoch each."""
  config = kills.config(str(folder / 'data'), 'nasty')
  changes = {'seeds': tuple(range(num_seeds)), 'recipe.epochs': 1}
  return plan.vary(config, changes)


def _pretend(
  first: ml_collections.ConfigDict,
  config: ml_collections.ConfigDict,
  trained: pathlib.Path,
  workdir: pathlib.Path,
) -> None:
  """Finishes the runs of a config with what those of its first seed left."""
  models_of = {_place(run): run for run in plan.make(first)}
  store = store_lib.Store(workdir)
  for run in plan.make(config):
    source = trained / 'runs' / models_of[_place(run)].id
    folder = store.folder(run)
    shutil.copytree(source, folder)
    disk.write_json(folder / 'config.json', run.config)
    result = disk.read_json(folder / 'result.json') | {
      'id': run.id,
      'seed': run.seed,
      'config': run.config,
      'parents': {role: parent.id for role, parent in run.parents.items()},
    }
    store.finish(run, result)


def _place(run: runs_lib.Run) -> tuple[Any, ...]:
  """What runs have in common that differ in their seed."""
  return run.role, run.label.rpartition(' seed ')[0]


if __name__ == '__main__':
  main()
