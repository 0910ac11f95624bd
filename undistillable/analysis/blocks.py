"""The parts a report is made of, whatever it is written as."""

import typing
from collections.abc import Sequence


class Heading(typing.NamedTuple):
  """A heading; level 2 opens a section, 3 a part of one."""

  text: str
  level: int = 2


class Text(typing.NamedTuple):
  """A paragraph; 'note' marks what is missing."""

  text: str
  kind: str = 'plain'


class Code(typing.NamedTuple):
  """What was typed at a shell."""

  text: str


class Link(typing.NamedTuple):
  """A citation."""

  text: str
  url: str


class Table(typing.NamedTuple):
  """Rows of strings; `numeric` columns align right, `classes` mark rows.

  `kind` is 'plain', 'runs' or 'results', which is laid out for a telephone.
  """

  head: tuple[str, ...]
  rows: Sequence[tuple[str, ...]]
  caption: str
  numeric: tuple[int, ...] = ()
  classes: tuple[str, ...] = ()
  kind: str = 'plain'


class Picture(typing.NamedTuple):
  """A figure: `path` of its PNG, and SVG texts for the page.

  `svg` has the keys 'light', 'dark', 'light-narrow' and 'dark-narrow'.
  """

  path: str
  alt: str
  caption: str
  svg: dict[str, str]


Block = Code | Heading | Link | Picture | Table | Text
