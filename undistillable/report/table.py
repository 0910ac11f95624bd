"""The summary as a table: for the terminal, for Markdown, for the page."""

from undistillable.report import document, entries, stats
from undistillable.report.summary import Row, Summary

READING = (
  'Mean over seeds ± one standard deviation, on every test image. Difference: '
  'a teacher against the normal teacher, a student against the same student '
  'trained alone, taken seed by seed, in percentage points.'
)
_HEAD = ('Network', 'Trained', 'Accuracy %', 'Difference', 'Seeds')
_NUMERIC = (2, 3, 4, 5, 6)
# {column: (key of a row, sign, how to read it)}, where a row has such a number.
_MORE = {
  'Over nobody': (
    'excess',
    '+',
    'Over nobody: against the same attack with every answer replaced by what '
    'the thief knew before, which is in the table as the attack alone. Only '
    'this was stolen.',
  ),
  'Best on test %': (
    'best',
    '',
    'Best on test: the epoch that is best on the test set, as the article '
    'counts; nothing here is judged by it.',
  ),
}


def text(summary: Summary) -> str:
  """An aligned table for the terminal; the last line is the sentence."""
  head, *body = document.aligned(_cells(summary), _NUMERIC)
  rule = '─' * len(head)
  lines, role = [head], None
  for row, line in zip(summary['rows'], body, strict=True):
    if row['role'] != role:
      lines.append(rule)
      role = row['role']
    lines.append(line)
  return '\n'.join([*lines, rule, summary['sentence']])


def markdown(summary: Summary) -> str:
  """The same as a Markdown table, without the sentence."""
  head, *body = _cells(summary)
  return document.markdown_table(head, body, numeric=_NUMERIC)


def block(summary: Summary) -> document.Block:
  """The same for a report."""
  rows = summary['rows']
  if not rows:
    return document.Text('No run has finished.', 'note')
  head, *body = _cells(summary)
  # The differences of thieves that the protection has failed to harm.
  strong = [(i, 3) for i, row in enumerate(rows) if row['failed']]
  caption = [READING]
  if strong:
    caption.append('Bold: this thief lost nothing to the protection.')
  caption += [told for name, (_, _, told) in _MORE.items() if name in head]
  return document.Table(
    head=head,
    # A hyphen is too short for a minus sign in a proportional font.
    rows=[(*row[:2], *(c.replace('-', '−') for c in row[2:])) for row in body],
    caption=' '.join(caption),
    numeric=_NUMERIC[: len(head) - 2],
    # Marks a row in the colour that its network has in the figures.
    classes=tuple(
      f'{row["role"]}s {row["kind"]} {row["color"]}' for row in rows
    ),
    kind='results',
    strong=strong,
  )


def trained(row: Row) -> str:
  """'normally', 'nasty (omega 0.1)', 'alone' or 'kd from nasty cnn8'."""
  if row['method'] == entries.CONTROL:
    return 'alone'
  how = row['method']
  if row['role'] == 'teacher' and row['kind'] == 'normal':
    how = 'normally'
  how += f' ({row["setting"]})' if row['setting'] else ''
  if row['role'] == 'student':
    how += f' from {row["teacher"]}' if row['teacher'] else ' alone'
  return how


def _cells(summary: Summary) -> list[tuple[str, ...]]:
  """The head, and a tuple of strings for each row."""
  rows = summary['rows']
  many = len({row['dataset'] for row in rows}) > 1
  found: list[tuple[str, ...]] = [_HEAD]
  for row in rows:
    name = row['model'] if row['role'] == 'teacher' else row['name']
    name += f' on {row["dataset"]}' if many else ''
    found.append(
      (
        f'{row["role"]} {name}',
        trained(row),
        stats.plus_minus(row['accuracy']),
        stats.plus_minus(row['difference'], '+'),
        str(row['accuracy']['num_seeds']),
      )
    )
  for name, (key, sign, _) in _MORE.items():
    if any(row[key] for row in rows):
      column = [name, *(stats.plus_minus(row[key], sign) for row in rows)]
      found = [(*c, more) for c, more in zip(found, column, strict=True)]
  return found
