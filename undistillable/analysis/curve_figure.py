"""How the networks learned: accuracy and loss by epoch."""

import math
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes, figure as mpl_figure, lines

from undistillable.analysis import records, style

Curve = dict[str, Any]  # What `collect` returns a list of.

_MAX_COLUMNS = 4
# Above this ratio a linear axis would show one method's loss alone.
_MAX_LINEAR_RATIO = 8.0
_DASHES = ('-', '--', ':', '-.')


def collect(summary: records.Summary, metrics: records.Metrics) -> list[Curve]:
  """Metrics by epoch of every run -> curves, one for each kind of network.

  Args:
    summary: what `summary.summarize` returns.
    metrics: {run id: list of dicts, one an epoch, as in metrics.jsonl}.

  Returns:
    List of {panel, name, kind, index, method, series}: `panel` is 'Teachers'
    or 'Student cnn', `kind` and `index` fix the colour, and `series` maps a
    metric to `(epochs int[E], values float[N, E])` over N seeds, with NaN
    where a seed lacks an epoch.
  """
  index = style.defense_index(summary)
  kinds: list[tuple[str, str | None, str, str, list[str]]] = []
  for teacher in summary['teachers']:
    kind = 'protected' if teacher['protected'] else 'normal'
    kinds.append(('Teachers', teacher['name'], kind, '', teacher['ids']))
  for student in summary['students']:
    panel = f'Student {student["name"]}'
    kinds.append((panel, None, 'control', '', student['control_ids']))
    for attack in student['attacks']:
      kind = 'protected' if attack['protected'] else 'normal'
      name = attack['teacher']
      kind = kind if name else 'control'
      kinds.append((panel, name, kind, attack['method'], attack['ids']))
  curves = []
  for panel, name, kind, method, ids in kinds:
    found = [metrics[run_id] for run_id in ids if metrics.get(run_id)]
    if found:
      curve: Curve = {
        'panel': panel,
        'name': name,
        'kind': kind,
        'method': method,
      }
      curve['index'] = index.get(name, 0) if name else 0
      curve['series'] = {
        key: _stack(found, key)
        for key in ('train_loss', 'train_accuracy', 'val_accuracy')
      }
      curves.append(curve)
  return curves


def training_curves(
  curves: list[Curve],
  *,
  theme: style.Theme = style.LIGHT,
  narrow: bool = False,
  titled: bool = True,
) -> mpl_figure.Figure | None:
  """Accuracy and loss by epoch: mean over seeds, band of one deviation.

  Args:
    curves: what `collect` returns.
    theme: colours, `style.LIGHT` or `style.DARK`.
    narrow: lay it out for a telephone.
    titled: put the title into the figure.

  Returns:
    A matplotlib Figure, or None if there is no curve to show.
  """
  if not curves:
    return None
  panels = list(dict.fromkeys(curve['panel'] for curve in curves))
  stacked = narrow or len(panels) > _MAX_COLUMNS
  with style.use(theme):
    if stacked:  # A row for each panel.
      figure = style.new(4.6 if narrow else 7.2, 0.9 + 1.6 * len(panels))
      grid = figure.subplots(len(panels), 2, squeeze=False)
    else:
      figure = style.new(max(7.2, 2.25 * len(panels)), 4.6)
      grid = figure.subplots(2, len(panels), squeeze=False, sharex='col').T
    for panel, axes in zip(panels, grid, strict=True):
      # Accuracies compare across panels, the losses of methods do not.
      axes[0].sharey(grid[0][0])
      chosen = [curve for curve in curves if curve['panel'] == panel]
      _draw_panel(axes, panel, chosen, curves, theme)
    _label(figure, grid, accuracy_key(curves), stacked)
    figure.legend(
      handles=_handles(curves, theme),
      loc='outside lower left',
      ncols=1 if narrow else 3,
    )
    if titled:
      style.title(figure, title(curves), theme)
  return figure


def title(curves: list[Curve]) -> str:
  """What there is to see."""
  where = 'held-out' if accuracy_key(curves) == 'val_accuracy' else 'training'
  return f'How fast each network learned: accuracy on {where} images, and loss'


def accuracy_key(curves: list[Curve]) -> str:
  """Held-out accuracy if every curve has it, otherwise training accuracy."""
  if all(curve['series']['val_accuracy'][0].size for curve in curves):
    return 'val_accuracy'
  return 'train_accuracy'


