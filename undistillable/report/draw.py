"""How figures are drawn: panels in SVG whose colours the page decides.

A figure is a row of panels of one width, each drawn once by matplotlib. In the
page they stand beside each other or, on a telephone, below; the PNG pastes the
same panels together. Colours are the custom properties of report.css: what is
drawn in the light theme follows the page into the dark and on to paper.
"""

import io
import pathlib
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import PIL.Image
from matplotlib import axes as mpl_axes, figure as mpl_figure, lines
from matplotlib.backends import backend_agg, backend_svg

from undistillable.report import document, entries, stats
from undistillable.storage import disk

WIDTH = 4.3  # Inches of a panel: two fill the page, one a telephone.
_GAP = 0.25
_DPI = 200  # Of PNGs, and of points that are pixels in an SVG too.

# {'ink': '#1c2024', ...}, the light theme. Grey is a student on its own, blue
# the normal teacher and whoever learned from it, the others protected ones:
# Okabe and Ito's palette stays apart for colour-blind readers.
COLORS: dict[str, str] = dict(
  re.findall(
    r'--([\w-]+): (#[0-9a-f]{6});',
    document.resource('report.css').split('}')[0],
  )
)

TEACHERS = {'normal': 'normal', 'nasty': 'defense-0'}  # Their colours.
NO_LOGITS = 'The study kept no responses of its teachers (no responses.npz).'
NO_ACCURACY = 'No run has finished: there is no accuracy to show.'
COLORS_TOLD = (
  'Grey: students on their own. Blue: the normal teacher and students who '
  'learned from it. Orange and other colours: protected teachers and the '
  'students of each.'
)

_SIZED = ('font.size', 'axes.labelsize', 'legend.fontsize')
STYLE: dict[Any, Any] = {
  'font.family': ['DejaVu Sans'],
  **dict.fromkeys([*_SIZED, 'xtick.labelsize', 'ytick.labelsize'], 9),
  **dict.fromkeys(['text.color', 'axes.titlecolor'], COLORS['ink']),
  **dict.fromkeys(
    ['axes.edgecolor', 'grid.color', 'xtick.color', 'ytick.color'],
    COLORS['line'],
  ),
  **dict.fromkeys(
    ['axes.labelcolor', 'xtick.labelcolor', 'ytick.labelcolor'],
    COLORS['muted'],
  ),
  **dict.fromkeys(['axes.facecolor', 'figure.facecolor'], 'none'),
  **{f'axes.spines.{side}': False for side in ('left', 'top', 'right')},
  **dict.fromkeys(['xtick.major.size', 'ytick.major.size'], 0),
  'ytick.minor.size': 0,
  'axes.titlesize': 10,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.axisbelow': True,
  'xaxis.labellocation': 'left',
  'grid.linewidth': 0.6,
  'legend.frameon': False,
  'text.parse_math': False,  # A model may be called 'net$1$'.
  'svg.fonttype': 'none',
  'svg.hashsalt': 'undistillable',  # The same figure is the same file.
}


Panels = Sequence[mpl_figure.Figure | None]  # None begins a new row.


class Figure(typing.NamedTuple):
  """What a report shows below a heading."""

  heading: str  # Of its section.
  name: str  # Of its PNG.
  # None where there is nothing to draw, and the caption says why.
  draw: Callable[[], Panels] | None
  title: str  # What there is to see, above the PNG.
  alt: str  # What it shows, for those who cannot see it.
  caption: str  # What to see in it.


def panel(height: float) -> mpl_figure.Figure:
  """An empty panel, so many inches high."""
  return mpl_figure.Figure(
    figsize=(WIDTH, height), layout='constrained', dpi=_DPI
  )


def heading(figure: mpl_figure.Figure, text: str, color: str = 'ink') -> None:
  """A name above a panel, at its left edge."""
  figure.suptitle(
    text, x=0.01, ha='left', size=10, weight='bold', color=COLORS[color]
  )


