"""The summary as a table: for the terminal, for Markdown, for the page."""

from collections.abc import Sequence

from undistillable.report import document, words
from undistillable.report.summary import Row, Summary

COLUMNS = ('Network', 'Trained', 'Accuracy %', 'Difference', 'Seeds')
# The article's way of counting, where a config asks for it.
BEST = 'Best on test %'
# Where attacks were run on nobody as well.
EXCESS = 'Over nobody'
NUMERIC = (2, 3, 4, 5, 6)


def cells(summary: Summary) -> list[tuple[str, ...]]:
  """What is printed: the head, and a tuple of strings for each row."""
  rows = summary['rows']
  found = [COLUMNS, *(_cells(row, summary) for row in rows)]
  for name, key, sign in ((EXCESS, 'excess', '+'), (BEST, 'best', '')):
    if any(row[key] for row in rows):
      column = [name, *(words.plus_minus(row[key], sign) for row in rows)]
      found = [(*c, more) for c, more in zip(found, column, strict=True)]
  return found


def text(summary: Summary) -> str:
  """An aligned table for the terminal; the last line is the sentence."""
  head, *body = shown = cells(summary)
  widths = [
    max(len(cell) for cell in column) for column in zip(*shown, strict=True)
  ]
  rule = '─' * (sum(widths) + 2 * (len(widths) - 1))
  lines, role = [_aligned(head, widths)], None
  for row, line in zip(summary['rows'], body, strict=True):
    if row['role'] != role:
      lines.append(rule)
      role = row['role']
    lines.append(_aligned(line, widths))
  return '\n'.join([*lines, rule, summary['sentence']])


def markdown(summary: Summary) -> str:
  """The same as a Markdown table, without the sentence."""
  head, *body = cells(summary)
  return document.markdown_table(head, body, numeric=NUMERIC)


def block(summary: Summary) -> document.Block:
  """The same for a report."""
  rows = summary['rows']
  if not rows:
    return document.Text('No run has finished.', 'note')
  head, *body = cells(summary)
  return document.Table(
    head=head,
    # A hyphen is too short for a minus sign in a proportional font.
    rows=[(*row[:2], *(c.replace('-', '−') for c in row[2:])) for row in body],
    caption=' '.join(
      [
        words.READING,
        *([words.FAILED] if any(r['failed'] for r in rows) else []),
        *([words.EXCESS] if EXCESS in head else []),
        *([words.BEST] if BEST in head else []),
      ]
    ),
    numeric=NUMERIC[: len(head) - 2],
    # Marks a row in the colour that its network has in the figures.
    classes=tuple(
      f'{row["role"]}s {row["kind"]} {row["color"]}' for row in rows
    ),
    kind='results',
    # The differences of thieves that the protection has failed to harm.
    strong=[(i, 3) for i, row in enumerate(rows) if row['failed']],
  )


def _cells(row: Row, summary: Summary) -> tuple[str, ...]:
  many = len({row['dataset'] for row in summary['rows']}) > 1
  where = f' on {row["dataset"]}' if many else ''
  name = row['model'] if row['role'] == 'teacher' else row['name']
  return (
    f'{row["role"]} {name}{where}',
    words.trained(row),
    words.plus_minus(row['accuracy']),
    words.plus_minus(row['difference'], '+'),
    str(row['accuracy']['num_seeds']),
  )


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
  aligned = [
    cell.rjust(width) if i in NUMERIC else cell.ljust(width)
    for i, (cell, width) in enumerate(zip(line, widths, strict=True))
  ]
  return '  '.join(aligned).rstrip()
