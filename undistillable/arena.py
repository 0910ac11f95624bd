"""The arena: every defense against every attack, and one verdict for each.

Who takes part, how much counts, and on which seeds anything is chosen stands in
`config.arena` before the first network is trained, and cannot change in its
folder. How the verdict is reached is in `report.verdict`; how to read the page,
in docs/arena.md. `experiments.arena` runs it, and `audit`.
"""

import ast
import pathlib
import time
from collections.abc import (
  Callable,
  Hashable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from undistillable import (
  attacks,
  config as config_lib,
  defenses,
  errors,
  losses,
  registry,
  serving,
)
from undistillable.graph import (
  plan,
  programs,
  runs as runs_lib,
  store as store_lib,
)
from undistillable.models import black_box
from undistillable.report import board as board_lib
from undistillable.training import evaluate

Run = runs_lib.Run

# Of the rules of docs/leaderboard.md; tables of different ones do not compare.
PROTOCOL = 1

_DEFENSES, _ATTACKS = 'arena.defenses', 'arena.attacks'
_METHODS = {_DEFENSES: defenses, _ATTACKS: attacks}
_EXPECTED = 'config: {}: {!r}; expected a name, or name:field=value,field=value'
_TIMED_BATCHES = (1, 256)
_TIMED_CALLS = 30  # At most, ...
_TIMED_SECS = 20.0  # ... and no more once they have taken so long.
_REPEATED = 384  # Images that are asked about again, in more than one batch.


class Method(NamedTuple):
  """A defense or an attack, as `config.arena` names it."""

  name: str  # Of its registry, or of a module of one's own.
  settings: Mapping[str, Any]  # Which differ from those of the config.
  shown: str  # As in tables: with its settings, a module without its package.


class Cell(NamedTuple):
  """Who tries what against whom."""

  defense: str | None  # As shown; None of a thief who asks nobody.
  attack: str  # As shown; of a control, its name.
  student: str  # The network of the thief.
  runs: Sequence[Run]  # Of one seed, the last of them the student.
  group: str = board_lib.OWN  # What the thief has.
  # What of the teacher reaches the student: 'labels', 'scores', 'weights', or
  # 'none'.
  hears: str = 'none'
  # Whether the answers are those of the network without its defense, so that
  # the run is the same for all that serve it.
  shared: bool = False
  reason: str = ''  # Why there are no runs.


def plan_fn(config: ml_collections.ConfigDict) -> list[Run]:
  """All networks of all seeds, those that several cells need once."""

  def runs_of(job: plan.Job) -> Iterator[Run]:
    if job.seed in config.arena.fresh_seeds:
      for owner in _owners(job).values():
        yield from owner
    for cell in _cells(job):
      yield from cell.runs

  return plan.make(_main_config(config), runs_of)


def _main_config(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config whose main job has the same defenses, attacks and seeds."""
  arena = config.arena
  both = set(arena.choose_seeds) & set(arena.fresh_seeds)
  if both:
    raise errors.InputError(
      f'config: arena: seeds {sorted(both)} are in choose_seeds and in '
      'fresh_seeds; what is chosen on a seed must not be judged on it'
    )
  for name in ('choose_seeds', 'fresh_seeds'):
    if not arena[name]:
      raise errors.InputError(
        f'config: arena.{name} is empty; name at least one'
      )
    if len(set(arena[name])) < len(arena[name]):
      raise errors.InputError(
        f'config: arena.{name}={arena[name]} names a seed twice; it is one '
        'network all the same'
      )
  if arena.margin <= 0:
    raise errors.InputError(
      f'config: arena.margin={arena.margin}; expected points > 0'
    )
  changes = {
    'seeds': (*arena.choose_seeds, *arena.fresh_seeds),
    'defenses': _names(_DEFENSES, (board_lib.NONE, *arena.defenses)),
    'attacks': _names(_ATTACKS, arena.attacks),
    'null_teacher': True,
  }
  return plan.vary(config, changes)


def _names(field: str, given: Sequence[str]) -> tuple[str, ...]:
  """The modules of defenses or attacks, each once, without settings."""
  return tuple(dict.fromkeys(_parse(field, one).name for one in given))


def _owners(job: plan.Job) -> dict[str, list[Run]]:
  """{defense, with its settings: its runs}, the last of them the teacher."""
  found: dict[str, list[Run]] = {}
  known: dict[Run, str] = {}  # {teacher: whose it is}
  for one in dict.fromkeys((board_lib.NONE, *job.config.arena.defenses)):
    defense = _parse(_DEFENSES, one)
    owner = _with_settings(job, _DEFENSES, defense).defend(defense.name)
    first = known.setdefault(owner[-1], defense.shown)
    _check_once(_DEFENSES, first, defense.shown)
    found[defense.shown] = owner
  return found


def _check_once(field: str, first: str, other: str) -> None:
  """Raises InputError where one thing has two names."""
  if first != other:
    raise errors.InputError(
      f'{field}: {other} is the same as {first}; name one of them'
    )


def _cells(job: plan.Job) -> Iterator[Cell]:
  """All that is tried with one seed."""
  arena = job.config.arena
  teachers = {name: found[-1] for name, found in _owners(job).items()}
  unfit: dict[str, str] = {}  # {attack: why it fits no defense}
  for student in job.config.students:
    known: dict[Hashable, str] = {}  # {students: the attack that trains them}
    yield Cell(None, 'scratch', student, [job.control(student)])
    for epsilon in arena.epsilons:
      settings = {'epsilon': epsilon}
      run = job.student('label_smoothing', student, settings=settings)
      yield Cell(None, f'label_smoothing {epsilon:g}', student, [run])
    for one in arena.attacks:
      attack = _parse(_ATTACKS, one)
      group = _group(attack.name)
      if group == board_lib.OWN and not job.config.val_fraction:
        raise errors.InputError(
          'val_fraction=0; expected a part of the training set to be held out, '
          f'by which thieves as {attack.name}, and controls, are chosen'
        )
      if group != board_lib.OWN and job.seed not in arena.fresh_seeds:
        continue  # Whoever has no labels has nothing to choose an attack by.
      thief = _with_settings(job, _ATTACKS, attack)
      cells = [
        _try(
          thief,
          attack.name,
          teacher,
          Cell(defense, attack.shown, student, [], group),
        )
        for defense, teacher in teachers.items()
      ]
      yield from cells
      if any(cell.runs for cell in cells):
        unfit[one] = ''
        trained = tuple(tuple(cell.runs[-1:]) for cell in cells)
        _check_once(_ATTACKS, known.setdefault(trained, one), one)
      else:
        unfit.setdefault(one, cells[0].reason)
      if group == board_lib.OWN:
        nulls = {
          null: None
          for cell in cells
          for run in cell.runs[-1:]
          if (null := run.compared_with.get('null')) and not _is_bound(run)
        }
        for null in nulls:
          yield Cell(None, f'null {attack.shown}', student, plan.line(null))
  for one, reason in unfit.items():
    if reason:  # By no student.
      raise errors.InputError(f'arena.attacks: {one}: {reason}')


def _try(thief: plan.Job, attack: str, teacher: Run, cell: Cell) -> Cell:
  """A cell with its runs, or with the reason why there are none."""
  module = attacks.get(attack)
  hears = registry.declared(module, 'ACCESS')
  if hasattr(module, 'hears'):
    settings = thief.settings(attack, module)
    hears = module.hears(registry.settings(module, settings))
  cell, asked = cell._replace(hears=hears), _asked(hears, teacher)
  try:
    found = thief.attack(attack, asked, cell.student)
  except ValueError as error:  # It does not fit this defense.
    return cell._replace(reason=str(error))
  return cell._replace(runs=found, shared=asked != teacher)


def _with_settings(job: plan.Job, field: str, method: Method) -> plan.Job:
  """The same job with other settings of a defense, or of an attack."""
  name, changes, _ = method
  if not changes:
    return job
  known = job.settings(name, _METHODS[field].get(name))
  for key in changes.keys() - known.keys():
    raise errors.InputError(
      f'{field}: {name} has no setting {key!r}; known: '
      f'{", ".join(known) or "none"}'
    )
  short = registry.short(name)
  changed = {f'{short}.{key}': value for key, value in changes.items()}
  try:
    varied = plan.vary(job.config, changed)
  except KeyError as error:
    raise errors.InputError(
      f'{field}: the config does not know the settings of {name}; see '
      'config.know'
    ) from error
  except TypeError as error:  # What ml_collections raises.
    kinds = ', '.join(f'{key}={known[key]!r}' for key in changes)
    raise errors.InputError(
      f'{field}: {name}: {changes}; expected values as in {kinds}'
    ) from error
  config_lib.check(varied)
  return plan.Job(varied, job.seed)


def _parse(field: str, text: str) -> Method:
  """What is meant by 'kd:alpha=0.1'; a word may stand unquoted."""
  name, _, given = text.partition(':')
  try:
    call: Any = ast.parse(f'settings({given})', mode='eval').body
    settings = {
      one.arg: one.value.id
      if isinstance(one.value, ast.Name)
      else ast.literal_eval(one.value)
      for one in call.keywords
    }
  except (SyntaxError, ValueError) as error:
    raise errors.InputError(_EXPECTED.format(field, text)) from error
  if call.args or None in settings or len(settings) < len(call.keywords):
    raise errors.InputError(_EXPECTED.format(field, text))
  return Method(name, settings, registry.short(name) + text.removeprefix(name))


def _asked(hears: str, teacher: Run) -> Run:
  """The network whose answers an attack hears; see `Cell.hears`.

  A wrapper that leaves the top class alone cannot be told from none by whoever
  hears nothing else, nor can any wrapper by whoever has the weights.
  """
  keeps_top = getattr(teacher.module, 'KEEPS_TOP', False)
  if hears == 'weights' or (
    hears == 'labels' and keeps_top and teacher.only_serves
  ):
    return programs.bare(teacher)
  return teacher


def _group(attack: str) -> str:
  """What the thief has, in `board_lib.GROUPS`."""
  module = attacks.get(attack)
  if registry.declared(module, 'ACCESS') == 'weights':
    return board_lib.WEIGHTS
  return {
    'own': board_lib.OWN,
    'foreign': board_lib.FOREIGN,
    'none': board_lib.NOTHING,
  }[registry.declared(module, 'DATA')]


def measure_fn(
  config: ml_collections.ConfigDict,
  runs: Sequence[Run],
  store: store_lib.Store,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """The board, the hits of all students, and the prices of all defenses.

  {'rules', 'board', 'hits', 'prices', 'latency', 'serving'}; see
  `report.board`.
  """
  del folder
  config = _main_config(config)
  finished = set(runs)
  jobs = [plan.Job(config, seed) for seed in config.seeds]
  tried = {job.seed: list(_cells(job)) for job in jobs}
  students = [
    cell.runs[-1]
    for cells in tried.values()
    for cell in cells
    if cell.runs and cell.runs[-1] in finished
  ]
  fresh = [job for job in jobs if job.seed in config.arena.fresh_seeds]
  served = _served(fresh, finished)
  first = next(iter(served.values()), {})  # Of time, one seed says enough.
  return {
    'rules': {
      'protocol': PROTOCOL,
      'margin': config.arena.margin,
      'choose_seeds': list(config.arena.choose_seeds),
      'fresh_seeds': list(config.arena.fresh_seeds),
    },
    'board': {'owners': list(_owners(jobs[0])), 'cells': _board(tried)},
    'hits': _hits(students, store.task(jobs[0].normal.judged_on), store),
    'prices': _prices(served, store),
    'latency': _latencies(first, store),
    'serving': _serving(first, store),
  }


def _board(tried: Mapping[int, Sequence[Cell]]) -> list[dict[str, Any]]:
  """What `report` shows, as JSON: which run of which seed is in which cell."""
  found: dict[tuple[str | None, str, str], dict[str, Any]] = {}
  for seed, cells in tried.items():
    for cell in cells:
      key = cell.defense, cell.attack, cell.student
      shown = found.setdefault(key, _described(cell))
      if cell.runs:
        shown['runs'][str(seed)] = cell.runs[-1].id
  return list(found.values())


def _described(cell: Cell) -> dict[str, Any]:
  """A cell without its runs."""
  thief = cell.runs[-1] if cell.defense is not None and cell.runs else None
  mode = None
  if thief and cell.hears != 'weights' and thief.access_to_data != 'none':
    mode = 'once' if thief.asks_once else 'every view'
  return {
    'defense': cell.defense,
    'attack': cell.attack,
    'student': cell.student,
    'group': cell.group,
    'answers': cell.hears,
    'mode': mode,
    'shared': cell.shared,
    'bound': thief is not None and _is_bound(thief),
    'reason': cell.reason,
    'runs': {},
  }


def _is_bound(run: Run) -> bool:
  """Whether it knows what no thief does."""
  told = getattr(run.module, 'is_bound', None)
  return told is not None and bool(told(run.method_settings))


def _hits(
  students: Sequence[Run], task: store_lib.Task, store: store_lib.Store
) -> dict[str, Any]:
  """Who is right about which image; and who always says the same class."""
  parts = {'test': task.test, 'val': task.val}
  written = {run.id: store.result(run) or {} for run in students}
  found: dict[str, Any] = {
    part: {
      name: result[f'{part}_hits']
      for name, result in written.items()
      if f'{part}_hits' in result
    }
    for part in parts
  }
  likely = np.bincount(task.train['label']).argmax()
  guess = evaluate.pack(task.test['label'] == likely)
  numbers = {part: len(arrays['label']) for part, arrays in parts.items()}
  return found | {'guess': guess, 'numbers': numbers}


def _served(
  jobs: Iterable[plan.Job], finished: set[Run]
) -> dict[int, dict[str, Run]]:
  """{seed: {defense: its teacher}} of those that are finished.

  A seed whose normal network is not has nothing that they compare with.
  """
  return {
    job.seed: {
      name: teacher
      for name, (*_, teacher) in _owners(job).items()
      if teacher in finished
    }
    for job in jobs
    if job.normal in finished
  }


def _prices(
  served: Mapping[int, Mapping[str, Run]], store: store_lib.Store
) -> dict[str, dict[str, Any]]:
  """{defense: {seed: `evaluate.price`}} of the answers as they are served."""
  found: dict[str, dict[str, Any]] = {}
  for seed, teachers in served.items():
    normal = teachers[board_lib.NONE]
    task = store.task(normal.judged_on)
    plain = store.answers(normal, task.test)
    for name, teacher in teachers.items():
      answers, labels = store.answers(teacher, task.test), task.test['label']
      held_out = None
      if len(task.val['label']):
        held_out = store.answers(teacher, task.val), task.val['label']
      numbers = evaluate.price(answers, plain, labels, held_out)
      found.setdefault(name, {})[str(seed)] = numbers
  return found


def fault(
  config: ml_collections.ConfigDict, defense: str, store: store_lib.Store
) -> str:
  """Why the network of an owner has no price: it diverged, or was skipped."""
  config = _main_config(config)
  job = plan.Job(config, config.arena.fresh_seeds[0])
  result = store.result(_owners(job)[defense][-1]) or {}
  return result.get('reason', f'{defense} has not been judged')


def _latencies(
  teachers: Mapping[str, Run], store: store_lib.Store
) -> dict[str, dict[str, dict[str, float]]]:
  """{batch: {defense: {'median', 'p95'}}}, seconds of an answer, of one seed.

  Compiled and warm; in turns, so that whatever else the machine does hits all
  alike.
  """
  if not teachers or black_box.is_recorded(teachers[board_lib.NONE].model):
    return {}  # What is looked up takes another time.
  test = store.task(teachers[board_lib.NONE].judged_on).test['image']
  found: dict[str, dict[str, dict[str, float]]] = {}
  for batch in _TIMED_BATCHES:
    images = np.resize(test, (batch, *test.shape[1:])) / np.float32(255)
    calls = {
      name: _call(teacher, store, images) for name, teacher in teachers.items()
    }
    for call in calls.values():
      call()
    secs: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for _ in range(_TIMED_CALLS):
      if time.perf_counter() - begun > _TIMED_SECS and secs[board_lib.NONE]:
        break
      for name, call in calls.items():
        start = time.perf_counter()
        call()
        secs[name].append(time.perf_counter() - start)
    found[str(batch)] = {
      name: {
        'median': float(np.median(times)),
        'p95': float(np.quantile(times, 0.95)),
      }
      for name, times in secs.items()
    }
  return found


def _serving(
  teachers: Mapping[str, Run], store: store_lib.Store
) -> dict[str, dict[str, float | None]]:
  """{defense: {'networks', 'bytes', 'again', 'shuffled'}}, of one seed.

  How many networks an answer is made of beside that which is served, and what
  all of it weighs, None where that is not known. And the largest difference of
  a score when the same images are asked about again, and when half of them are,
  in another order.
  """
  if not teachers:
    return {}
  test = store.task(teachers[board_lib.NONE].judged_on).test
  images = {key: array[:_REPEATED] for key, array in test.items()}
  number = len(images['label'])
  # Of so few images that they are one batch, another batch.
  order = np.random.default_rng(0).permutation(number)[: -(-number // 2)]
  shuffled = {key: array[order] for key, array in images.items()}
  found = {}
  for name, teacher in teachers.items():
    variables = store.variables(teacher)
    roles, beside = programs.asked(teacher, variables)
    hidden = programs.bare(teacher).model in black_box.KNOWN
    others = [serving.own(variables[serving.PARENTS][role]) for role in roles]
    others += [variables[entry] for entry in beside]
    weights = jax.tree.leaves([serving.own(variables), others])
    first, again, other = (
      store.answers(teacher, arrays) for arrays in (images, images, shuffled)
    )
    found[name] = {
      'networks': sum('params' in one for one in others),
      'bytes': None if hidden else sum(np.asarray(x).nbytes for x in weights),
      'again': evaluate.largest_change(first, again),
      'shuffled': evaluate.largest_change(first[order], other),
    }
  return found


def _call(
  teacher: Run, store: store_lib.Store, images: np.ndarray
) -> Callable[[], Any]:
  """Answers a batch, and waits for it."""
  variables = jax.tree.map(jnp.asarray, store.variables(teacher))
  answer = jax.jit(
    lambda variables, images: losses.log_scores(
      programs.answer_fn(teacher)(variables, images)
    )
  )
  batch = jnp.asarray(images, teacher.dtype)
  return lambda: jax.block_until_ready(answer(variables, batch))
