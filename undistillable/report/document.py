"""The parts that a report is made of, as Markdown and as HTML."""

import html
import importlib.resources
import string
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence


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

  `strong` are the (row, column) of cells that stand out, `marks` {(row,
  column): 'gain' or 'loss'} of those in a colour. What stands in a cell behind
  a line break is small.
  `kind` is 'plain', 'entries', 'matrix' or 'results', which is laid out for a
  telephone.
  """

  head: tuple[str, ...]
  rows: Sequence[tuple[str, ...]]
  caption: str
  numeric: tuple[int, ...] = ()
  classes: tuple[str, ...] = ()
  kind: str = 'plain'
  strong: Collection[tuple[int, int]] = ()
  marks: Mapping[tuple[int, int], str] = {}


class Picture(typing.NamedTuple):
  """A drawn figure: the path of its PNG, and its panels as SVG texts."""

  path: str
  alt: str
  caption: str
  panels: Sequence[str]


Block = Code | Heading | Link | Picture | Table | Text


class Conclusion(typing.NamedTuple):
  """What a report says first."""

  title: str  # The question.
  headline: str  # The conclusion in a few words.
  sentence: str  # The conclusion in a sentence.
  tone: str  # 'good', 'bad' or 'open', the colour of the headline.
  details: Sequence[Block] = ()  # Below it.


# At the start of a line these would make a list, a quotation or a heading.
_MARKS = '\\`*_[]<>|#'


def markdown(first: Conclusion, parts: Sequence[Block]) -> str:
  """A whole report as Markdown."""
  told = f'**{escape(first.headline)}.** {escape(first.sentence)}'
  lines = [f'# {escape(first.title)}', told, *map(_markdown, parts)]
  return '\n\n'.join(lines) + '\n'


def markdown_table(
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  numeric: Collection[int] = (),
  strong: Collection[tuple[int, int]] = (),
) -> str:
  """A Markdown table of escaped cells."""
  rule = ['--:' if i in numeric else ':--' for i in range(len(head))]
  lines = [[escape(cell) for cell in head], rule]
  for i, row in enumerate(rows):
    mark = ['**' if (i, j) in strong else '' for j in range(len(head))]
    lines.append(
      [f'{m}{escape(cell)}{m}' for m, cell in zip(mark, row, strict=True)]
    )
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def aligned(
  rows: Iterable[Sequence[str]], numeric: Collection[int] = ()
) -> list[str]:
  """The lines of a table for a terminal."""
  shown = [[cell.replace('\n', ' ') for cell in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
  return [
    '  '.join(
      cell.rjust(width) if i in numeric else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in shown
  ]


def listed(names: Iterable[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  *first, last = names
  return f'{", ".join(first)} and {last}' if first else last


def escape(text: str) -> str:
  """Markdown that shows the text as it is: names may hold bars or tags."""
  for mark in _MARKS:
    text = text.replace(mark, f'\\{mark}')
  return ' '.join(text.split())


def page(first: Conclusion, parts: Sequence[Block], eyebrow: str) -> str:
  """A whole report as one HTML page that needs nothing else, no network.

  `eyebrow` is a line above the title.
  """
  sections: list[list[str]] = []
  for part in parts:
    if isinstance(part, Heading) and part.level == 2 or not sections:
      sections.append(['<section>'])
    sections[-1].append(_html(part))
  return string.Template(resource('report.html')).substitute(
    css=resource('report.css'),
    title=_quote(first.title),
    eyebrow=_quote(eyebrow),
    headline=_quote(first.headline),
    sentence=_quote(first.sentence),
    tone=_quote(first.tone),
    body='\n'.join('\n'.join([*one, '</section>']) for one in sections),
  )


def resource(name: str) -> str:
  """The text of a file of this package."""
  files = importlib.resources.files('undistillable.report')
  return files.joinpath(name).read_text(encoding='utf-8')


def _markdown(part: Block) -> str:
  match part:
    case Heading(text, level):
      return f'{"#" * level} {escape(text)}'
    case Text(text, kind):
      return f'*{escape(text)}*' if kind == 'note' else escape(text)
    case Code(text):
      # Indented, so that no text can end it.
      return '\n'.join(f'    {line}' for line in text.splitlines())
    case Link(text, url):
      return f'[{escape(text)}]({url})'
    case Table(head, rows, caption, numeric):
      lines = markdown_table(head, rows, numeric, part.strong)
      return f'{lines}\n\n{escape(caption)}'
    case Picture(path, alt, caption):
      return f'![{escape(alt)}]({path})\n\n{escape(caption)}'


def _html(part: Block) -> str:
  match part:
    case Heading(text, level):
      return f'<h{level}>{_quote(text)}</h{level}>'
    case Text(text, kind):
      return f'<p class="{_quote(kind)}">{_quote(text)}</p>'
    case Code(text):
      return f'<pre tabindex="0"><code>{_quote(text)}</code></pre>'
    case Link(text, url):
      link = f'<a href="{_quote(url)}">{_quote(text)}</a>'
      return f'<p class="source">{link}</p>'
    case Table():
      return _html_table(part)
    case Picture(_, alt, caption, panels):
      drawing = '\n'.join(panels)
      return (
        f'<figure>\n<div class="panels" role="img" aria-label="{_quote(alt)}">'
        f'\n{drawing}\n</div>\n<figcaption>{_quote(caption)}</figcaption>\n'
        '</figure>'
      )


def _html_table(part: Table) -> str:
  head = ''.join(
    f'<th scope="col"{_class(part, -1, j)}>{_cell(cell)}</th>'
    for j, cell in enumerate(part.head)
  )
  classes = part.classes or ('',) * len(part.rows)
  lines: list[str] = []
  above: str | None = None
  for i, (row, kind) in enumerate(zip(part.rows, classes, strict=True)):
    # The eye skips a name that stands above already; a screen reader hears it.
    repeated = 'repeat' if above == row[0] else 'first'
    above = row[0]
    cells = ''.join(
      f'<td{_class(part, i, j)}>{_cell(cell)}</td>'
      for j, cell in enumerate(row[1:], 1)
    )
    lines.append(
      f'<tr class="{_quote(f"{repeated} {kind}".strip())}">'
      f'<th scope="row">{_cell(row[0])}</th>{cells}</tr>'
    )
  body = '\n'.join(lines)
  return (
    f'<div class="table" tabindex="0"><table class="{_quote(part.kind)}">'
    f'<caption>{_quote(part.caption)}</caption><thead><tr>{head}</tr></thead>'
    f'\n<tbody>\n{body}\n</tbody></table></div>'
  )


def _class(part: Table, i: int, j: int) -> str:
  """Of the cell in row i, column j."""
  names = ['number'] if j in part.numeric else []
  names += ['strong'] if (i, j) in part.strong else []
  names += [part.marks[i, j]] if (i, j) in part.marks else []
  return f' class="{" ".join(names)}"' if names else ''


def _cell(text: str) -> str:
  """What stands behind a line break is small."""
  large, *small = text.split('\n', 1)
  return _quote(large) + ''.join(f'<small>{_quote(x)}</small>' for x in small)


def _quote(text: object) -> str:
  return html.escape(str(text), quote=True)
