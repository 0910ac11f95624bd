"""What a report says beside its conclusion: captions, and figures in words."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from undistillable.report import entries, stats
from undistillable.report.summary import Row, Summary

READING = (
  'Mean over seeds ± one standard deviation, on every test image. Difference: '
  'a teacher against the normal teacher, a student against the same student '
  'trained alone, taken seed by seed, in percentage points.'
)
FAILED = 'Bold: this thief lost nothing to the protection.'
BEST = (
  'Best on test: the epoch that is best on the test set, as the article '
  'counts; nothing here is judged by it.'
)
EXCESS = (
  'Over nobody: against the same attack with every answer replaced by what the '
  'thief knew before, which is in the table as the attack alone. Only this was '
  'stolen.'
)
COMMON = 'The same in every run.'
DIFFERING = 'What differs between the kinds of network.'
ENVIRONMENT = 'Versions and hardware.'
ENTRIES = (
  'All {number} runs, {total} in all. Accuracy and NLL (negative log '
  'likelihood, nats) on every test image.'
)
MEASURED = (
  'Means over the last epoch, of training images as they were augmented; what '
  'each is stands with the method, as in conditions() of nasty. Where hold '
  'exceeds push, cross entropy holds a teacher beside its adversary.'
)
LIMITS = (
  'A protection is known to hold only against the attacks, students and data '
  'named here. A thief with another attack, more queries or other images may '
  'do better. Differences within one standard error are called level.'
)
SOURCE = (
  'Ma et al. (2021). Undistillable: making a nasty teacher that cannot teach '
  'students. ICLR 2021, arXiv:2105.07381.'
)
SOURCE_URL = 'https://arxiv.org/abs/2105.07381'

_COLORS = (
  'Grey: students on their own. Blue: the normal teacher and students who '
  'learned from it. Orange and other colours: protected teachers and the '
  'students of each.'
)
ACCURACY = (
  f'{_COLORS} In brackets the difference in points to the normal teacher or to '
  'the student alone. A circle is one seed, the line one standard deviation.'
)
NO_ACCURACY = 'No run has finished: there is no accuracy to show.'
CURVES = (
  'Lines are means over seeds, bands one standard deviation. Each method '
  'minimises a loss of its own, so compare the shapes of losses, not their '
  'heights.'
)
NO_CURVES = 'No metrics by epoch were found beside the runs.'
LOGITS = (
  'classes at least half as far above the mean logit as the highest. The '
  'full-coloured bar is the true class. A client reads off the highest bar '
  'alone; a student learns from all of them, so false peaks mislead it.'
)
LOGITS_ALT = (
  'Bars of the logits and probabilities of each teacher over the classes, for '
  'the same test images.'
)
NO_LOGITS = 'The study kept no responses of its teachers (no responses.npz).'
PEAKS = (
  'A peak is a class at least half as far above the mean logit as the highest. '
  'Bars are means over seeds, circles single seeds. A student learns from all '
  'peaks, so false ones mislead it.'
)
IMAGES = (
  'Images that DeepInversion made from nothing but the weights of a teacher, a '
  'column for each class that they were made for. The judge is a network that '
  'was trained alone and knows neither teacher.'
)


def eyebrow(summary: Summary, environment: Mapping[str, Any]) -> str:
  """What kind of page this is, and how much stands behind it."""
  seeds = len(summary['seeds'])
  parts = [
    'Distillation audit',
    f'{summary["num_networks"]} trained networks',
    f'{seeds} seed{"" if seeds == 1 else "s"}',
    str(environment.get('date') or ''),
  ]
  return ' · '.join(filter(None, parts))


def plus_minus(stat: stats.Stat | None, sign: str = '') -> str:
  """'71.6 ± 2.1', without the deviation for one seed."""
  if stat is None:
    return '·'
  text = f'{stat["mean"]:{sign}.1f}'
  # No '-0.0': a reader takes it for a loss.
  text = text.replace('-0.0', '+0.0' if sign else '0.0')
  return text if stat['std'] is None else f'{text} ± {stat["std"]:.1f}'


def trained(row: Row) -> str:
  """'normally', 'nasty (omega 0.1)', 'alone' or 'kd from nasty cnn8'."""
  if row['method'] == entries.CONTROL:
    return 'alone'
  how = row['method']
  if row['role'] == 'teacher' and row['kind'] == 'normal':
    how = 'normally'
  how += f' ({row["setting"]})' if row['setting'] else ''
  if row['role'] == 'student':
    how += f' from {row["teacher"]}' if row['teacher'] else ' alone'
  return how


def accuracy_alt(summary: Summary) -> str:
  """The bars in words."""
  told = [
    f'{row["role"]} {row["model"]} {trained(row)}: '
    f'{plus_minus(row["accuracy"])} percent'
    for row in summary['rows']
  ]
  return f'Bar chart of test accuracy. {"; ".join(told)}.'


def curve_name(row: Row) -> str:
  """Of a line in the legend."""
  name = row['name'] if row['role'] == 'teacher' else row['teacher']
  if name:
    return f'{name}, or distilled from it'
  alone = row['method'] == entries.CONTROL
  return 'student alone' if alone else f'student by {row["method"]} alone'


def curves_alt(panels: Iterable[str]) -> str:
  """The charts in words."""
  return (
    'Line charts of accuracy and training loss by epoch for '
    f'{", ".join(panels)}.'
  )


def logits_title(counts: Mapping[str, float], num_images: int) -> str:
  """How many peaks the teachers show, counted over the images kept."""
  told = [f'the {name} teacher {count:.1f}' for name, count in counts.items()]
  return f'Peaks in the answers to {num_images} test images: {", ".join(told)}'


def peaks_title(means: Mapping[str, float]) -> str:
  """The mean number of peaks of each teacher."""
  told = [f'{name} {mean:.1f}' for name, mean in means.items()]
  return f'Peaks in the answer to an image: {", ".join(told)}'


def peaks_alt(
  means: Mapping[str, float],
  shares: Mapping[str, np.ndarray],
  bars: Sequence[str],
) -> str:
  """The bars in words, with every number."""
  parts = ['Bars of the share of test images by number of peaks.']
  for name, mean in means.items():
    told = [
      f'{bar}: {share:.1f}%'
      for bar, share in zip(bars, shares[name].mean(axis=0), strict=True)
    ]
    parts.append(f'{name} teacher, {mean:.1f} on average: {", ".join(told)}.')
  return ' '.join(parts)


def separation(numbers: Mapping[str, float]) -> str:
  """The two numbers of `embeddings.separation`."""
  rounded = round(numbers['silhouette'], 2) + 0.0  # No −0.00.
  silhouette = f'{rounded:.2f}'.replace('-', '−')
  neighbors = f'{numbers["neighbor_accuracy"]:.1f}%'
  return f'silhouette {silhouette}, neighbours of one class {neighbors}'


def embedding(num_classes: int, num_colors: int) -> str:
  """How to read the maps."""
  shared = ''
  if num_classes > num_colors:
    shared = (
      f'{num_classes} classes share {num_colors} colours, so one colour is '
      'several classes. '
    )
  return (
    'Each point is a test image, placed by t-SNE: close images get similar '
    'answers, while the axes and the distances between clusters mean nothing. '
    f'{shared}Silhouette: how far classes lie apart in the vectors '
    'themselves, from −1 to 1. Neighbours: how often most of the 5 nearest '
    'images are of the own class.'
  )


def embedding_alt(
  num_images: int, num_classes: int, told: Mapping[str, str]
) -> str:
  """The maps in words, with what stands below each."""
  return ' '.join(
    [
      f'Four t-SNE maps of {num_images} test images of {num_classes} classes, '
      'coloured by class.',
      *(f'{head}: {text}.' for head, text in told.items()),
    ]
  )


def images_told(means: Mapping[str, float]) -> str:
  """How many of the images the teacher and the judge recognise."""
  if not means:
    return 'none'
  return (
    f'recognised by the teacher {means["teacher_accuracy"]:.0f} %, '
    f'by the judge {means["judge_accuracy"]:.0f} %'
  )


def images_alt(counts: Mapping[str, int], told: Mapping[str, str]) -> str:
  """The grids in words."""
  return ' '.join(
    [
      'Two grids of images made up from the weights of teachers.',
      *(f'{n} teacher, {c} images: {told[n]}.' for n, c in counts.items()),
    ]
  )


def line_name(cell: Mapping[str, Any]) -> str:
  """Of a line in the legend of a sweep."""
  if cell['kind'] == 'control':
    alone = cell['attack'] == entries.CONTROL
    return 'student alone' if alone else f'student by {cell["attack"]} alone'
  name = 'normal' if cell['kind'] == 'normal' else cell['defense']
  return f'{name} teacher, and its students'


def sweep(lines: Iterable[Mapping[str, Any]]) -> str:
  """How to read a sweep."""
  accuracies = [a for line in lines for a in line['points'].values()]
  text = (
    f'{_COLORS} A dashed line without points does not depend on the setting; a '
    'gap is a run that is missing. '
  )
  if all(accuracy['num_seeds'] == 1 for accuracy in accuracies):
    text += 'Every point is one seed'
    if any(map(stats.spread, accuracies)):
      text += ', bands one standard error for the number of test images'
    return f'{text}.'
  return (
    f'{text}Large points are means over seeds, bands one standard deviation, '
    'small points single seeds.'
  )


def sweep_alt(lines: Collection[Mapping[str, Any]], x_label: str) -> str:
  """A sweep in words: where each line starts, ends and is lowest."""
  parts = [f'Line charts of test accuracy by {x_label}.']
  for panel in dict.fromkeys(line['panel'] for line in lines):
    told = [_line_told(line) for line in lines if line['panel'] == panel]
    parts.append(f'{panel}: {"; ".join(told)}.')
  return ' '.join(parts)


def _line_told(line: Mapping[str, Any]) -> str:
  means = {x: found['mean'] for x, found in line['points'].items()}
  if list(means) == [None]:
    return f'{line["name"]} {means[None]:.1f}%'
  if not any(isinstance(x, str) for x in means):
    xs = sorted(x for x in means if x is not None)
    ends = {xs[0], min(xs, key=lambda x: means[x]), xs[-1]}
    means = {x: means[x] for x in xs if x in ends}
  told = [
    f'{mean:.1f}% at {x if isinstance(x, str) else f"{x:g}"}'
    for x, mean in means.items()
  ]
  return f'{line["name"]} {", ".join(told)}'
