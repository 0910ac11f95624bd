"""Writes the report of a study: figures, report.md and report.html.

Everything is derived from `results.json` and the files of the runs, so a
report can be written again at any time.
"""

import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from undistillable.analysis import (
  blocks,
  content,
  main_figures,
  markdown,
  page,
  picture,
  summary as summary_lib,
)


class Answer(typing.NamedTuple):
  """What a report says first.

  Attributes:
    title: the question.
    headline: the answer in a few words.
    sentence: the answer in a sentence.
    tone: 'good', 'bad' or 'open', the colour of the answer.
    details: blocks below it.
  """

  title: str
  headline: str
  sentence: str
  tone: str
  details: Sequence[blocks.Block] = ()


def write(
  results: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  *,
  folder: str | os.PathLike[str] | None = None,
  command: str = '',
  answer: Answer | None = None,
  figures: Sequence[picture.Figure] | None = None,
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
    answer: what it says first; default: how undistillable the teachers are.
    figures: default: those of the main job.

  Example:
    results = json.loads(pathlib.Path(workdir, 'results.json').read_text())
    report.write(results, workdir, command='python -m undistillable.main ...')
  """
  workdir = pathlib.Path(workdir)
  folder = workdir if folder is None else pathlib.Path(folder)
  summary = summary_lib.summarize(results['runs'])
  if figures is None:
    figures = main_figures.make(summary, results['runs'], workdir, folder)
  if answer is None:
    answer = Answer(
      content.title(summary),
      summary['headline'],
      summary['sentence'],
      content.tone(summary),
    )
  parts = [
    *answer.details,
    *content.result(summary),
    *(block for shown in figures for block in picture.render(shown, folder)),
    *content.method(results, command),
  ]
  text = markdown.render(answer.title, answer.headline, answer.sentence, parts)
  picture.replace(folder / 'report.md', text.encode('utf-8'))
  text = page.render(
    answer.title,
    answer.headline,
    answer.sentence,
    parts,
    eyebrow=content.eyebrow(summary, results.get('environment') or {}),
    tone=answer.tone,
  )
  picture.replace(folder / 'report.html', text.encode('utf-8'))
