"""Blocks -> one HTML page that needs nothing else, not even a network."""

import base64
import html
import importlib.resources
import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from undistillable.analysis import blocks


def render(
  title: str,
  headline: str,
  sentence: str,
  parts: Sequence[blocks.Block],
  *,
  eyebrow: str = '',
  tone: str = 'open',
) -> str:
  """The whole report as HTML text.

  Args:
    title: heading of the page.
    headline: the answer in a few words.
    sentence: the answer in a sentence.
    parts: list of blocks.
    eyebrow: a line above the title.
    tone: 'good', 'bad' or 'open', the colour of the answer.
  """
  files = importlib.resources.files('undistillable')
  template = files.joinpath('report.html').read_text(encoding='utf-8')
  return string.Template(template).substitute(
    css=files.joinpath('report.css').read_text(encoding='utf-8'),
    title=_escape(title),
    eyebrow=_escape(eyebrow),
    headline=_escape(headline),
    sentence=_escape(sentence),
    tone=_escape(tone),
    body='\n'.join(_sections(parts)),
  )


def _sections(parts: Sequence[blocks.Block]) -> Iterator[str]:
  """Every second-level heading and what follows it in a section."""
  is_open = False
  for part in parts:
    if isinstance(part, blocks.Heading) and part.level == 2:
      if is_open:
        yield '</section>'
      yield '<section>'
      is_open = True
    yield _RENDER[type(part)](part)
  if is_open:
    yield '</section>'


def _heading(part: blocks.Heading) -> str:
  return f'<h{part.level}>{_escape(part.text)}</h{part.level}>'


def _text(part: blocks.Text) -> str:
  return f'<p class="{_escape(part.kind)}">{_escape(part.text)}</p>'


def _code(part: blocks.Code) -> str:
  return f'<pre tabindex="0"><code>{_escape(part.text)}</code></pre>'


def _link(part: blocks.Link) -> str:
  url, text = _escape(part.url), _escape(part.text)
  return f'<p class="source"><a href="{url}">{text}</a></p>'


def _table(part: blocks.Table) -> str:
  head = ''.join(
    f'<th scope="col"{_number(i, part)}>{_escape(cell)}</th>'
    for i, cell in enumerate(part.head)
  )
  classes = part.classes or ('',) * len(part.rows)
  rows: list[str] = []
  above: str | None = None
  for row, kind in zip(part.rows, classes, strict=True):
    # The eye skips a name that stands above already; a screen reader hears it.
    repeated = 'repeat' if above == row[0] else 'first'
    above = row[0]
    cells = ''.join(
      f'<td{_number(i, part)}>{_escape(cell)}</td>'
      for i, cell in enumerate(row[1:], 1)
    )
    rows.append(
      f'<tr class="{_escape(f"{repeated} {kind}".strip())}">'
      f'<th scope="row">{_escape(row[0])}</th>{cells}</tr>'
    )
  body = '\n'.join(rows)
  return (
    f'<div class="table" tabindex="0"><table class="{_escape(part.kind)}">'
    f'<caption>{_escape(part.caption)}</caption><thead><tr>{head}</tr></thead>'
    f'\n<tbody>\n{body}\n</tbody></table></div>'
  )


def _picture(part: blocks.Picture) -> str:
  """All drawings of a figure; the style sheet shows the one that fits."""
  images = '\n'.join(
    f'<img class="{kind}" alt="{_escape(part.alt)}"{_size(svg)} '
    f'src="{_data(svg)}">'
    for kind, svg in part.svg.items()
  )
  caption = f'<figcaption>{_escape(part.caption)}</figcaption>'
  return f'<figure>\n{images}\n{caption}\n</figure>'


def _number(i: int, part: blocks.Table) -> str:
  return ' class="number"' if i in part.numeric else ''


def _data(svg: str) -> str:
  """The picture itself in place of an address."""
  code = base64.b64encode(svg.encode('utf-8')).decode('ascii')
  return f'data:image/svg+xml;base64,{code}'


def _size(svg: str) -> str:
  """Width in CSS pixels, so that text in it is never blown up."""
  width = re.search(r'width="([\d.]+)pt"', svg)
  return f' width="{float(width[1]) * 4 / 3:.0f}"' if width else ''


def _escape(text: object) -> str:
  return html.escape(str(text), quote=True)


_RENDER: dict[type, Callable[[Any], str]] = {
  blocks.Code: _code,
  blocks.Heading: _heading,
  blocks.Link: _link,
  blocks.Picture: _picture,
  blocks.Table: _table,
  blocks.Text: _text,
}
