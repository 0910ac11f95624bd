"""The model card of an exported network."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from undistillable.report import (
  conclusion,
  conduct,
  document,
  summary as summary_lib,
  table,
)


def text(
  config: Mapping[str, Any],
  results: Mapping[str, Any] | None,
  command: str,
) -> str:
  """The card, in Markdown.

  Args:
    config: of the exported network; see `undistillable.export`.
    results: of the study that it comes from; None where it has none.
    command: what made the folder.
  """
  height, width, channels = config['image_shape']
  fields = {
    'title': document.escape(_title(config)),
    'what': document.escape(_what(config)),
    'facts': document.markdown_table(('', ''), _facts(config)),
    'audit': _audit(config['run'], results),
    'limits': '\n'.join(f'- {one}' for one in _limits(config)),
    'command': '\n'.join(f'    {line}' for line in command.splitlines()),
    'model': config['model'],
    'classes': config['num_classes'],
    'shape': f'{height}, {width}, {channels}',
    'mean': tuple(config['mean']),
    'std': tuple(config['std']),
    'jax': config['exported_by']['jax'],
    'undistillable': config['exported_by']['undistillable'],
    'date': config['exported_by']['date'],
  }
  return string.Template(document.resource('card.md')).substitute(fields)


def _title(config: Mapping[str, Any]) -> str:
  return (
    f'{config["model"]} for {config["dataset"]["name"]}, protected by '
    f'{config["defense"]}'
  )


def _what(config: Mapping[str, Any]) -> str:
  """What kind of network this is, in a sentence."""
  height, width, channels = config['image_shape']
  return (
    f'A classifier of images of {height} x {width} pixels and '
    f'{channels} channel{"" if channels == 1 else "s"} into '
    f'{config["num_classes"]} classes, which was made hard to distil from its '
    'answers.'
  )


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
  """What is known of the network, and on what grounds."""
  dataset = config['dataset']
  size = f'{config["test_examples"]:,} test images'
  data = f'{dataset["name"]}: {config["description"]}'
  if dataset['limit'] is not None:
    data += f'; at most {dataset["limit"]:,} images of each part'
  settings = ', '.join(f'{k} {v}' for k, v in config['settings'].items())
  facts = [
    ('Network', config['model']),
    ('Data', data),
    _training(config),
    ('Accuracy, as served', f'{config["test_accuracy"]:.2f} % of {size}'),
    ('Negative log likelihood', f'{config["test_nll"]:.4f} nats, as served'),
    (
      'Defense',
      f'{config["defense"]}' + (f' ({settings})' if settings else ''),
    ),
    ('Computed in', config['dtype']),
    ('Run, seed', f'{config["run"]}, {config["seed"]}'),
  ]
  if config['class_names']:
    facts.append(('Classes', ', '.join(config['class_names'])))
  return facts


def _training(config: Mapping[str, Any]) -> tuple[str, str]:
  """Of what the network has seen nothing, where that is known."""
  if config['init_from']:
    told = f'a file with the {config["init_from"]}, trained elsewhere'
    return 'Weights', told
  share = config['dataset']['val_fraction']
  return (
    'Held out of training',
    f'{share:.0%} of the training set, and the test set',
  )


def _audit(run: str, results: Mapping[str, Any] | None) -> str:
  """What was found of this network, or that nothing was."""
  rows = summary_lib.summarize(results['runs'])['rows'] if results else []
  owner = next((row for row in rows if run in row['ids']), None)
  if owner is None:
    return 'No attack on this network is on record.'
  thefts = [row for row in rows if row['teacher'] == owner['name']]
  models = {row['name'] for row in thefts}
  alone = [
    row for row in rows if row['kind'] == 'control' and row['name'] in models
  ]
  judged = conclusion.judge({'rows': [owner, *thefts]})
  shown = {'rows': [owner, *_beside(alone, thefts)]}
  parts = [
    f'**{document.escape(judged["headline"])}.** '
    f'{document.escape(judged["sentence"])}',
    table.markdown(shown),
    document.escape(table.READING),
  ]
  seeds = owner['accuracy']['num_seeds']
  if seeds > 1:
    parts.append(
      f'That is of {seeds} networks that differ in their seeds; this one is of '
      f'seed {_seed(run, results)}.'
    )
  return '\n\n'.join(parts)


def _beside(
  alone: Sequence[summary_lib.Row], thefts: Sequence[summary_lib.Row]
) -> list[summary_lib.Row]:
  """Students of one kind below each other, the one trained alone first."""
  return sorted([*alone, *thefts], key=lambda row: row['name'])


def _seed(run: str, results: Mapping[str, Any] | None) -> int:
  assert results
  return next(one['seed'] for one in results['runs'] if one['id'] == run)


def _limits(config: Mapping[str, Any]) -> list[str]:
  """What the network, the defense and the files do not do."""
  limits = [
    conduct.LIMITS,
    'The defense is against who may ask, not against who has the files: keep '
    'them, and hand out answers.',
  ]
  if config['serves']:
    limits.append(
      f'The defense {config["defense"]} works on answers. Only '
      '`predict.jaxexport` has it: `model.safetensors`, `model.pt` and '
      '`variables/` are the network before it, without protection.'
    )
  if config['asks']:
    limits.append(
      'The answers of `predict.jaxexport` are made of more than this network '
      f'({", ".join(config["asks"])}), which is in that file alone.'
    )
  limits += [
    'Images are taken as they are: whoever sends others than those of the data '
    'set gets an answer all the same.',
    'JAX reads a file of `jax.export` for months after it was written, not for '
    'years, and none of a newer JAX: keep the weights, and export them anew.',
    '`predict.jaxexport` is a program: load none that you would not run. The '
    'other files hold numbers alone.',
  ]
  return limits
