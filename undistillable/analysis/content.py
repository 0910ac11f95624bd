"""A study -> the blocks of its report, in the order a reader needs them."""

from collections.abc import Mapping, Sequence
from typing import Any

from undistillable.analysis import blocks, records, settings, style, table

_SOURCE = blocks.Link(
  'Ma et al. (2021). Undistillable: making a nasty teacher that cannot teach '
  'students. ICLR 2021, arXiv:2105.07381.',
  'https://arxiv.org/abs/2105.07381',
)
_READING = (
  'Mean over seeds ± one standard deviation, on every test image. Difference: '
  'a teacher against the normal teacher, a student against the same student '
  'trained alone, taken seed by seed, in percentage points.'
)
_BEST = (
  'Best on test: the epoch that is best on the test set, as the article '
  'counts; nothing here is judged by it.'
)
_LIMITS = (
  'A protection is known to hold only against the attacks, students and data '
  'named here. A thief with another attack, more queries or other images may '
  'do better. Differences within one standard error are called level.'
)


def result(summary: records.Summary) -> list[blocks.Block]:
  """The table, and what is missing in it."""
  notes = [blocks.Text(note, 'note') for note in summary['notes']]
  return [blocks.Heading('Result'), _table(summary), *notes]


def title(summary: records.Summary) -> str:
  """The question that the report answers."""
  names = [t['name'] for t in summary['teachers'] if t['protected']]
  data = sorted({t['dataset'] for t in summary['teachers']})
  where = f' on {data[0]}' if len(data) == 1 else ''
  if not names:
    return f'Distillation study{where}'
  if len(names) == 1:
    return f'How undistillable is the {names[0]}{where}?'
  return f'How undistillable are {len(names)} protected teachers{where}?'


def eyebrow(summary: records.Summary, environment: Mapping[str, Any]) -> str:
  """What kind of page this is, and how much stands behind it."""
  seeds = len(summary['seeds'])
  parts = ['Distillation audit']
  parts.append(f'{summary["num_runs"]} trained networks')
  parts.append(f'{seeds} seed{"" if seeds == 1 else "s"}')
  if environment.get('date'):
    parts.append(str(environment['date']))
  return ' · '.join(parts)


def tone(summary: records.Summary) -> str:
  """'good', 'bad' or 'open': the colour of the answer, never its only sign."""
  if 'holds' in summary['headline']:
    return 'good'
  return 'open' if 'Not enough' in summary['headline'] else 'bad'


def alt_accuracy(summary: records.Summary) -> str:
  """The bars in words."""
  rows = [
    f'{row.model} {row.trained}: {row.accuracy} percent'
    for row in table.rows(summary)
  ]
  return f'Bar chart of test accuracy. {"; ".join(rows)}.'


def _table(summary: records.Summary) -> blocks.Block:
  rows = table.rows(summary)
  if not rows:
    return blocks.Text('No run has finished.', 'note')
  head, *body = table.cells(summary)
  return blocks.Table(
    head=head,
    # A hyphen is too short for a minus sign in a proportional font.
    rows=[
      (*row[:2], *(cell.replace('-', '−') for cell in row[2:])) for row in body
    ],
    caption=f'{_READING} {_BEST}' if table.BEST in head else _READING,
    numeric=table.NUMERIC[: len(head) - 2],
    classes=tuple(map(_classes, rows)),
    kind='results',
  )


def _classes(row: table.Row) -> str:
  """Marks a row in the colour that its network has in the figures."""
  number = row.number % len(style.LIGHT.protected)
  protected = f' defense-{number}' if row.kind == 'protected' else ''
  return f'{row.section} {row.kind}{protected}'


def method(results: Mapping[str, Any], command: str) -> list[blocks.Block]:
  """How it was done, and what it does not show.

  Args:
    results: the study's `{"runs", "environment"}`.
    command: what was typed to run the study, or ''.
  """
  runs, environment = results.get('runs', []), results.get('environment') or {}
  parts: list[blocks.Block] = [blocks.Heading('How it was done')]
  if command:
    parts += [blocks.Heading('Command', 3), blocks.Code(command)]
  common = settings.common(runs)
  if common:
    caption = 'The same in every run.'
    table_ = blocks.Table(('Setting', 'Value'), common, caption)
    parts += [blocks.Heading('Settings', 3), table_]
  head, rows = settings.differing(runs)
  if rows:
    caption = 'What differs between the kinds of network.'
    parts.append(blocks.Table(head, rows, caption))
  if environment:
    rows = [(str(key), str(value)) for key, value in environment.items()]
    caption = 'Versions and hardware.'
    parts.append(blocks.Heading('Environment', 3))
    parts.append(blocks.Table(('Item', 'Value'), rows, caption))
  if runs:
    parts += [blocks.Heading('Runs', 3), _runs(runs)]
  return parts + [blocks.Heading('Limits'), blocks.Text(_LIMITS), _SOURCE]


def _runs(runs: Sequence[records.Run]) -> blocks.Table:
  """Every run, finished or not."""
  total = settings.duration(sum(run.get('seconds') or 0.0 for run in runs))
  head = ('Run', 'Method', 'Seed', 'Accuracy %', 'NLL', 'Epochs', 'Time')
  rows = [
    (
      run['id'],
      run['method'],
      str(run['seed']),
      _number(run.get('test_accuracy'), '.2f'),
      _number(run.get('test_nll'), '.3f'),
      str(run.get('epochs', '–')),
      settings.duration(run.get('seconds')),
    )
    for run in sorted(runs, key=lambda r: (r['role'] != 'teacher', r['id']))
  ]
  caption = (
    f'All {len(rows)} runs, {total} in all. Accuracy and NLL (negative log '
    'likelihood, nats) on every test image.'
  )
  numeric = (2, 3, 4, 5, 6)
  return blocks.Table(head, rows, caption, numeric, kind='runs')


def _number(value: float | None, spec: str) -> str:
  return '–' if value is None else format(value, spec)
