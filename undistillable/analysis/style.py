"""One look for all figures: colours by kind of run, light and dark, SVG, PNG.

The three kinds keep their colours everywhere: grey for a student on its own,
blue for the normal teacher and whoever learned from it, vermilion for a
protected one. Okabe and Ito's palette stays apart for colour-blind readers.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg, backend_svg

from undistillable.analysis import records

# The page's own fonts; DejaVu, which matplotlib measures with, is wider than
# all of them, so nothing overlaps.
_FONTS = (
  "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', "
  "'Liberation Sans', Arial, sans-serif"
)


@dataclasses.dataclass(frozen=True)
class Theme:
  """Colours of one appearance; `protected` has one for each defence."""

  ink: str
  muted: str
  line: str
  surface: str
  control: str
  normal: str
  protected: tuple[str, ...]

  def of(self, kind: str, index: int = 0) -> str:
    """Colour of 'control', 'normal' or the index-th 'protected' teacher."""
    if kind == 'protected':
      return self.protected[index % len(self.protected)]
    return getattr(self, kind)


LIGHT = Theme(
  ink='#1c2024',
  muted='#5b636d',
  line='#d9dde2',
  surface='#ffffff',
  control='#8a929c',
  normal='#0072b2',
  protected=('#d55e00', '#9a4f96', '#00856a', '#b58900'),
)
DARK = Theme(
  ink='#e8eaed',
  muted='#a3abb5',
  line='#3a4048',
  surface='#16191d',
  control='#8f98a3',
  normal='#4aa8e0',
  protected=('#f0814a', '#cc8ac8', '#3fbf9f', '#e0b93f'),
)


@contextlib.contextmanager
def use(theme: Theme) -> Iterator[None]:
  """Figures made inside have this theme's look; settings are put back."""
  settings: dict[Any, Any] = {
    'font.family': ['DejaVu Sans'],
    'font.size': 10,
    'text.color': theme.ink,
    'axes.edgecolor': theme.line,
    'axes.facecolor': 'none',
    'axes.labelcolor': theme.muted,
    'axes.labelsize': 9,
    'axes.titlecolor': theme.ink,
    'axes.titlesize': 10,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': False,
    'axes.axisbelow': True,
    'grid.color': theme.line,
    'grid.linewidth': 0.6,
    'xtick.color': theme.line,
    'ytick.color': theme.line,
    'xtick.labelcolor': theme.muted,
    'ytick.labelcolor': theme.muted,
    'xtick.labelsize': 9,
    'ytick.labelsize': 9,
    'figure.facecolor': 'none',
    'legend.frameon': False,
    'legend.fontsize': 9,
    'text.parse_math': False,  # A model may be called 'net$1$'.
    'svg.fonttype': 'none',
    'svg.hashsalt': 'undistillable',  # The same figure is the same file.
  }
  with matplotlib.rc_context(settings):
    yield


def new(width: float, height: float) -> mpl_figure.Figure:
  """An empty figure in inches, apart from pyplot's global state."""
  return mpl_figure.Figure(figsize=(width, height), layout='constrained')


def title(figure: mpl_figure.Figure, text: str, theme: Theme) -> None:
  """A statement above the figure, at its left edge, as wide as it is."""
  figure.suptitle(
    text,
    x=0.01,
    ha='left',
    fontsize=12,
    fontweight='bold',
    color=theme.ink,
    wrap=True,
  )


def defense_index(summary: records.Summary) -> dict[str, int]:
  """{name of a protected teacher: its number}, which fixes its colour."""
  names = [t['name'] for t in summary['teachers'] if t['protected']]
  return {name: i for i, name in enumerate(names)}


def png(figure: mpl_figure.Figure, theme: Theme, dpi: int = 200) -> bytes:
  """The figure as the bytes of a PNG, on the theme's ground."""
  buffer = io.BytesIO()
  with use(theme):
    backend_agg.FigureCanvasAgg(figure).print_figure(
      buffer, format='png', dpi=dpi, facecolor=theme.surface
    )
  return buffer.getvalue()


def svg(figure: mpl_figure.Figure, theme: Theme) -> str:
  """The figure as SVG text on a transparent ground, in the page's fonts."""
  buffer = io.StringIO()
  with use(theme):
    backend_svg.FigureCanvasSVG(figure).print_figure(
      buffer, format='svg', metadata={'Date': None, 'Creator': None}
    )
  text = re.sub(r"'DejaVu Sans'(, [-\w' ]+)*", _FONTS, buffer.getvalue())
  return text[text.index('<svg') :]


def darken(text: str) -> str:
  """The same SVG in the dark theme: far quicker than drawing it again."""
  light, dark = dataclasses.asdict(LIGHT), dataclasses.asdict(DARK)
  colors = dict(zip(light.pop('protected'), dark.pop('protected'), strict=True))
  colors |= {light[name]: dark[name] for name in light}
  return re.sub(
    r'#[0-9a-f]{6}\b', lambda found: colors.get(found[0], found[0]), text
  )
