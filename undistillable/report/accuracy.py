"""How accurate every network is, as bars: a panel for each student.

However many defences and attacks there are, a panel has one bar for each of its
networks, grouped by attack.
"""

import functools

from matplotlib import axes as mpl_axes, figure as mpl_figure

from undistillable.report import (
  draw,
  entries,
  stats,
  summary as summary_lib,
  table,
)
from undistillable.report.summary import Row, Summary

# (what stands left of a line, its bar); a heading of several has none.
_Line = tuple[str, Row | None]

_LINE_INCHES = 0.2
_CHAR_INCHES = 0.075


def figure(summary: Summary) -> draw.Figure:
  """Test accuracy of every network: mean, one standard deviation, each seed."""
  rows = summary['rows']
  told = [
    f'{row["role"]} {row["model"]} {table.trained(row)}: '
    f'{stats.plus_minus(row["accuracy"])} percent'
    for row in rows
  ]
  caption = (
    f'{draw.COLORS_TOLD} In brackets the difference in points to the normal '
    'teacher or to the student alone. A circle is one seed, the line one '
    'standard deviation.'
  )
  return draw.Figure(
    heading='Accuracy of every network',
    name='accuracy',
    draw=functools.partial(panels, summary) if rows else None,
    title=f'{summary["headline"]}: test accuracy by how a network was trained',
    alt=f'Bar chart of test accuracy. {"; ".join(told)}.',
    caption=caption if rows else draw.NO_ACCURACY,
  )


def panels(summary: Summary) -> draw.Panels:
  """The teachers, then a panel for each student network."""
  owners = summary_lib.teachers(summary)
  labels = {row['name']: row['label'] for row in owners}
  found: dict[str, list[_Line]] = {}
  if owners:
    found['Teachers'] = [(row['label'], row) for row in owners]
  for name, rows in summary_lib.students(summary).items():
    found[f'Student {name}'] = _student_lines(rows, labels)
  # Where the scale ends, in percent: bars are to fill most of it.
  highest = max(
    max(row['accuracy']['mean'], *row['accuracy']['by_seed'].values())
    for row in summary['rows']
  )
  limit = next((limit for limit in (10, 20, 50) if highest <= limit), 100)
  chars = max(len(label) for lines in found.values() for label, _ in lines)
  shown = [_panel(name, lines, limit, chars) for name, lines in found.items()]
  # The students, which are alike, stand beside each other.
  return [shown[0], None, *shown[1:]] if owners and len(shown) > 2 else shown


def _student_lines(rows: list[Row], labels: dict[str, str]) -> list[_Line]:
  """Who learned from no teacher, then each attack and its teachers."""
  lines: list[_Line] = []
  attacks: dict[str, list[_Line]] = {}
  for row in rows:
    how = row['method']
    how += f' ({row["setting"]})' if row['setting'] else ''
    if row['method'] == entries.CONTROL:
      lines.insert(0, ('alone', row))
    elif row['teacher'] is None:
      lines.append((how, row))
    else:
      line = f'from {labels[row["teacher"]]}', row
      attacks.setdefault(how, []).append(line)
  for how, found in attacks.items():
    lines += [(f'by {how}', None), *found]
  return lines


def _panel(
  name: str, lines: list[_Line], limit: int, chars: int
) -> mpl_figure.Figure:
  height = 0.75 + _LINE_INCHES * len(lines)
  panel = draw.panel(height)
  panel.set_layout_engine('none')  # Bars of all panels begin at one place.
  left = (0.1 + _CHAR_INCHES * chars) / draw.WIDTH
  right = 1 - (0.15 + _CHAR_INCHES * chars) / draw.WIDTH
  axes = panel.add_axes(
    (left, 0.45 / height, right, _LINE_INCHES * len(lines) / height)
  )
  panel.text(0.01, 1 - 0.05 / height, name, va='top', size=10, weight='bold')
  for y, (_, row) in enumerate(lines):
    if row:
      _draw_bar(axes, y, row)
  # With room for the numbers right of a full bar.
  axes.set(xlim=(0, limit * 1.45), ylim=(len(lines) - 0.4, -0.6))
  axes.set_xticks(range(0, limit + 1, limit // 5))
  axes.set_xlabel('Test accuracy (%)')
  axes.set_yticks(range(len(lines)), [label for label, _ in lines])
  for label, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
    label.set_color(draw.COLORS['ink' if row else 'muted'])
    label.set_fontstyle('normal' if row else 'italic')
  axes.spines['bottom'].set_visible(False)
  axes.grid(axis='x')
  return panel


def _draw_bar(axes: mpl_axes.Axes, y: int, row: Row) -> None:
  """The mean, the deviation as a line, every seed as a dot, the numbers."""
  accuracy, difference = row['accuracy'], row['difference']
  mean, std = accuracy['mean'], accuracy['std']
  by_seed = list(accuracy['by_seed'].values())
  axes.barh(y, mean, height=0.72, color=draw.COLORS[row['color']], linewidth=0)
  if std is not None:
    axes.errorbar(mean, y, xerr=std, color=draw.COLORS['ink'], linewidth=1.1)
    draw.seeds(axes, by_seed, [y] * len(by_seed))
  text = f'{mean:.1f}'
  if difference is not None:
    change = stats.plus_minus(difference | {'std': None}, '+')
    text += f'  ({change})'.replace('-', '−')
  place = (max(mean + (std or 0.0), *by_seed), y), (5, 0)
  axes.annotate(text, *place, textcoords='offset points', va='center')
