"""The leaderboard: defenses by what leaks, attacks by what they gain.

  python -m experiments.leaderboard
  python -m experiments.leaderboard --add=/tmp/mine/arena --name=digits_mine

Reads the recorded arenas, and trains nothing. The first writes the tables of
docs/leaderboard.md anew; the second makes a record of an arena first.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import flags

from experiments import records
from undistillable import command, errors
from undistillable.report import (
  arena_words as words,
  board as board_lib,
  document,
  plane,
  verdict,
)
from undistillable.report.board import Board, Group
from undistillable.storage import disk, paths

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'leaderboard.md'
_BEGIN, _END = '<!-- tables -->', '<!-- end of tables -->'
_ADD = flags.DEFINE_string(
  'add', None, 'Folder of an arena in a workdir, of which a record is made.'
)
_NAME = flags.DEFINE_string('name', None, 'Of that record.')

_DEFENSES = (
  *('Rank', 'Defense', 'Verdict', 'Leaked', 'Accuracy', 'Brier', 'ECE'),
  *('Time, of 256', 'Gain', 'By', 'Against none'),
)
_ATTACKS = (
  *('Rank', 'Attack', 'Over its null', 'From none', 'Most', 'Least'),
  'Over the control',
)
# {(defense, what its network is): which record it fell in, and to whom}, of
# claims against one kind of thieves.
_Fallen = Mapping[tuple[str, str], str]


def tables(found: Sequence[records.Record]) -> str:
  """The tables of all records in Markdown, the newest first."""
  fallen = _fallen(found)
  newest = sorted(
    found,
    key=lambda record: (record.results['environment']['date'], record.name),
    reverse=True,
  )
  return '\n\n'.join(
    part for record in newest for part in _record(record, fallen)
  )


def page(text: str, found: Sequence[records.Record]) -> str:
  """The page with its tables made anew.

  Raises:
    errors.InputError: it does not have the two marks between which they stand.
  """
  before, begin, rest = text.partition(f'{_BEGIN}\n')
  _, end, after = rest.partition(_END)
  if not (begin and end):
    raise errors.InputError(f'the page has no {_BEGIN} ... {_END}')
  return f'{before}{begin}\n{tables(found)}\n\n{end}{after}'


def _record(record: records.Record, fallen: _Fallen) -> Iterator[str]:
  board = Board(record.results)
  rules, environment = board.rules, record.results['environment']
  entries = board.entries.values()
  teachers = {one['model'] for one in entries if one['role'] == 'teacher'}
  number = rules.get('protocol', 1)  # The first were not numbered.
  learned = (e['config'].get('learns_from') or {} for e in entries)
  share = min((x.get('fraction', 1) for x in learned), default=1)
  few = f' with {words.percent(share)} of the images' if share < 1 else ''
  yield f'## {board.dataset}: {record.name}'
  yield (
    f'Protocol {number}. {len(board.entries):,} networks, '
    f'{environment["date"]}: teacher {document.listed(sorted(teachers))}, '
    f'student {document.listed(board.students)}{few}; chosen with seeds '
    f'{words.numbers(rules["choose_seeds"])}, judged with '
    f'{words.numbers(rules["fresh_seeds"])} on {board.num_images:,} test '
    f'images; margin {rules["margin"]:g} points. '
    f'[The record](../experiments/results/{record.name}/README.md).'
  )
  for group in board.groups:
    yield f'### {group.title}: defenses'
    yield _defenses(record, board, group, fallen)
    for student in group.controls:
      yield f'### {group.title}: attacks by {student}'
      yield _attacks(board, group, student)


def _defenses(
  record: records.Record, board: Board, group: Group, fallen: _Fallen
) -> str:
  """By the share that leaks, of equal ones by the price."""
  paid = board.paid
  names = [name for name in group.rows if name in paid.change]
  shares = {name: group.rows[name].leaked for name in names}
  ranked = all(share is not None for share in shares.values())
  places = {
    name: (paid.change[name]['brier'], (ranked and shares[name]) or 0.0)
    for name in names
  }
  names.sort(key=lambda name: (*reversed(places[name]), name))
  front = plane.front(places)
  rows, rank = [], 0
  for name in names:
    row, change = group.rows[name], paid.change[name]
    rank += name != board_lib.NONE
    times = paid.times.get(name, {})
    share = shares[name]
    rows.append(
      (
        str(rank) if ranked and name != board_lib.NONE else '–',
        name,
        _standing(record, board, group, name, fallen),
        '–' if share is None else words.percent(share),
        words.points(change['accuracy']),
        words.signed(change['brier'], '.3f'),
        words.points(change['ece']),
        f'{words.time(times.get("1"))}, {words.time(times.get("256"))}',
        words.interval(row.verdict.gain, row.verdict.level),
        _short(row.verdict.attack or '–', group.attacks),
        words.interval(row.against_none),
      )
    )
  strong = [(i, 1) for i, n in enumerate(names) if ranked and n in front]
  right = (0, *range(3, 9), len(_DEFENSES) - 1)
  table = document.markdown_table(_DEFENSES, rows, right, strong)
  if ranked:
    return table
  gain = group.rows[board_lib.NONE].verdict.gain
  known = '' if gain is None else f' ({words.points(gain.points)} points)'
  why = (
    'Nobody is ranked: what the thief gains from the unprotected network'
    f'{known} is not more than {board_lib.MIN_TO_LEAK:g} point, too little to '
    f'take shares of. In the order of the price. {words.ceiling(board, group)}'
  )
  return f'{why.rstrip()}\n\n{table}'


def _short(attack: str, attacks: Sequence[str]) -> str:
  """Without its settings, where they tell it from no other."""
  name = attack.split(':')[0]
  alike = [one for one in attacks if one.split(':')[0] == name]
  return name if len(alike) == 1 else attack


def _standing(
  record: records.Record,
  board: Board,
  group: Group,
  name: str,
  fallen: _Fallen,
) -> str:
  """The verdict, or by what the claim was withdrawn."""
  found = group.rows[name].verdict
  if found.decision != 'undistillable':
    return words.told(found)
  why = record.withdrawn.get(name) or fallen.get(
    (group.name, _network(board, name))
  )
  return f'withdrawn: {why}' if why else words.told(found)


def _fallen(found: Sequence[records.Record]) -> _Fallen:
  """What was distilled in some record, whatever another one says of it."""
  fallen = {}
  for record in found:
    board = Board(record.results)
    for group in board.groups:
      for name, row in group.rows.items():
        if row.verdict.decision == 'distillable':
          key = group.name, _network(board, name)
          thief = _short(row.verdict.attack, group.attacks)
          fallen[key] = f'distillable by {thief} in {record.name}'
  return fallen


def _network(board: Board, defense: str) -> str:
  """What a defense is: all settings of its network, but for the seed.

  However its row is called; of one whose network nobody tells, that name.

  Other settings, or another source of one's own module, make another network,
  and its claim another claim. Another version of this package makes none.
  """
  owners = board.teachers(defense)
  if not owners:
    return defense
  config = {
    key: value
    for key, value in next(iter(owners.values()))['config'].items()
    if key not in ('parents', 'seed', 'version')
  }
  return json.dumps(config, sort_keys=True)


def _attacks(board: Board, group: Group, student: str) -> str:
  """By the mean gain from the protected over the same attack on nobody."""
  rows = []
  for name in group.thieves:
    hits = {
      defense: found
      for defense in group.rows
      if (found := board.test(board.cell(defense, name, student))) is not None
    }
    null, alone = _null(board, group, name, student), group.alone.get(student)
    protected = [h for d, h in hits.items() if d != board_lib.NONE]
    if null is None or alone is None or len(null) < 2 or not protected:
      continue
    mean = np.mean(protected, axis=0)
    gains = {d: verdict.gain(h, null) for d, h in hits.items()}
    plain = gains.pop(board_lib.NONE, None)
    order = sorted(gains, key=lambda defense: gains[defense].points)
    worst, best = order[0], order[-1]
    over_null, over_best = verdict.gain(mean, null), verdict.gain(mean, alone)
    rows.append(
      (
        over_null.points,
        (
          _short(name, group.attacks),
          words.interval(over_null),
          words.interval(plain),
          f'{words.points(gains[best].points)} {best}',
          f'{words.points(gains[worst].points)} {worst}',
          words.interval(over_best),
        ),
      )
    )
  rows.sort(key=lambda row: (-row[0], row[1]))
  head = list(_ATTACKS)
  if group.name != board_lib.OWN:  # There the control is all that is null.
    head.pop()
  shown = [
    (str(rank), *cells)[: len(head)] for rank, (_, cells) in enumerate(rows, 1)
  ]
  return document.markdown_table(head, shown, (0, *range(2, len(head))))


def _null(
  board: Board, group: Group, attack: str, student: str
) -> np.ndarray | None:
  """The same attack on nobody; without labels, a guess."""
  if group.name != board_lib.OWN:
    return group.alone.get(student)
  for cell in board.controls(student):
    if cell['attack'] == f'null {attack}':
      return board.test(cell)
  return None


def main() -> None:
  """Adds a record where one is named, and writes the page."""
  source, name = _ADD.value, _NAME.value
  if source is not None and name is not None:
    if not re.fullmatch(r'\w[\w-]*', name):
      raise errors.InputError(
        f'name={name!r}; expected a word, the name of a folder'
      )
    records.add(paths.local(source, 'add'), records.RESULTS / name)
  elif source or name:
    raise errors.InputError('--add and --name go together')
  text = page(PAGE.read_text(encoding='utf-8'), records.read_all())
  disk.replace(PAGE, text.encode())
  print(f'Page: {PAGE}')


if __name__ == '__main__':
  command.run(main)
