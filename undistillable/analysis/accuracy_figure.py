"""How accurate every network is, as bars."""

from collections.abc import Mapping

from matplotlib import axes as mpl_axes, figure as mpl_figure

from undistillable.analysis import records, style

# (label, accuracy, difference, kind, index): the last two fix the colour.
_Bar = tuple[str, records.Stat, float | None, str, int]

_ROW_INCHES = 0.27
_GAP = 0.5  # between networks, in rows


def accuracy_bars(
  summary: records.Summary,
  *,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure | None:
  """Test accuracy of every network: mean, one standard deviation, each seed.

  Args:
    summary: what `summary.summarize` returns.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: lay it out for a telephone.
    titled: put the title into the figure.

  Returns:
    A matplotlib Figure, or None if there is no accuracy to show.
  """
  groups = _groups(summary)
  if not groups:
    return None
  num_rows = sum(len(bars) for _, bars in groups) + (1 + _GAP) * len(groups)
  with style.use(theme):
    figure = style.new(4.6 if narrow else 8.4, 0.75 + _ROW_INCHES * num_rows)
    axes = figure.subplots()
    y = 0.0
    labels: dict[float, str] = {}
    for name, bars in groups:
      labels[y] = name
      labels |= {y + 1 + i: bar[0] for i, bar in enumerate(bars)}
      _draw_group(axes, y + 1, bars, theme)
      y += len(bars) + 1 + _GAP
    _finish(axes, y, labels, _limit(groups), narrow, theme)
    if titled:
      style.title(figure, title(summary), theme)
  return figure


def title(summary: records.Summary) -> str:
  """What there is to see."""
  return f'{summary["headline"]}: test accuracy by how a network was trained'


def _groups(summary: records.Summary) -> list[tuple[str, list[_Bar]]]:
  """[(network, its bars)]."""
  index = style.defense_index(summary)
  teachers: dict[str, list[_Bar]] = {}
  for teacher in summary['teachers']:
    how = teacher['method'] if teacher['protected'] else 'trained normally'
    how += f' ({teacher["setting"]})' if teacher['setting'] else ''
    cost = teacher['cost'] and -teacher['cost']['mean']
    kind = 'protected' if teacher['protected'] else 'normal'
    bar = (how, teacher['accuracy'], cost, kind, index.get(teacher['name'], 0))
    teachers.setdefault(f'Teacher {teacher["model"]}', []).append(bar)
  groups = list(teachers.items())
  for student in summary['students']:
    bars = [_bar(attack, index) for attack in student['attacks']]
    if student['control']:
      bars.insert(0, ('trained alone', student['control'], None, 'control', 0))
    groups.append((f'Student {student["name"]}', bars))
  return [(name, bars) for name, bars in groups if bars]


def _bar(attack: records.Entry, index: Mapping[str, int]) -> _Bar:
  how = attack['method']
  how += f' ({attack["setting"]})' if attack['setting'] else ''
  teacher = attack['teacher']
  kind = 'protected' if attack['protected'] else 'normal'
  difference = attack['difference'] and attack['difference']['mean']
  return (
    f'{how} from {teacher}' if teacher else how,
    attack['accuracy'],
    difference,
    kind if teacher else 'control',
    index.get(teacher, 0),
  )


def _draw_group(
  axes: mpl_axes.Axes, top: float, bars: list[_Bar], theme: style.Theme
) -> None:
  """Draws one network's bars from row `top` on."""
  for row, (_, accuracy, difference, kind, index) in enumerate(bars):
    y = top + row
    mean, std = accuracy['mean'], accuracy['std']
    color = theme.of(kind, index)
    axes.barh(y, mean, height=0.68, color=color, linewidth=0)
    _draw_seeds(axes, y, accuracy, theme)
    end = max(mean + (std or 0.0), *accuracy['by_seed'].values())
    text = f'{mean:.1f}'
    text += '' if difference is None else f'  ({_signed(difference)})'
    axes.annotate(
      text, (end, y), (5, 0), textcoords='offset points', va='center', size=9
    )


def _draw_seeds(
  axes: mpl_axes.Axes, y: float, accuracy: records.Stat, theme: style.Theme
) -> None:
  """The standard deviation as a line, every seed as a dot."""
  if accuracy['std'] is not None:
    axes.errorbar(
      accuracy['mean'], y, xerr=accuracy['std'], color=theme.ink, linewidth=1.1
    )
    seeds = list(accuracy['by_seed'].values())
    axes.plot(
      seeds,
      [y] * len(seeds),
      'o',
      markersize=3.2,
      markerfacecolor=theme.surface,
      markeredgecolor=theme.ink,
      markeredgewidth=0.7,
    )


def _finish(
  axes: mpl_axes.Axes,
  bottom: float,
  labels: Mapping[float, str],
  limit: int,
  narrow: bool,
  theme: style.Theme,
) -> None:
  """Names on the left, a scale below, and nothing else."""
  axes.set_ylim(bottom - 0.5 - _GAP, -0.7)
  # Room for the numbers right of a full bar.
  axes.set_xlim(0, limit * (1.42 if narrow else 1.2))
  axes.set_xticks(range(0, limit + 1, limit // 5))
  axes.set_xlabel('Test accuracy (%)', loc='left')
  axes.set_yticks(list(labels), labels.values())
  for label in axes.get_yticklabels():
    is_network = label.get_text().startswith(('Teacher ', 'Student '))
    label.set_color(theme.ink)
    label.set_fontweight('bold' if is_network else 'normal')
  axes.tick_params(length=0)
  axes.spines[['left', 'bottom']].set_visible(False)
  axes.grid(axis='x')


def _limit(groups: list[tuple[str, list[_Bar]]]) -> int:
  """Where the scale ends, in percent: bars are to fill most of it."""
  highest = max(
    max(accuracy['mean'], *accuracy['by_seed'].values())
    for _, bars in groups
    for _, accuracy, *_ in bars
  )
  return next((limit for limit in (10, 20, 50) if highest <= limit), 100)


def _signed(value: float) -> str:
  return f'{value:+.1f}'.replace('-', '−')
