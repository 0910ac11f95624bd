"""The summary as a table: for the terminal, for Markdown, for the page."""

import typing
from collections.abc import Sequence

from undistillable.analysis import markdown, records, style

COLUMNS = ('Network', 'Trained', 'Accuracy %', 'Difference', 'Seeds')
NUMERIC = (2, 3, 4, 5)
# The article's way of counting, where a config asks for it.
BEST = 'Best on test %'
_NONE = '·'


class Row(typing.NamedTuple):
  """One kind of network: strings to print, and what they mean."""

  model: str
  trained: str
  accuracy: str
  difference: str
  seeds: str
  best: str
  section: str  # 'teachers' or 'students'
  kind: str  # 'normal', 'protected' or 'control'
  verdict: str | None
  number: int = 0  # of the protected teacher, which fixes its colour


def rows(summary: records.Summary) -> list[Row]:
  """The summary's networks, one row each, teachers first."""
  networks = summary['teachers'] + summary['students']
  many = len({network['dataset'] for network in networks}) > 1
  index = style.defense_index(summary)
  result = [
    _teacher_row(teacher, many, index.get(teacher['name'], 0))
    for teacher in summary['teachers']
  ]
  for student in summary['students']:
    where = f' on {student["dataset"]}' if many else ''
    model = f'student {student["name"]}{where}'
    if student['control']:
      result.append(_control_row(model, student))
    result += [
      _attack_row(model, attack, index.get(attack['teacher'], 0))
      for attack in student['attacks']
    ]
  return result


def cells(summary: records.Summary) -> list[tuple[str, ...]]:
  """What is printed: the head, and a tuple of strings for each row."""
  found = rows(summary)
  if all(row.best == _NONE for row in found):
    return [COLUMNS, *(row[:5] for row in found)]
  return [(*COLUMNS, BEST), *(row[:6] for row in found)]


def text_table(summary: records.Summary) -> str:
  """An aligned table for the terminal; the last line is the sentence."""
  head, *body = shown = cells(summary)
  widths = [
    max(len(cell) for cell in column) for column in zip(*shown, strict=True)
  ]
  rule = '─' * (sum(widths) + 2 * (len(widths) - 1))
  lines, section = [_aligned(head, widths)], None
  for row, line in zip(rows(summary), body, strict=True):
    if row.section != section:
      lines.append(rule)
      section = row.section
    lines.append(_aligned(line, widths))
  return '\n'.join(lines + [rule, summary['sentence']])


def markdown_table(summary: records.Summary) -> str:
  """The same as a Markdown table, without the sentence."""
  head, *body = cells(summary)
  return markdown.table(head, body, numeric=NUMERIC)


def plus_minus(stat: records.Stat | None, sign: str = '') -> str:
  """'71.6 ± 2.1', without the deviation for one seed."""
  if stat is None:
    return _NONE
  text = f'{stat["mean"]:{sign}.1f}'
  # No '-0.0': a reader takes it for a loss.
  text = text.replace('-0.0', '+0.0' if sign else '0.0')
  return text if stat['std'] is None else f'{text} ± {stat["std"]:.1f}'


def _teacher_row(teacher: records.Entry, many: bool, index: int) -> Row:
  trained = 'normally' if not teacher['protected'] else teacher['method']
  if teacher['setting']:
    trained += f' ({teacher["setting"]})'
  where = f' on {teacher["dataset"]}' if many else ''
  cost = teacher['cost']
  change = cost and cost | {'mean': -cost['mean']}
  return Row(
    model=f'teacher {teacher["model"]}{where}',
    trained=trained,
    accuracy=plus_minus(teacher['accuracy']),
    difference=plus_minus(change, '+'),
    seeds=str(teacher['accuracy']['num_seeds']),
    best=plus_minus(teacher['best']),
    section='teachers',
    kind='protected' if teacher['protected'] else 'normal',
    verdict=teacher['verdict'],
    number=index,
  )


def _control_row(model: str, student: records.Entry) -> Row:
  control = student['control']
  return Row(
    model=model,
    trained='alone',
    accuracy=plus_minus(control),
    difference=_NONE,
    seeds=str(control['num_seeds']),
    best=plus_minus(student['control_best']),
    section='students',
    kind='control',
    verdict=None,
  )


def _attack_row(model: str, attack: records.Entry, index: int) -> Row:
  how = attack['method']
  how += f' ({attack["setting"]})' if attack['setting'] else ''
  how += f' from {attack["teacher"]}' if attack['teacher'] else ' alone'
  kind = 'protected' if attack['protected'] else 'normal'
  return Row(
    model=model,
    trained=how,
    accuracy=plus_minus(attack['accuracy']),
    difference=plus_minus(attack['difference'], '+'),
    seeds=str(attack['accuracy']['num_seeds']),
    best=plus_minus(attack['best']),
    section='students',
    kind=kind if attack['teacher'] else 'control',
    verdict=attack['verdict'],
    number=index,
  )


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
  aligned = [
    cell.rjust(width) if i in NUMERIC else cell.ljust(width)
    for i, (cell, width) in enumerate(zip(line, widths, strict=True))
  ]
  return '  '.join(aligned).rstrip()
