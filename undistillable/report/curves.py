"""How the networks learned: accuracy and loss by epoch."""

import functools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import axes as mpl_axes, figure as mpl_figure

from undistillable.report import draw, entries as entries_lib, stats
from undistillable.report.stats import Entry
from undistillable.report.summary import Row, Summary

_KEYS = ('train_loss', 'train_accuracy', 'val_accuracy')
Metrics = Mapping[str, list[dict[str, Any]]]  # {id: its epochs' metrics}.
Curve = dict[str, Any]  # What `collect` returns a list of.

# Above this ratio a linear axis would show one method's loss alone.
_MAX_LINEAR_RATIO = 8.0


def read(
  workdir: str | os.PathLike[str], entries: Iterable[Entry]
) -> dict[str, list[dict[str, Any]]]:
  """{id: one dict an epoch} of the entries that have a metrics.jsonl.

  A killed study leaves a torn last line.
  """
  metrics: dict[str, list[dict[str, Any]]] = {}
  for entry in entries:
    path = pathlib.Path(workdir, 'runs', entry['id'], 'metrics.jsonl')
    if not path.is_file():
      continue
    metrics[entry['id']] = []
    lines = path.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, 1):
      try:
        metrics[entry['id']].append(json.loads(line))
      except json.JSONDecodeError as error:
        if number < len(lines):
          told = f'{path}, line {number}: not JSON: {line}'
          raise ValueError(told) from error
  return metrics


def figure(summary: Summary, metrics: Metrics) -> draw.Figure:
  """Accuracy and loss by epoch: mean over seeds, band of one deviation."""
  curves = collect(summary, metrics)
  held_out = curves and _accuracy_key(curves) == 'val_accuracy'
  caption = (
    'Lines are means over seeds, bands one standard deviation. Each method '
    'minimises a loss of its own, so compare the shapes of losses, not their '
    'heights.'
  )
  return draw.Figure(
    heading='How the networks learned',
    name='curves',
    draw=functools.partial(panels, curves) if curves else None,
    title='How fast each network learned: accuracy on '
    f'{"held-out" if held_out else "training"} images, and loss',
    alt='Line charts of accuracy and training loss by epoch for '
    f'{", ".join(draw.by_panel(curves))}.',
    caption=caption
    if curves
    else 'No metrics by epoch were found beside the runs.',
  )


def collect(summary: Summary, metrics: Metrics) -> list[Curve]:
  """Metrics by epoch -> curves, one for each row that has them.

  Returns:
    List of {student, attack, name, color, dashed, series}: the first two as
    `draw.by_panel` reads them; `series` maps a metric to {epoch: `stats.stat`
    over the seeds that have it}.
  """
  curves = []
  for row in summary['rows']:
    found = [metrics[name] for name in row['ids'] if metrics.get(name)]
    if not found:
      continue
    curves.append(
      {
        'student': row['name'] if row['role'] == 'student' else None,
        'attack': row['method'] if row['teacher'] else None,
        'name': _name(row),
        'color': row['color'],
        'dashed': row['kind'] == 'control'
        and row['method'] != entries_lib.CONTROL,
        'series': {key: _series(found, key) for key in _KEYS},
      }
    )
  return curves


def panels(curves: Sequence[Curve]) -> list[mpl_figure.Figure]:
  """The teachers, the legend, one for each student and attack."""
  key = _accuracy_key(curves)
  ends = draw.ends(f for c in curves for f in c['series'][key].values())
  low, high = min(ends, default=0.0), max(ends, default=100.0)
  air = 0.05 * (high - low) or 1.0
  limits = low - air, high + air
  shown = [
    _panel(name, chosen, key, limits)
    for name, chosen in draw.by_panel(curves).items()
  ]
  looks = {curve['name']: _look(curve) for curve in curves}
  return [shown[0], draw.legend(looks.items()), *shown[1:]]


def _accuracy_key(curves: Sequence[Curve]) -> str:
  """Held-out accuracy if every curve has it, otherwise training accuracy."""
  if all(curve['series']['val_accuracy'] for curve in curves):
    return 'val_accuracy'
  return 'train_accuracy'


def _name(row: Row) -> str:
  """Of a line in the legend."""
  name = row['name'] if row['role'] == 'teacher' else row['teacher']
  return f'{name}, or distilled from it' if name else draw.alone(row['method'])


def _series(
  histories: Sequence[Sequence[Mapping[str, Any]]], key: str
) -> dict[int, stats.Stat]:
  """Histories of several seeds -> the numbers of each epoch."""
  values: dict[int, dict[int, float]] = {}
  for seed, history in enumerate(histories):
    for line in history:
      epoch, value = line.get('epoch'), line.get(key)
      if epoch is not None and value is not None and math.isfinite(value):
        values.setdefault(epoch, {})[seed] = value
  return {epoch: stats.stat(values[epoch]) or {} for epoch in sorted(values)}


def _panel(
  name: str, curves: Sequence[Curve], key: str, limits: tuple[float, float]
) -> mpl_figure.Figure:
  """Accuracy and loss beside each other."""
  panel = draw.panel(1.95)
  axes = panel.subplots(1, 2)
  draw.heading(panel, name)
  for ax, shown in zip(axes, (key, 'train_loss'), strict=True):
    for curve in curves:
      found = curve['series'][shown]
      if found:
        marker = 'o' if len(found) <= 3 else None
        look = {'marker': marker, 'markersize': 4, **_look(curve)}
        draw.line(ax, list(found), list(found.values()), look)
    ax.grid(axis='y')
    ax.xaxis.get_major_locator().set_params(
      integer=True, nbins=4, min_n_ticks=1
    )
    ax.set_xlabel('Epoch')
  # Accuracies compare across panels, the losses of methods do not.
  axes[0].set_ylim(*limits)
  where = 'Held-out' if key == 'val_accuracy' else 'Training'
  scale = _scale_loss(axes[1], curves)
  for ax, told in zip(
    axes, (f'{where} accuracy (%)', f'Training loss{scale}'), strict=True
  ):
    ax.set_title(told, size=9, weight='normal', color=draw.COLORS['muted'])
  return panel


def _look(curve: Curve) -> dict[str, Any]:
  return {
    'color': draw.COLORS[curve['color']],
    'linestyle': '--' if curve['dashed'] else '-',
    'linewidth': 1.6,
  }


def _scale_loss(ax: mpl_axes.Axes, curves: Iterable[Curve]) -> str:
  """A logarithmic axis where one loss dwarfs another; what is said of it."""
  losses = [
    [loss for one in found.values() for loss in one['by_seed'].values()]
    for found in (curve['series']['train_loss'] for curve in curves)
    if found
  ]
  tops = [max(map(abs, values)) for values in losses]
  if not tops or not 0 < min(tops) < max(tops) / _MAX_LINEAR_RATIO:
    return ''
  if min(map(min, losses)) > 0:
    ax.set_yscale('log')
    told = ', logarithmic'
  else:
    # The loss of nasty training falls below zero: linear about it.
    threshold = 10.0 ** math.floor(math.log10(min(tops)))
    ax.set_yscale('symlog', linthresh=threshold)
    told = f', log. beyond ±{threshold:g}'
  ax.yaxis.set_major_formatter('{x:g}')
  ax.yaxis.set_minor_formatter('')
  return told
