"""Writes the report of a study: figures, report.md and report.html.

Everything is derived from `results.json` and the files of the runs, so a
report can be written again at any time.
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from undistillable.analysis import (
  accuracy_figure,
  blocks,
  content,
  curve_figure,
  logit_figure,
  markdown,
  page,
  records,
  style,
  summary as summary_lib,
)


def write(
  results: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  *,
  command: str = '',
  title: str | None = None,
) -> None:
  """Writes figures/*.png, report.md and report.html into `workdir`.

  What a study does not have (responses, metrics, students, seeds) is left out
  with a line that says so. Every file is replaced whole or not at all.

  Args:
    results: the study's `{"runs": [...], "environment": {...}}`. A summary in
      it is not read but made anew.
    workdir: folder of the study, with `responses.npz` and
      `runs/<id>/metrics.jsonl` where they exist.
    command: what was typed to run the study; shown in the report.
    title: heading of the report; by default the question it answers.

  Example:
    results = json.loads(pathlib.Path(workdir, 'results.json').read_text())
    report.write(results, workdir, command='python -m undistillable.main ...')
  """
  workdir = pathlib.Path(workdir)
  summary = summary_lib.summarize(results['runs'])
  pictures = _pictures(summary, results['runs'], workdir)
  parts = content.blocks_of(summary, results, pictures, command)
  title = title or content.title(summary)
  answer = (title, summary['headline'], summary['sentence'], parts)
  environment = results.get('environment') or {}
  _replace(workdir / 'report.md', markdown.render(*answer).encode('utf-8'))
  text = page.render(
    *answer,
    eyebrow=content.eyebrow(summary, environment),
    tone=content.tone(summary),
  )
  _replace(workdir / 'report.html', text.encode('utf-8'))


def read_metrics(
  workdir: str | os.PathLike[str], runs: Sequence[records.Run]
) -> dict[str, list[dict[str, Any]]]:
  """{run id: list of dicts, one an epoch} of the runs that have metrics."""
  metrics = {}
  for run in runs:
    path = pathlib.Path(workdir, 'runs', run['id'], 'metrics.jsonl')
    if path.is_file():
      metrics[run['id']] = _read_lines(path)
  return metrics


def read_responses(
  workdir: str | os.PathLike[str],
) -> dict[str, np.ndarray] | None:
  """The arrays of responses.npz, or None if the study has none."""
  path = pathlib.Path(workdir, 'responses.npz')
  if not path.is_file():
    return None
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)


def _pictures(
  summary: records.Summary, runs: Sequence[records.Run], workdir: pathlib.Path
) -> dict[str, blocks.Picture | str]:
  """{name: Picture, or why there is none}, with the PNG files written."""
  return {
    'accuracy': _accuracy(summary, workdir),
    'logits': _logits(read_responses(workdir), workdir),
    'curves': _curves(summary, read_metrics(workdir, runs), workdir),
  }


def _accuracy(
  summary: records.Summary, workdir: pathlib.Path
) -> blocks.Picture | str:
  if not summary['num_runs']:
    return 'No run has finished: there is no accuracy to show.'
  return _picture(
    workdir,
    'accuracy',
    lambda **how: accuracy_figure.accuracy_bars(summary, **how),
    content.alt_accuracy(summary),
    'Grey: students on their own. Blue: the normal teacher and students who '
    'learned from it. Orange and other colours: protected teachers and the '
    'students of each. In brackets the difference in points to the normal '
    'teacher or to the student alone. A circle is one seed, the line one '
    'standard deviation.',
  )


def _logits(
  responses: Mapping[str, np.ndarray] | None, workdir: pathlib.Path
) -> blocks.Picture | str:
  if responses is None:
    return 'The study kept no responses of its teachers (no responses.npz).'
  return _picture(
    workdir,
    'logits',
    lambda **how: logit_figure.logit_responses(responses, **how),
    f'{logit_figure.title(responses)}. Bars of the logits and probabilities '
    'of both teachers over the classes, for the same test images.',
    f'{logit_figure.title(responses)}: classes at least half as far above '
    'the mean logit as the highest. The full-coloured bar is the true class. '
    'A client reads off the highest bar alone; a student learns from all of '
    'them, so false peaks mislead it.',
  )


def _curves(
  summary: records.Summary, metrics: records.Metrics, workdir: pathlib.Path
) -> blocks.Picture | str:
  curves = curve_figure.collect(summary, metrics)
  if not curves:
    return 'No metrics by epoch were found beside the runs.'
  panels = ', '.join(dict.fromkeys(curve['panel'] for curve in curves))
  return _picture(
    workdir,
    'curves',
    lambda **how: curve_figure.training_curves(curves, **how),
    f'Line charts of accuracy and training loss by epoch for {panels}.',
    'Lines are means over seeds, bands one standard deviation. Each method '
    'minimises a loss of its own, so compare the shapes of losses, not their '
    'heights.',
  )


def _picture(
  workdir: pathlib.Path,
  name: str,
  draw: Callable[..., Any],
  alt: str,
  caption: str,
) -> blocks.Picture:
  """Draws a figure for page and telephone, light and dark, and its PNG."""
  path = f'figures/{name}.png'
  _replace(workdir / path, style.png(draw(), style.LIGHT))
  wide = style.svg(draw(titled=False), style.LIGHT)
  narrow = style.svg(draw(titled=False, narrow=True), style.LIGHT)
  svg = {'light': wide, 'light-narrow': narrow}
  svg |= {'dark': style.darken(wide), 'dark-narrow': style.darken(narrow)}
  return blocks.Picture(path=path, alt=alt, caption=caption, svg=svg)


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The epochs of one run; a torn last line is what a killed run leaves."""
  lines = path.read_text(encoding='utf-8').splitlines()
  epochs = []
  for number, line in enumerate(lines, 1):
    try:
      epochs.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number < len(lines):
        raise ValueError(f'{path}, line {number}: not JSON: {line}') from error
  return epochs


def _replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a file beside `path` and renames it: never a half-written one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    part.write_bytes(data)
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
