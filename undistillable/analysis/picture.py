"""A figure of a report: how it is drawn, and drawn."""

import os
import pathlib
import typing
from collections.abc import Callable
from typing import Any

from undistillable.analysis import blocks, style


class Figure(typing.NamedTuple):
  """What a report shows below a heading.

  Attributes:
    heading: of its section.
    name: of its PNG.
    draw: `(titled=True, narrow=False) -> matplotlib figure`; None where there
      is nothing to draw, and the caption says why.
    alt: what it shows, for those who cannot see it.
    caption: what to see in it.
  """

  heading: str
  name: str
  draw: Callable[..., Any] | None
  alt: str
  caption: str


def render(shown: Figure, folder: pathlib.Path) -> list[blocks.Block]:
  """The blocks of a figure, with its PNG written into `folder`/figures."""
  heading = blocks.Heading(shown.heading)
  if shown.draw is None:
    return [heading, blocks.Text(shown.caption, 'note')]
  path = f'figures/{shown.name}.png'
  replace(folder / path, style.png(shown.draw(), style.LIGHT))
  wide = style.svg(shown.draw(titled=False), style.LIGHT)
  narrow = style.svg(shown.draw(titled=False, narrow=True), style.LIGHT)
  svg = {'light': wide, 'light-narrow': narrow}
  svg |= {'dark': style.darken(wide), 'dark-narrow': style.darken(narrow)}
  return [heading, blocks.Picture(path, shown.alt, shown.caption, svg)]


def replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a file beside `path` and renames it: never a half-written one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    part.write_bytes(data)
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
