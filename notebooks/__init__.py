"""Notebooks for Colab, made from the sources beside them.

  python -m notebooks                       makes all .ipynb
  python -m notebooks quickstart --execute  with outputs, from running it here

A source is a Python file in jupytext's percent format. Two tags mean something:
`parameters` marks the cell whose values a test changes, and `colab` marks cells
that need Colab and are skipped elsewhere.
"""

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent
NAMES = ('quickstart', 'tiny_imagenet_tpu', 'your_model')
# No account can be called so: where the project is published, its name is put
# in here, and wherever a test then says.
REPOSITORY = 'your_github_name/undistillable'

_WIDGET = 'application/vnd.jupyter.widget-view+json'


def source(name: str) -> nbformat.NotebookNode:
  """The notebook that a source describes, without outputs."""
  notebook = jupytext.read(FOLDER / f'{name}.py', fmt='py:percent')
  notebook.metadata.pop('jupytext')
  for i, cell in enumerate(notebook.cells):
    cell.id = f'cell-{i}'  # jupytext draws them anew each time.
  return notebook


def read(name: str) -> nbformat.NotebookNode:
  """The notebook as it is in the repository."""
  return nbformat.read(FOLDER / f'{name}.ipynb', as_version=4)


def write(name: str, notebook: nbformat.NotebookNode) -> None:
  """Puts a notebook into the repository."""
  nbformat.write(notebook, FOLDER / f'{name}.ipynb')


def tagged(
  notebook: nbformat.NotebookNode, tag: str
) -> list[nbformat.NotebookNode]:
  """The cells that have a tag."""
  return [c for c in notebook.cells if tag in c.metadata.get('tags', ())]


def execute(
  notebook: nbformat.NotebookNode,
  folder: pathlib.Path,
  env: Mapping[str, str],
  parameters: Mapping[str, Any] | None = None,
) -> None:
  """Runs all cells but those for Colab; their outputs are put into them.

  Args:
    notebook: changed in place.
    folder: where it runs; what the commands of a clone read is linked into it.
    env: the whole environment of its kernel.
    parameters: other values of names that its cell of parameters sets.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  root = FOLDER.parent
  (folder / 'configs').symlink_to(root / 'configs')
  if parameters:
    (cell,) = tagged(notebook, 'parameters')
    cell.source += ''.join(f'\n{k} = {v!r}' for k, v in parameters.items())
  client = nbclient.NotebookClient(
    notebook,
    kernel_name='python3',
    skip_cells_with_tag='colab',
    coalesce_streams=True,
    timeout=1_800,  # Seconds a cell.
    store_widget_state=False,
    record_timing=False,
    resources={'metadata': {'path': str(folder)}},
  )
  # Its commands run with this Python.
  path = os.pathsep.join(
    [str(pathlib.Path(sys.executable).parent), env['PATH']]
  )
  client.execute(env={**env, 'PATH': path, 'PYTHONPATH': str(root)})
  for cell in notebook.cells:
    if cell.cell_type == 'code':  # A progress bar is none without its kernel.
      cell.outputs = [
        o for o in cell.outputs if _WIDGET not in o.get('data', ())
      ]


def take_outputs(
  notebook: nbformat.NotebookNode, other: nbformat.NotebookNode
) -> None:
  """Gives a notebook the outputs of one with the same code; else none."""
  codes, others = (
    [cell for cell in one.cells if cell.cell_type == 'code']
    for one in (notebook, other)
  )
  if [cell.source for cell in codes] == [cell.source for cell in others]:
    for cell, executed in zip(codes, others, strict=True):
      cell.outputs = executed.outputs
      cell.execution_count = executed.execution_count