def legend(
  looks: Iterable[tuple[str, dict[str, Any]]], columns: int = 1
) -> mpl_figure.Figure:
  """A panel of [(name, how its line is drawn)]."""
  handles = [lines.Line2D([], [], label=label, **k) for label, k in looks]
  figure = panel(0.15 + 0.22 * -(-len(handles) // columns))
  figure.legend(handles=handles, loc='upper left', ncols=columns)
  return figure


def line(
  axes: mpl_axes.Axes,
  x: Sequence[float],
  found: Sequence[stats.Stat | None],
  look: Mapping[str, Any],
  band: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Means, with a gap at None, in a band; both as float[len(x)]."""
  mean = np.array([one['mean'] if one else np.nan for one in found])
  spread = np.array([stats.spread(one) if one else np.nan for one in found])
  axes.plot(x, mean, **look)
  if band:
    ends, color = (mean - spread, mean + spread), look['color']
    axes.fill_between(x, *ends, color=color, alpha=0.2, linewidth=0)
  return mean, spread


def ends(found: Iterable[stats.Stat]) -> list[float]:
  """Of their bands."""
  reach = [(one['mean'], stats.spread(one)) for one in found]
  return [mean + sign * spread for mean, spread in reach for sign in (-1, 1)]


def clipped(name: str) -> str:
  """The name of a class, where there is room for 12 letters."""
  return name if len(name) <= 12 else f'{name[:11]}…'


def by_panel(lines: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
  """{name of a panel: the lines in it}, by their `student` and `attack`.

  Lines without a student are of teachers. Students have a panel for each
  attack, if there are many; who learned from no teacher has no attack, and is
  in all panels of its network.
  """
  many = len({line['attack'] for line in lines} - {None}) > 1
  panels: dict[str, list[Any]] = {}
  for line in lines:
    student, attack = line['student'], line['attack']
    names = [f'Student {student}' if student else 'Teachers']
    if student and many:
      beside = [one['attack'] for one in lines if one['student'] == student]
      attacks = [attack] if attack else filter(None, dict.fromkeys(beside))
      names = [f'{names[0]} by {one}' for one in attacks] or names
    for name in names:
      panels.setdefault(name, []).append(line)
  return panels


def alone(method: str) -> str:
  """The name of a line of students who learned from no teacher."""
  return f'student{"" if method == entries.CONTROL else f" by {method}"} alone'


def seeds(axes: mpl_axes.Axes, x: Sequence[float], y: Sequence[float]) -> None:
  """A circle for each seed, on top of bars."""
  axes.plot(
    x,
    y,
    'o',
    markersize=3.2,
    markerfacecolor=COLORS['ground'],
    markeredgecolor=COLORS['ink'],
    markeredgewidth=0.7,
  )


def render(shown: Figure, folder: pathlib.Path) -> list[document.Block]:
  """The blocks of a figure, with its PNG written into `folder`/figures."""
  section = document.Heading(shown.heading)
  if shown.draw is None:
    return [section, document.Text(shown.caption, 'note')]
  path = f'figures/{shown.name}.png'
  try:
    with matplotlib.rc_context():
      matplotlib.rcdefaults()  # Not what a user has set for his own figures.
      matplotlib.rcParams.update(STYLE)
      panels = shown.draw()
      picture = png(shown.title, panels)
      (folder / 'figures').mkdir(parents=True, exist_ok=True)
      disk.replace(folder / path, picture)
      for panel in filter(None, panels):
        panel.set_layout_engine('none')  # It stays as it is laid out.
      texts = [
        svg(panel, f'{shown.name}-{i}-') if panel else '<br>'
        for i, panel in enumerate(panels)
      ]
  # A figure decorates: whatever hinders it, the report is written.
  except Exception as error:
    reason = f'{type(error).__name__}: {error}'
    return [
      section,
      document.Text(f'This figure could not be drawn ({reason}).', 'note'),
    ]
  return [section, document.Picture(path, shown.alt, shown.caption, texts)]


def svg(figure: mpl_figure.Figure, prefix: str) -> str:
  """A panel as SVG in the colours and fonts of the page it is put into.

  The prefix is that of its ids, which one page must not have twice.
  """
  buffer = io.StringIO()
  backend_svg.FigureCanvasSVG(figure).print_figure(
    buffer,
    format='svg',
    metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')),
  )
  text = buffer.getvalue()
  text = re.sub(
    r'<style.*?</style>', '', text[text.index('<svg') :], flags=re.S
  )
  text = re.sub(r' (width|height)="[\d.]+pt"', '', text, count=2)
  text = re.sub(r'( id="|href="#|url\(#)', rf'\g<1>{prefix}', text)
  # DejaVu, which matplotlib measures with, is wider than the page's fonts.
  text = re.sub(r"'DejaVu Sans'(, [-\w' ]+)*", 'var(--font)', text)
  names = {color: name for name, color in COLORS.items()}
  return re.sub(
    r'#[0-9a-f]{6}\b',
    lambda m: f'var(--{names[m[0]]})' if m[0] in names else m[0],
    text,
  )


def png(title: str, panels: Panels) -> bytes:
  """Panels in two columns below a title, as the bytes of a PNG."""
  rows: list[list[PIL.Image.Image]] = [[]]
  for panel in panels:
    if panel is None or len(rows[-1]) == 2:
      rows.append([])
    if panel:
      rows[-1].append(_pixels(panel))
  columns = max(map(len, rows))
  width = columns * WIDTH + (columns - 1) * _GAP
  rows.insert(0, [_pixels(_title(title, width))])
  air = int(0.1 * _DPI)
  heights = [max(picture.height for picture in row) + air for row in rows]
  size = int(width * _DPI), sum(heights)
  page = PIL.Image.new('RGB', size, COLORS['ground'])
  for i, row in enumerate(rows):
    for j, picture in enumerate(row):
      place = int(j * (WIDTH + _GAP) * _DPI), sum(heights[:i])
      page.paste(picture, place)
  buffer = io.BytesIO()
  page.save(buffer, 'png', optimize=True)
  return buffer.getvalue()


def _title(text: str, width: float) -> mpl_figure.Figure:
  """A statement, as wide as the figure below it."""
  told = textwrap.fill(text, int(width / 0.1))
  height = 0.2 + 0.21 * (1 + told.count('\n'))
  figure = mpl_figure.Figure(figsize=(width, height), dpi=_DPI)
  figure.text(
    0.01 * WIDTH / width,
    1,
    f'\n{told}',
    va='top',
    size=12,
    weight='bold',
    linespacing=1,
  )
  return figure


def _pixels(figure: mpl_figure.Figure) -> PIL.Image.Image:
  """Without `savefig`, which lays a figure out twice, and compresses it."""
  page = figure.get_facecolor()
  figure.set_facecolor(COLORS['ground'])
  canvas = backend_agg.FigureCanvasAgg(figure)
  canvas.draw()
  figure.set_facecolor(page)
  return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB')