def _stack(
  histories: list[list[dict[str, Any]]], key: str
) -> tuple[np.ndarray, np.ndarray]:
  """Histories of several seeds -> (epochs int[E], values float[N, E])."""
  found = [
    {
      line['epoch']: line[key]
      for line in history
      if line.get('epoch') is not None and line.get(key) is not None
    }
    for history in histories
  ]
  epochs = sorted(set().union(*found))
  values = [[one.get(epoch, np.nan) for epoch in epochs] for one in found]
  return np.array(epochs, int), np.array(values, float).reshape(
    len(found), len(epochs)
  )


def _draw_panel(
  axes: np.ndarray,
  panel: str,
  chosen: list[Curve],
  curves: list[Curve],
  theme: style.Theme,
) -> None:
  """Accuracy and loss of one panel's networks."""
  methods = list(dict.fromkeys(c['method'] for c in curves if c['method']))
  for ax, key in zip(axes, (accuracy_key(curves), 'train_loss'), strict=True):
    for curve in chosen:
      method = curve['method']
      dashes = _DASHES[methods.index(method) % 4] if method else '-'
      color = theme.of(curve['kind'], curve['index'])
      epochs, values = curve['series'][key]
      _draw(ax, epochs, values, color, dashes)
    ax.grid(axis='y')
    ax.tick_params(length=0)
    ax.spines['left'].set_visible(False)
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=4)
  axes[0].set_title(panel, fontweight='bold')
  _scale_loss(axes[1], chosen)


def _draw(
  ax: mpl_axes.Axes,
  epochs: np.ndarray,
  values: np.ndarray,
  color: str,
  dashes: str,
) -> None:
  """The mean over the seeds that have an epoch, and one deviation around."""
  if not epochs.size:
    return
  count = np.sum(np.isfinite(values), axis=0)
  mean = np.nansum(values, axis=0) / np.maximum(count, 1)
  squares = np.nansum((values - mean) ** 2, axis=0)
  std = np.sqrt(squares / np.maximum(count - 1, 1))
  ax.plot(
    epochs,
    mean,
    dashes,
    color=color,
    linewidth=1.6,
    marker='o' if epochs.size <= 3 else None,
    markersize=4,
  )
  ax.fill_between(
    epochs, mean - std, mean + std, color=color, alpha=0.2, linewidth=0
  )


def _scale_loss(ax: mpl_axes.Axes, chosen: list[Curve]) -> None:
  """A logarithmic axis where one method's loss dwarfs another's."""
  tops = [
    np.nanmax(np.abs(curve['series']['train_loss'][1]))
    for curve in chosen
    if np.isfinite(curve['series']['train_loss'][1]).any()
  ]
  if tops and 0 < min(tops) < max(tops) / _MAX_LINEAR_RATIO:
    # Not plain log: the loss of nasty training falls below zero.
    threshold = 10.0 ** math.floor(math.log10(min(tops)))
    ax.set_yscale('symlog', linthresh=threshold)
    ax.yaxis.set_major_formatter('{x:g}')
    ax.set_title('logarithmic', loc='right', size=8, style='italic')


def _label(
  figure: mpl_figure.Figure, grid: np.ndarray, key: str, stacked: bool
) -> None:
  """Units on the outer axes alone."""
  name = 'Held-out' if key == 'val_accuracy' else 'Training'
  for i, axes in enumerate(grid):
    if stacked or i == 0:
      axes[0].set_ylabel(f'{name} accuracy (%)')
      axes[1].set_ylabel('Training loss')
    axes[1].set_xlabel('Epoch')
  figure.align_ylabels()


def _handles(curves: list[Curve], theme: style.Theme) -> list[lines.Line2D]:
  """One line for each colour, and one for each attack if there are several."""
  names: dict[str, str] = {}
  for curve in curves:
    name = curve['name']
    label = f'{name}, or distilled from it' if name else 'student alone'
    names.setdefault(label, theme.of(curve['kind'], curve['index']))
  handles = [
    lines.Line2D([], [], color=color, linewidth=2, label=label)
    for label, color in names.items()
  ]
  methods = list(dict.fromkeys(c['method'] for c in curves if c['method']))
  if len(methods) > 1:
    handles += [
      lines.Line2D([], [], color=theme.muted, ls=_DASHES[i % 4], label=method)
      for i, method in enumerate(methods)
    ]
  return handles
