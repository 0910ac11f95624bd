"""The figures of the main job: accuracy, what a thief sees, learning curves."""

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from undistillable.analysis import (
  accuracy_figure,
  content,
  curve_figure,
  logit_figure,
  picture,
  records,
)


def make(
  summary: records.Summary,
  runs: Sequence[records.Run],
  workdir: pathlib.Path,
  folder: pathlib.Path,
) -> list[picture.Figure]:
  """The figures; what a study does not have is said instead.

  Args:
    summary: of the study; see `summary.summarize`.
    runs: of the study.
    workdir: with `runs/<id>/metrics.jsonl`.
    folder: of the report, with `responses.npz`.
  """
  return [
    accuracy(summary),
    logits(read_responses(folder)),
    curves(summary, read_metrics(workdir, runs)),
  ]


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
  folder: str | os.PathLike[str],
) -> dict[str, np.ndarray] | None:
  """The arrays of responses.npz, or None if the study has none."""
  path = pathlib.Path(folder, 'responses.npz')
  if not path.is_file():
    return None
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)


def accuracy(summary: records.Summary) -> picture.Figure:
  """Bars of every network's accuracy."""
  heading = 'Accuracy of every network'
  if not summary['num_runs']:
    missing = 'No run has finished: there is no accuracy to show.'
    return picture.Figure(heading, 'accuracy', None, '', missing)
  return picture.Figure(
    heading,
    'accuracy',
    functools.partial(accuracy_figure.accuracy_bars, summary),
    content.alt_accuracy(summary),
    'Grey: students on their own. Blue: the normal teacher and students who '
    'learned from it. Orange and other colours: protected teachers and the '
    'students of each. In brackets the difference in points to the normal '
    'teacher or to the student alone. A circle is one seed, the line one '
    'standard deviation.',
  )


def logits(responses: Mapping[str, np.ndarray] | None) -> picture.Figure:
  """Both teachers' answers to the same images."""
  heading = 'What a thief sees'
  if responses is None:
    missing = 'The study kept no responses of its teachers (no responses.npz).'
    return picture.Figure(heading, 'logits', None, '', missing)
  title = logit_figure.title(responses)
  return picture.Figure(
    heading,
    'logits',
    functools.partial(logit_figure.logit_responses, responses),
    f'{title}. Bars of the logits and probabilities of both teachers over the '
    'classes, for the same test images.',
    f'{title}: classes at least half as far above the mean logit as the '
    'highest. The full-coloured bar is the true class. A client reads off the '
    'highest bar alone; a student learns from all of them, so false peaks '
    'mislead it.',
  )


def curves(
  summary: records.Summary, metrics: records.Metrics
) -> picture.Figure:
  """Accuracy and loss by epoch."""
  heading = 'How the networks learned'
  collected = curve_figure.collect(summary, metrics)
  if not collected:
    missing = 'No metrics by epoch were found beside the runs.'
    return picture.Figure(heading, 'curves', None, '', missing)
  panels = ', '.join(dict.fromkeys(curve['panel'] for curve in collected))
  return picture.Figure(
    heading,
    'curves',
    functools.partial(curve_figure.training_curves, collected),
    f'Line charts of accuracy and training loss by epoch for {panels}.',
    'Lines are means over seeds, bands one standard deviation. Each method '
    'minimises a loss of its own, so compare the shapes of losses, not their '
    'heights.',
  )


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
