"""Recorded arenas: what is kept of one, and what it must have to be kept.

A record is a folder of experiments/results/ with the `results.json` of an
arena, its report, its figures, and a README. Settings that many networks share
stand there once; what a report does not need is left out.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from undistillable import errors
from undistillable.report import board as board_lib, verdict
from undistillable.storage import disk
from undistillable.training import evaluate

RESULTS = pathlib.Path(__file__).parent / 'results'
_WITHDRAWN = 'withdrawn.json'
# Of a run's config, what the run has beside it.
_BESIDE = ('role', 'model', 'method', 'parents', 'seed')
_LEFT_OUT = ('training', 'test_examples')  # Of its last epoch; of every run.
_BROUGHT = ('config.json', 'report.md', 'figures')  # Beside the results.
# Of what an arena measures.
_MEASURED = ('rules', 'board', 'hits', 'prices', 'latency')


class Record(NamedTuple):
  """A recorded arena."""

  name: str  # Of its folder.
  results: Mapping[str, Any]  # The content of results.json, as it was written.
  # {defense: why its claim no longer stands}, written by hand.
  withdrawn: Mapping[str, str]


def read_all(folder: pathlib.Path = RESULTS) -> list[Record]:
  """All records of a folder, by their names."""
  found = []
  for path in sorted(folder.glob('*/results.json')):
    results = disk.read_json(path)
    if _is_arena(results):
      by_hand = path.with_name(_WITHDRAWN)
      withdrawn = disk.read_json(by_hand) if by_hand.is_file() else {}
      found.append(Record(path.parent.name, restored(results), withdrawn))
  return found


def add(arena: pathlib.Path, folder: pathlib.Path) -> None:
  """Makes a record of what an arena left.

  Args:
    arena: its folder in a workdir, with results.json.
    folder: of the record.

  Raises:
    errors.InputError: there is none, it is damaged, it lacks what a record must
      have, or there is another record. Nothing is written then.
  """
  path = arena / 'results.json'
  # Of a file that nobody wrote down, nobody knows what the arena wrote.
  if not path.is_file() or not disk.are_whole(arena, [path.name]):
    raise errors.InputError(f'{path} is not there or is damaged')
  for name in _BROUGHT:
    if not (arena / name).exists():
      raise errors.InputError(f'{arena / name} is not there')
  results = disk.read_json(path)
  found = problems(results)
  if found:
    raise errors.InputError(f'{path} makes no record: {"; ".join(found)}')
  if (folder / path.name).exists():
    raise errors.InputError(
      f'{folder} has a record; give this one another --name, or remove that'
    )
  folder.mkdir(parents=True, exist_ok=True)
  disk.replace(folder / path.name, _lines(reduced(results)))
  *files, figures = _BROUGHT
  for name in files:
    shutil.copy(arena / name, folder)
  shutil.copytree(arena / figures, folder / figures, dirs_exist_ok=True)


def problems(results: Mapping[str, Any]) -> list[str]:
  """What keeps results from being a record, in words; nothing is fine."""
  if not _is_arena(results):
    return ['it is not of an arena']
  missing = [
    k for k in ('runs', 'environment', 'measurements') if k not in results
  ]
  missing = missing or [
    k for k in _MEASURED if k not in results['measurements']
  ]
  if missing:
    return [f'it lacks {", ".join(missing)}']
  board, found = board_lib.Board(results), []
  fresh, choose = (board.rules[k] for k in ('fresh_seeds', 'choose_seeds'))
  if len(set(fresh)) < verdict.MIN_SEEDS:
    found.append(f'{len(set(fresh))} fresh seeds; {verdict.MIN_SEEDS} are few')
  if set(fresh) & set(choose):
    found.append('what was chosen on a seed is judged on it')
  if board_lib.NONE not in board.owners:
    found.append('the unprotected network is not among the defenses')
  tried = {(c['defense'], c['attack'], c['student']) for c in board.cells}
  attacks = dict.fromkeys(c['attack'] for c in board.cells if c['defense'])
  found += [
    f'{attack} by {student} never met {defense}'
    for defense in board.owners
    for attack in attacks
    for student in board.students
    if (defense, attack, student) not in tried
  ]
  for cell in board.cells:
    against = f'{cell["attack"]} against {cell["defense"]}'
    # Whoever has no labels chooses nothing.
    seeds = [*choose, *fresh] if cell['group'] == board_lib.OWN else fresh
    if board.moves_top(cell):
      found.append(f'{against}: {board.reason(cell)}')
    elif not cell['reason'] and _lacks(board, cell, seeds):
      found.append(f'{against} has neither a result nor a reason')
  found += [
    f'the hits of {name} are not those of its accuracy'
    for name, hits in results['measurements']['hits']['test'].items()
    if not _fit(board.entries.get(name, {}), hits, board.num_images)
  ]
  found += _unheard(board, results['measurements']['hits']['test'])
  paid = board.paid
  found += [f'{d} has no price' for d in board.owners if d not in paid.mean]
  latency = results['measurements']['latency']
  found += [
    f'{d} was not timed'
    for d in board.owners
    if d not in paid.times or not all(d in secs for secs in latency.values())
  ]
  return found


def _unheard(board: board_lib.Board, hits: Mapping[str, str]) -> list[str]:
  """Attacks by scores that take from the unprotected network what nobody has.

  Its scores are not the labels; who ends where his null ends never heard them.
  """

  def rights(cell: board_lib.Cell) -> dict[str, str]:
    return {
      seed: hits[run] for seed, run in cell['runs'].items() if run in hits
    }

  nulls = {
    (cell['attack'], cell['student']): rights(cell)
    for cell in board.cells
    if cell['defense'] is None
  }
  return [
    f'{cell["attack"]} by {cell["student"]} never heard the network: it is '
    'right about the same images as on nobody'
    for cell in board.cells
    if cell['defense'] == board_lib.NONE
    and cell['answers'] == 'scores'
    and rights(cell)
    and rights(cell) == nulls.get((f'null {cell["attack"]}', cell['student']))
  ]


def _lacks(
  board: board_lib.Board, cell: board_lib.Cell, seeds: Sequence[int]
) -> bool:
  """Whether a run of a cell is not there, or its hits; one may diverge."""
  runs = [board.entries.get(cell['runs'].get(str(seed))) for seed in seeds]
  ended = [run['status'] for run in runs if run]
  if len(ended) < len(runs):
    return True
  return board.test(cell) is None and set(ended) == {'finished'}


def _fit(entry: Mapping[str, Any], hits: Any, num_images: int) -> bool:
  """Whether a network is right about as many images as it says."""
  accuracy = entry.get('test_accuracy')
  try:
    size = len(bytes.fromhex(hits))
  except (TypeError, ValueError):
    return False
  if accuracy is None or size != -(-num_images // 8):
    return False
  right = 100 * evaluate.unpack(hits, num_images).mean()
  return bool(abs(right - accuracy) < 50 / num_images)


def _is_arena(results: Any) -> bool:
  """Whether an arena wrote it: benchmarks have a results.json, too."""
  return isinstance(results, dict) and results.get('study') == 'arena'


def reduced(results: Mapping[str, Any]) -> dict[str, Any]:
  """What a record keeps: every network's numbers, and each config once."""
  configs: dict[str, int] = {}
  runs = []
  for run in results['runs']:
    config = {k: v for k, v in run['config'].items() if k not in _BESIDE}
    key = json.dumps(config, sort_keys=True)
    kept = {
      name: value
      for name, value in run.items()
      if value is not None and name not in _LEFT_OUT
    }
    runs.append({**kept, 'config': configs.setdefault(key, len(configs))})
  return {
    'study': results['study'],
    'environment': results['environment'],
    'measurements': results['measurements'],
    'configs': [json.loads(key) for key in configs],
    'runs': runs,
  }


def restored(results: Mapping[str, Any]) -> dict[str, Any]:
  """Of `reduced`, runs with their configs; what has them stays as it is."""
  if 'configs' not in results:
    return dict(results)
  runs = [
    {
      **run,
      'config': {
        **results['configs'][run['config']],
        **{name: run[name] for name in _BESIDE},
      },
    }
    for run in results['runs']
  ]
  return {**results, 'runs': runs}


def _lines(content: Mapping[str, Any]) -> bytes:
  """JSON with a line for each run: small, and its changes can be read."""

  def dumped(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(',', ':'))

  parts = [
    f'{dumped(name)}:[\n' + ',\n'.join(map(dumped, value)) + '\n]'
    if isinstance(value, list)
    else f'{dumped(name)}:{dumped(value)}'
    for name, value in content.items()
  ]
  return ('{\n' + ',\n'.join(parts) + '\n}\n').encode()
