"""Blocks -> Markdown."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from undistillable.analysis import blocks

# At the start of a line these would make a list, a quotation or a heading.
_MARKS = '\\`*_[]<>|#'


def render(
  title: str, headline: str, sentence: str, parts: Sequence[blocks.Block]
) -> str:
  """The whole report as Markdown text."""
  lines = [f'# {escape(title)}', f'**{escape(headline)}.** {escape(sentence)}']
  return (
    '\n\n'.join(lines + [_RENDER[type(part)](part) for part in parts]) + '\n'
  )


def escape(text: str) -> str:
  """Text that shows as it is: names may hold bars, stars or tags."""
  for mark in _MARKS:
    text = text.replace(mark, f'\\{mark}')
  return ' '.join(text.split())


def table(
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  numeric: Collection[int] = (),
) -> str:
  """A table of escaped cells."""
  rule = ['--:' if i in numeric else ':--' for i in range(len(head))]
  lines = [[escape(cell) for cell in row] for row in rows]
  lines = [list(head), rule] + lines
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _heading(part: blocks.Heading) -> str:
  return f'{"#" * part.level} {escape(part.text)}'


def _text(part: blocks.Text) -> str:
  text = escape(part.text)
  return f'*{text}*' if part.kind == 'note' else text


def _code(part: blocks.Code) -> str:
  # Indented, so that no text can end it.
  return '\n'.join(f'    {line}' for line in part.text.splitlines())


def _link(part: blocks.Link) -> str:
  return f'[{escape(part.text)}]({part.url})'


def _table(part: blocks.Table) -> str:
  return (
    f'{table(part.head, part.rows, part.numeric)}\n\n{escape(part.caption)}'
  )


def _picture(part: blocks.Picture) -> str:
  return f'![{escape(part.alt)}]({part.path})\n\n{escape(part.caption)}'


_RENDER: dict[type, Callable[[Any], str]] = {
  blocks.Code: _code,
  blocks.Heading: _heading,
  blocks.Link: _link,
  blocks.Picture: _picture,
  blocks.Table: _table,
  blocks.Text: _text,
}
