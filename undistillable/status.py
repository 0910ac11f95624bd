"""Who trains what in a workdir, since when, how far, and what is left.

  python -m undistillable.status --workdir=/tmp/undistillable/digits

Changes nothing; any number of processes, on any machines, may be at work there.
"""

import collections
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from undistillable import errors, terminal
from undistillable.storage import disk, lease, paths
from undistillable.training import writers

PLAN = 'plan.json'
# In the order in which they are shown.
_STATES = (
  'in training',
  'stopped',
  'diverged',
  'damaged',
  'waiting',
  'finished',
)
_TYPES = {'id': str, 'label': str, 'epochs': int}  # Of a line of a plan.


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """What is known of every run that a study of the workdir has planned.

  Args:
    workdir: of one or several studies.

  Returns:
    For each run its id, label and state ('in training', 'stopped', 'diverged',
    'damaged', 'waiting' or 'finished'), the epochs done, those there will be,
    and in training who does it since when. Damaged is what cannot be read; no
    checksum is looked at here, as the next command does.

  Raises:
    errors.InputError: nothing was begun there.
  """
  planned = _planned(workdir)
  if not planned:
    raise errors.InputError(
      f'{workdir} has no {PLAN} that can be read: no study was begun there, or '
      'none by this version'
    )
  return [_row(run, workdir / 'runs' / run['id']) for run in planned]


def _planned(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The runs of all studies, each once; none of a file that is no plan."""
  found: dict[str, dict[str, Any]] = {}
  for path in (*workdir.glob(PLAN), *sorted(workdir.glob(f'*/{PLAN}'))):
    try:
      lines = disk.read_json(path)
    except (errors.InputError, OSError):
      continue  # It is damaged.
    for line in lines if isinstance(lines, list) else ():
      if isinstance(line, dict) and all(
        isinstance(line.get(key), kind) for key, kind in _TYPES.items()
      ):
        found.setdefault(line['id'], line)
  return list(found.values())


def _row(run: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
  row = {**run, 'state': 'waiting', 'done': 0, 'who': ''}
  result = folder / 'result.json'
  try:
    is_there = result.exists()
    # Of thousands of finished runs no more is read than that.
    owner = None
    if folder.is_dir() and not (is_there and not _is_old(result)):
      owner = lease.owner(folder)
    if is_there and owner is None:
      found = disk.read_json(result)
      state, done = found['status'], found.get('epochs', 0)
      return row | {
        'state': state if state in _STATES else 'damaged',
        'done': done,
      }
    epochs = writers.read_metrics(folder)
    row['done'] = epochs[-1]['epoch'] if epochs else 0
    if owner is not None:
      since = f', since {owner["since"]}' if 'since' in owner else ''
      who = f'{lease.named(owner)}{since}'
      return row | {'state': 'in training', 'who': who}
  except (AttributeError, KeyError, OSError, TypeError, errors.InputError):
    return row | {'state': 'damaged'}
  return row | ({'state': 'stopped'} if row['done'] else {})


def _is_old(result: pathlib.Path) -> bool:
  """Whether its network, which was damaged, is being trained again."""
  metrics = result.with_name('metrics.jsonl')
  return metrics.exists() and metrics.stat().st_mtime > result.stat().st_mtime


def show(found: Sequence[dict[str, Any]]) -> str:
  """The table of `rows`, and a line that counts them."""
  width = max(len(row['label']) for row in found)
  lines = []
  for row in sorted(found, key=lambda row: _STATES.index(row['state'])):
    if row['state'] == 'finished':
      continue  # Whoever asks wants to know of the others.
    epochs = f'{row["done"]} of {row["epochs"]}' if row['epochs'] else ''
    line = f'{row["label"]:{width}}  {row["state"]:11}  {epochs:>12}  '
    lines.append(f'{line}{row["who"]}'.rstrip())
  counts = collections.Counter(row['state'] for row in found)
  told = [f'{counts[state]} {state}' for state in _STATES if counts[state]]
  return '\n'.join([*lines, f'{len(found)} runs: {", ".join(told)}'])


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table; exits with 1 and one sentence if there is none."""
  terminal.be_printable()
  parser = terminal.Parser(
    prog='python -m undistillable.status', description=__doc__.split('\n')[0]
  )
  parser.add_argument('--workdir', required=True, help='of one or more studies')
  given = parser.parse_args(argv).workdir
  try:
    print(show(rows(paths.local(given, 'workdir'))))
  except (errors.InputError, OSError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
