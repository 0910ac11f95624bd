"""The site: sphinx-build -W --keep-going docs docs/_build; needs no network."""

import json
import pathlib
import re
import shutil

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.domains import python as python_domain

import undistillable

_DOCS = pathlib.Path(__file__).parent
_RECORDED = _DOCS.parent / 'experiments' / 'results'
project = 'undistillable'
author = 'The undistillable authors'
copyright = author
release = version = undistillable.__version__

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.napoleon',
  'sphinx_copybutton',
  'sphinx_design',
]
exclude_patterns = ['_build']
smartquotes_action = 'D'  # Dashes; quotes are code more often than not.
default_role = 'code'  # Docstrings are Markdown in this.

myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # They show what they printed when they were made.
# Of commands for the shell over two lines, which their lexer does not know.
suppress_warnings = ['misc.highlighting_failure']

autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints = 'none'  # Docstrings say shapes.
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_maximum_signature_line_length = 88

html_theme = 'sphinx_book_theme'
html_title = 'undistillable'
html_static_path = ['_static']
html_css_files = ['style.css']
html_copy_source = False
html_show_copyright = False
html_theme_options = {
  'show_toc_level': 2,
  'navigation_with_keys': False,
  'home_page_in_toc': False,
  'navbar_start': [],
  'navbar_center': [],
  'navbar_end': [],
  'navbar_persistent': [],
  'use_download_button': False,
  'use_fullscreen_button': False,
  'pygments_light_style': 'friendly',
  'pygments_dark_style': 'github-dark',
}
html_math_renderer = 'mathml'  # Browsers draw it, and no script is fetched.
copybutton_exclude = '.linenos, .gp, .go'


def copy_results():
  """The recorded results become pages of their own, with their figures."""
  target = _DOCS / 'results'
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(_RECORDED, target)
  pages = sorted(target.rglob('*.md'))
  for page in pages:
    # What a folder holds lies below its README, or below its report.
    own = [other for other in pages if other.parent == page.parent]
    below = [other for other in pages if other.parent.parent == page.parent]
    heads = [p for p in below if p.name == 'README.md']
    heads += [p for p in below if p.with_name('README.md') not in heads]
    if page == min(own):
      listed = [p for p in own if p != page] + heads
      names = [str(p.relative_to(page.parent).with_suffix('')) for p in listed]
      if names:
        entries = '\n'.join(names)
        toctree = f'\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n'
        page.write_text(page.read_text() + toctree)


def copy_notebooks():
  """The notebooks become pages, with what they printed."""
  target = _DOCS / 'notebooks'
  shutil.rmtree(target, ignore_errors=True)
  target.mkdir()
  for path in (_DOCS.parent / 'notebooks').glob('*.ipynb'):
    notebook = json.loads(path.read_text())
    # With commands for the shell, which are no Python.
    notebook['metadata']['language_info'] = {
      'name': 'python',
      'pygments_lexer': 'ipython3',
    }
    (target / path.name).write_text(json.dumps(notebook))


def read_source(app, name, source):
  """Links of the repository lead to the pages that were made of it."""
  del app
  up = '../' * (name.count('/') + 1)
  moved = ('experiments/results/', 'results/'), ('notebooks/', 'notebooks/')
  for there, here in (*moved, ('docs/', '')):
    source[0] = source[0].replace(f'({up}{there}', f'({up[3:]}{here}')


def read_docstring(app, what, name, obj, options, lines):
  """Makes reStructuredText of a docstring, before napoleon reads it."""
  del app, name, obj, options
  lines[:] = _shown_plain(lines) if what == 'module' else _escaped(lines)


def _shown_plain(lines):
  """Indented lines in the docstring of a module are shown as they are."""
  shown, inside = [], False
  for line in lines:
    indented = line.startswith('  ')
    if indented and not inside and shown and not shown[-1]:
      shown += ['.. code-block:: text', '']
    inside = indented or (inside and not line)
    shown.append(line)
  return shown


def _escaped(lines):
  """Code on one line; no types of what is returned; no marks by accident."""
  joined = []
  for line in lines:
    if joined and joined[-1].count('`') % 2:
      joined[-1] += f' {line.strip()}'
    else:
      joined.append(line)
  escaped = []
  for line in joined:
    if escaped and escaped[-1].strip() in ('Returns:', 'Yields:'):
      # To napoleon, what stands before the first colon is a type: none here.
      indent = len(line) - len(line.lstrip())
      line = f'{line[:indent]}: {line[indent:]}'
    parts = line.split('`')
    for i in range(0, len(parts), 2):
      parts[i] = re.sub(
        r'(?<=\w)_(?!\w)|(?<=[\[ ])\*(?=\w)', r'\\\g<0>', parts[i]
      )
    escaped.append('`'.join(parts))
  return escaped


def skip_fields(app, what, name, obj, skip, options):
  """Fields of a tuple are told in the docstring of its class."""
  del app, what, name, options
  doc = getattr(obj, '__doc__', None) or ''
  return True if doc.startswith('Alias for field number') else skip


def _mathml(text, block):
  return latex2mathml.tex2mathml(text, as_block=block)


def visit_math(writer, node):
  writer.body.append(_mathml(node.astext(), block=False))
  raise nodes.SkipNode


def visit_math_block(writer, node):
  found = _mathml(node.astext(), block=True)
  writer.body.append(f'<div class="math-block">{found}</div>')
  raise nodes.SkipNode


def setup(app):
  for field in python_domain.PyObject.doc_field_types:
    if field.name == 'variable':  # As the docstrings call them.
      field.label = 'Attributes'
  copy_results()
  copy_notebooks()
  app.connect('source-read', read_source)
  app.connect('autodoc-process-docstring', read_docstring, priority=400)
  app.connect('autodoc-skip-member', skip_fields)
  app.add_html_math_renderer(
    'mathml', (visit_math, None), (visit_math_block, None)
  )
