"""Writes the report of a study: figures, report.md and report.html.

Everything is derived from `results.json` and the files of the runs, so a
report can be written again at any time.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from undistillable.report import (
  accuracy,
  conclusion as conclusion_lib,
  conduct,
  curves,
  document,
  draw,
  logits,
  responses,
  summary as summary_lib,
  table,
)
from undistillable.storage import disk, paths


def write(
  results: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  *,
  folder: str | os.PathLike[str] | None = None,
  command: str = '',
  conclusion: document.Conclusion | None = None,
  figures: Sequence[draw.Figure] | None = None,
) -> None:
  """Writes figures/*.png, report.md and report.html.

  What a study does not have (responses, metrics, students, seeds) is left out
  with a line that says so. Every file is replaced whole or not at all.

  Args:
    results: the study's `{"runs": [...], "environment": {...}}`. A summary in
      it is not read but made anew.
    workdir: with `runs/<id>/metrics.jsonl` where they exist.
    folder: where the report goes, with `responses.npz` where it exists;
      default: the workdir.
    command: what was typed to run the study; shown in the report.
    conclusion: what it says first; default: how undistillable the teachers are.
    figures: default: those of the main job: accuracy, what a thief sees, how
      the networks learned.

  Example:
    results = json.loads(pathlib.Path(workdir, 'results.json').read_text())
    write.write(results, workdir, command='python -m undistillable.main ...')
  """
  workdir = paths.local(workdir, 'workdir')
  folder = workdir if folder is None else paths.local(folder, 'folder')
  summary = summary_lib.summarize(results['runs'])
  if figures is None:
    figures = [
      accuracy.figure(summary),
      logits.figure(summary, responses.read(folder)),
      curves.figure(summary, curves.read(workdir, results['runs'])),
    ]
  if conclusion is None:
    conclusion = document.Conclusion(
      conclusion_lib.title(summary['rows']),
      *(summary[key] for key in ('headline', 'sentence', 'tone')),
    )
  parts = [
    *conclusion.details,
    document.Heading('Result'),
    table.block(summary),
    *(document.Text(note, 'note') for note in summary['notes']),
    *(block for shown in figures for block in draw.render(shown, folder)),
    *conduct.blocks(results, command),
  ]
  seeds = len(summary['seeds'])
  eyebrow = (
    'Distillation audit',
    f'{summary["num_networks"]} trained networks',
    f'{seeds} seed{"" if seeds == 1 else "s"}',
  )
  pages(conclusion, parts, folder, eyebrow, results)


def pages(
  conclusion: document.Conclusion,
  parts: Sequence[document.Block],
  folder: pathlib.Path,
  eyebrow: Sequence[str],
  results: Mapping[str, Any],
) -> None:
  """Writes report.md and report.html.

  The eyebrow stands above the title of the page, before the date of results.
  """
  date = (results.get('environment') or {}).get('date')
  line = ' · '.join([*eyebrow, *([str(date)] if date else [])])
  texts = {
    'report.md': document.markdown(conclusion, parts),
    'report.html': document.page(conclusion, parts, line),
  }
  folder.mkdir(parents=True, exist_ok=True)
  for name, text in texts.items():
    # A command may hold what its terminal's encoding could not say.
    disk.replace(folder / name, text.encode('utf-8', 'replace'))
