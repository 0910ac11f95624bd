"""The model card of an exported network."""

import string
from collections.abc import Mapping
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

  The config is that of `undistillable.export`, the results are of the study
  that the network comes from, and the command is what made the folder.
  """
  height, width, channels = config['image_shape']
  model, defense = config['model'], config['defense']
  title = f'{model} for {config["dataset"]["name"]}, protected by {defense}'
  what = (
    f'A classifier of images of {height} x {width} pixels and '
    f'{channels} channel{"" if channels == 1 else "s"} into '
    f'{config["num_classes"]} classes, which was made hard to distil from its '
    'answers.'
  )
  fields = {
    **config['exported_by'],  # Versions, and the date.
    'title': document.escape(title),
    'what': document.escape(what),
    'facts': document.markdown_table(('', ''), _facts(config)),
    'audit': _audit(config['run'], results),
    'limits': conduct.LIMITS,
    'served': _served(config),
    'command': '\n'.join(f'    {line}' for line in command.splitlines()),
    'model': model,
    'classes': config['num_classes'],
    'shape': f'{height}, {width}, {channels}',
    'mean': tuple(config['mean']),
    'std': tuple(config['std']),
  }
  return string.Template(document.resource('card.md')).substitute(fields)


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
  """What is known of the network, and on what grounds."""
  dataset = config['dataset']
  size = f'{config["test_examples"]:,} test images'
  data = f'{dataset["name"]}: {config["description"]}'
  if dataset['limit'] is not None:
    data += f'; at most {dataset["limit"]:,} images of each part'
  unseen = (
    'Held out of training',
    f'{dataset["val_fraction"]:.0%} of the training set, and the test set',
  )
  if config['init_from']:
    told = f'a file with the {config["init_from"]}, trained elsewhere'
    unseen = 'Weights', told
  settings = ', '.join(f'{k} {v}' for k, v in config['settings'].items())
  facts = [
    ('Network', config['model']),
    ('Data', data),
    unseen,
    ('Accuracy, as served', f'{config["test_accuracy"]:.2f} % of {size}'),
    ('Negative log likelihood', f'{config["test_nll"]:.4f} nats, as served'),
    ('Defense', config['defense'] + (f' ({settings})' if settings else '')),
    ('Computed in', config['dtype']),
    ('Run, seed', f'{config["run"]}, {config["seed"]}'),
  ]
  if config['class_names']:
    facts.append(('Classes', ', '.join(config['class_names'])))
  return facts


def _audit(run: str, results: Mapping[str, Any] | None) -> str:
  """What was found of this network, or that nothing was."""
  runs = results['runs'] if results else []
  rows = summary_lib.summarize(runs)['rows']
  owner = next((row for row in rows if run in row['ids']), None)
  if owner is None:
    return (
      'No main job that attacked this network is on record here; an arena or '
      'an audit has a page of its own.'
    )
  thefts = [row for row in rows if row['teacher'] == owner['name']]
  models = {row['name'] for row in thefts}
  alone = [
    row for row in rows if row['kind'] == 'control' and row['name'] in models
  ]
  judged = conclusion.judge([owner, *thefts])
  # Students of one kind below each other, the one trained alone first.
  students = sorted([*alone, *thefts], key=lambda row: row['name'])
  parts = [
    f'**{document.escape(judged["headline"])}.** '
    f'{document.escape(judged["sentence"])}',
    table.markdown({'rows': [owner, *students]}),
    document.escape(table.READING),
  ]
  seeds = owner['accuracy']['num_seeds']
  if seeds > 1:
    seed = next(one['seed'] for one in runs if one['id'] == run)
    parts.append(
      f'That is of {seeds} networks that differ in their seeds; this one is of '
      f'seed {seed}.'
    )
  return '\n\n'.join(parts)


def _served(config: Mapping[str, Any]) -> str:
  """What the files without the defense lack, as points of a list."""
  found = ''
  if config['serves']:
    found += (
      f'- The defense {config["defense"]} works on answers. Only '
      '`predict.jaxexport` has it: `model.safetensors`, `model.pt` and '
      '`variables/` are the network before it, without protection.\n'
    )
  if config['asks']:
    found += (
      '- The answers of `predict.jaxexport` are made of more than this network '
      f'({", ".join(config["asks"])}), which is in that file alone.\n'
    )
  return found
