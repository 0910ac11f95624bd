"""What becomes of teachers and students while one setting is varied.

The ablations of Ma et al. (2021), arXiv:2105.07381, section 4.3, as small
multiples: one panel a network, all on one scale of accuracy.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes, figure as mpl_figure

from undistillable.report import draw, entries as entries_lib, stats
from undistillable.report.stats import Entry
from undistillable.report.summary import NUM_COLORS

# (an entry, all of them by id) -> the value of what is varied; None where it
# does not depend on it.
ValueFn = Callable[[Entry, Mapping[str, Entry]], Any]
Cell = dict[str, Any]

_KINDS = ('control', 'normal', 'protected')
# {'student', 'attack', 'name', 'color', 'points': {x: Stat}}; a line that does
# not depend on what is swept has one point, at None.
Line = dict[str, Any]

# Steps more uneven than this are drawn evenly: 1, 2, 4, ..., 20 on a linear
# axis would squeeze half of the points into a tenth of it.
_MAX_STEP_RATIO = 3.0
_MIN_SPAN = 5.0  # Accuracy points: noise must not fill the figure.
_MAX_CHARS = 34  # Of the labels below a panel, before they are slanted.


def collect(entries: Sequence[Entry], value_fn: ValueFn) -> list[Cell]:
  """Groups networks by what they learned from, and by the value.

  Returns:
    One cell a group: {role, model, kind, attack, defense, x}, and its
    `entries.numbers`. `kind` is that of `entries.kind_of`, `attack` the method
    of a student, `defense` that of the teacher that it is or learned from, and
    `x` the value of what is varied.
  """
  finished, _ = entries_lib.usable(entries)
  by_id = {entry['id']: entry for entry in finished}

  def key(entry: Entry) -> tuple[Any, ...]:
    student = entry['role'] == 'student'
    owner = by_id.get(entry['teacher']) if student else entry
    return (
      entry['role'],
      entry['model'],
      entries_lib.kind_of(entry, by_id),
      entry['method'] if student else None,
      owner['method'] if owner else None,
      value_fn(entry, by_id),
    )

  names = ('role', 'model', 'kind', 'attack', 'defense', 'x')
  return [
    dict(zip(names, found, strict=True)) | entries_lib.numbers(group, by_id)
    for found, group in sorted(
      entries_lib.grouped(finished, key).items(),
      key=lambda item: _order(*item[0]),
    )
  ]


def _order(
  role: str, model: str, kind: str, attack: str, defense: str, x: Any
) -> tuple[Any, ...]:
  """Teachers, then students; what learns alone first; rising values."""
  return (
    role != 'teacher',
    entries_lib.natural(model),
    _KINDS.index(kind),
    # The control before others who ask nobody.
    attack != entries_lib.CONTROL,
    entries_lib.natural(attack),
    entries_lib.natural(defense),
    (x is not None, isinstance(x, str), entries_lib.natural(x)),
    x if isinstance(x, float | int) else 0,
  )


def figure(
  cells: Sequence[Cell],
  heading: str,
  x_label: str,
  *,
  log_x: bool = False,
) -> draw.Figure:
  """Test accuracy by a setting: mean, band of one deviation, every seed.

  Words for x make separate marks, not lines. With `log_x` it grows by factors:
  its values are drawn at even distances, which has a place for 0.
  """
  lines = lines_of(cells)
  return draw.Figure(
    heading=heading,
    name='sweep',
    draw=functools.partial(panels, lines, x_label, log_x) if lines else None,
    title=f'Test accuracy of each network by {x_label}',
    alt=_alt(lines, x_label),
    caption=_caption(lines) if lines else draw.NO_ACCURACY,
  )


def _caption(lines: Iterable[Line]) -> str:
  accuracies = [a for line in lines for a in line['points'].values()]
  text = (
    f'{draw.COLORS_TOLD} A dashed line without points does not depend on the '
    'setting; a gap is a run that is missing. '
  )
  if all(accuracy['num_seeds'] == 1 for accuracy in accuracies):
    text += 'Every point is one seed'
    if any(map(stats.spread, accuracies)):
      text += ', bands one standard error for the number of test images'
    return f'{text}.'
  return (
    f'{text}Large points are means over seeds, bands one standard deviation, '
    'small points single seeds.'
  )


def _alt(lines: Sequence[Line], x_label: str) -> str:
  """Where each line starts, ends and is lowest."""
  parts = [f'Line charts of test accuracy by {x_label}.']
  for panel, shown in draw.by_panel(lines).items():
    parts.append(f'{panel}: {"; ".join(map(_line_told, shown))}.')
  return ' '.join(parts)


def _line_told(line: Line) -> str:
  means = {x: found['mean'] for x, found in line['points'].items()}
  if _is_level(line):
    return f'{line["name"]} {means[None]:.1f}%'
  if not _are_words(means):
    xs = sorted(x for x in means if x is not None)
    ends = {xs[0], min(xs, key=lambda x: means[x]), xs[-1]}
    means = {x: means[x] for x in xs if x in ends}
  told = [f'{mean:.1f}% at {_shown(x)}' for x, mean in means.items()]
  return f'{line["name"]} {", ".join(told)}'


def _shown(x: Any) -> str:
  return x if isinstance(x, str) else f'{x:g}'


def lines_of(cells: Sequence[Cell]) -> list[Line]:
  """A panel for the teachers and each student, a line for each teacher."""
  owners = [cell for cell in cells if cell['role'] == 'teacher']
  protected = {c['model'] for c in owners if c['kind'] == 'protected'}
  defenses = list(
    dict.fromkeys(c['defense'] for c in cells if c['kind'] == 'protected')
  )
  lines: dict[tuple[str | None, str | None, str], Line] = {}
  for cell in cells:
    student = cell['model'] if cell['role'] == 'student' else None
    if student is None and cell['model'] not in protected:
      continue  # An adversary of another kind, which nobody learns from.
    color = cell['kind']
    if color == 'protected':
      color = f'defense-{defenses.index(cell["defense"]) % NUM_COLORS}'
    key = student, cell['attack'] if cell['defense'] else None, _name(cell)
    line = dict(zip(('student', 'attack', 'name'), key, strict=True))
    line |= {'color': color, 'points': {}}
    lines.setdefault(key, line)['points'][cell['x']] = cell['accuracy']
  return list(lines.values())


def _name(cell: Cell) -> str:
  """Of a line in the legend."""
  if cell['kind'] == 'control':
    return draw.alone(cell['attack'])
  name = 'normal' if cell['kind'] == 'normal' else cell['defense']
  return f'{name} teacher, and its students'


def panels(
  lines: Sequence[Line], x_label: str, log_x: bool = False
) -> list[mpl_figure.Figure]:
  """The teachers if they are shown, one for each student, and the legend."""
  found = dict.fromkeys(x for line in lines for x in line['points'])
  found.pop(None, None)
  xs = list(found) if _are_words(found) else sorted(found)
  at, to_scale = _places(xs, log_x)
  x_label += '' if to_scale else ' (not to scale)'
  limits = _limits(lines)
  shown = []
  for name, chosen in draw.by_panel(lines).items():
    panel = draw.panel(2.4)
    axes = panel.subplots()
    _draw_panel(axes, chosen, xs, at)
    axes.set(title=name, xlabel=x_label, ylim=limits)
    axes.set_ylabel('Test accuracy (%)')
    shown.append(panel)
  looks = {line['name']: _look(line) for line in lines}
  return [*shown, draw.legend(looks.items())]


def _is_level(line: Line) -> bool:
  """Whether a line is one number whatever x is."""
  return list(line['points']) == [None]


def _are_words(xs: Iterable[Any]) -> bool:
  """Whether x is a choice, which has no order and no distances."""
  return any(isinstance(x, str) for x in xs)


def _places(xs: Sequence[Any], log_x: bool) -> tuple[list[float], bool]:
  """Where each x stands, and whether to scale: evenly reads better at times."""
  evenly = [float(i) for i in range(len(xs))]
  if _are_words(xs) or len(xs) < 2:
    return evenly, True
  steps = np.diff(xs)
  if not log_x and max(steps) <= _MAX_STEP_RATIO * min(steps):
    return [float(x) for x in xs], True
  return evenly, np.allclose(steps, steps[0])


def _limits(lines: Iterable[Line]) -> tuple[float, float]:
  """From the lowest seed or band to the highest, with some air."""
  found = [one for line in lines for one in line['points'].values()]
  seeds = [value for one in found for value in one['by_seed'].values()]
  ends = [*draw.ends(found), *seeds]
  middle = (min(ends) + max(ends)) / 2
  half = max(1.12 * (max(ends) - min(ends)), _MIN_SPAN) / 2
  return middle - half, middle + half


def _look(line: Line) -> dict[str, Any]:
  """Colour, and dashes for what stands alone or does not move."""
  level = _is_level(line)
  return {
    'color': draw.COLORS[line['color']],
    'linestyle': '--' if level or line['color'] == 'control' else '-',
    'linewidth': 1.6,
    'marker': None if level else 'o',
    'markersize': 4.5,
  }


def _draw_panel(
  axes: mpl_axes.Axes,
  lines: Sequence[Line],
  xs: Sequence[Any],
  at: Sequence[float],
) -> None:
  """All lines of one panel, those of words as marks side by side."""
  marks = _are_words(xs)
  moved = [line for line in lines if not _is_level(line)]
  for line in lines:
    look = _look(line)
    if _is_level(line):
      found = line['points'][None]
      mean, spread = found['mean'], stats.spread(found)
      axes.axhline(mean, **look)
      if spread > 0:
        ends = mean - spread, mean + spread
        axes.axhspan(*ends, color=look['color'], alpha=0.13, linewidth=0)
      continue
    side = 0.0
    if marks:
      side = 0.14 * (moved.index(line) - (len(moved) - 1) / 2)
      look['linestyle'] = 'none'
    _draw(axes, line['points'], xs, [place + side for place in at], look)
  labels = [_shown(x) for x in xs]
  slanted = sum(map(len, labels)) > _MAX_CHARS
  axes.set_xticks(
    at,
    labels,
    rotation=30 if slanted else 0,
    ha='right' if slanted else 'center',
    rotation_mode='anchor',
  )
  if at:
    margin = 0.5 if marks else 0.06 * (at[-1] - at[0]) or 0.5
    axes.set_xlim(at[0] - margin, at[-1] + margin)
  axes.grid(axis='y')


def _draw(
  axes: mpl_axes.Axes,
  points: Mapping[Any, stats.Stat],
  xs: Sequence[Any],
  at: Sequence[float],
  look: Mapping[str, Any],
) -> None:
  """One line, with a gap where there is no run."""
  color, joined = look['color'], look['linestyle'] != 'none'
  found = [points.get(x) for x in xs]
  wide = any(stats.spread(one) for one in found if one)
  mean, spread = draw.line(axes, at, found, look, band=joined and wide)
  # The spread is a bar where no neighbour gives it a band.
  there = np.isfinite(mean)
  beside = np.zeros_like(there)
  if joined:
    beside[1:] |= there[:-1]
    beside[:-1] |= there[1:]
  lone = there & ~beside & (spread > 0)
  if lone.any():
    axes.errorbar(
      np.array(at)[lone], mean[lone], spread[lone], fmt='none', ecolor=color
    )
  seeds = [
    (place, accuracy)
    for place, one in zip(at, found, strict=True)
    if one
    for accuracy in one['by_seed'].values()
  ]
  axes.plot(*zip(*seeds, strict=True), '.', color=color, alpha=0.45, ms=4)
