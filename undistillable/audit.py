"""Audits a model: every attack that fits, the right controls, one verdict.

  python -m undistillable.audit --config=cifar10:fast --model=resnet18 \
    --weights=model.safetensors --budget=small --workdir=/tmp/audit

The weights are those of one's own network, protected or not, in any form that
`teacher.init_from` reads; without them the network of the config is trained.
`--budget=full` tries every attack, of whoever has the owner's images, foreign
ones, none, or the weights, and every defense that can be served before the
network without training. What the command line sets of
`config.arena` counts for more, as --config.arena.attacks='("kd","my.thief")'.
"""

import functools
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import flags

from undistillable import (
  arena,
  attacks,
  config as config_lib,
  defenses,
  plan,
  study,
)
from undistillable.report import arena as report, arena_words as words

# One student, three fresh seeds, with fewer of which nothing is decided.
_SMALL: Mapping[str, Any] = {
  'arena.attacks': (
    'kd',
    'kd:temperature=1.0',
    'kd:temperature=20.0',
    'dkd',
    'hard_label',
  ),
  'arena.defenses': (),
  'arena.epsilons': (0.1, 0.3),
  'arena.choose_seeds': (0,),
  'arena.fresh_seeds': (1, 2, 3),
}


def changed(
  config: ml_collections.ConfigDict,
  budget: str,
  *,
  model: str | None = None,
  weights: str | None = None,
  fixed: frozenset[str] = frozenset(),
) -> ml_collections.ConfigDict:
  """The config of an audit.

  Args:
    config: of its data set.
    budget: 'small' or 'full'.
    model: name of the network; None for that of the config.
    weights: path of a file; None for training it.
    fixed: names of fields that stay as they are, as 'arena.attacks'.

  Raises:
    ValueError: another budget.
  """
  served = (k for k, one in defenses.DEFENSES.items() if one.make is None)
  budgets = {
    'small': {**_SMALL, 'students': config.students[:1]},
    'full': {
      'arena.defenses': tuple(served),
      'arena.attacks': (*config.arena.attacks, *_others(config)),
    },
  }
  if budget not in budgets:
    raise ValueError(f'budget={budget!r}; expected small or full')
  changes = {k: v for k, v in budgets[budget].items() if k not in fixed}
  if model:
    changes['teacher.model'] = model
  if weights:
    changes['teacher.init_from'] = weights
  return plan.vary(config, changes)


def _others(config: ml_collections.ConfigDict) -> list[str]:
  """Attacks that the arena of a config lacks, and that one network allows.

  Foreign images are those of `config.transfer`; without it nobody has any.
  """
  lists = {name.split(':')[0] for name in config.arena.attacks}
  return [
    name
    for name, module in attacks.ATTACKS.items()
    if module.PARENTS
    and name not in (*lists, *config_lib.NOT_TRIED)
    and (config.transfer or getattr(module, 'DATA', 'own') != 'foreign')
  ]


STUDY = study.Study(
  'audit',
  arena.plan_fn,
  arena.measure_fn,
  functools.partial(report.write, conclude=words.audit),
  go_on=True,
  fixed_fields=('arena',),
  text_fn=functools.partial(report.text, conclude=words.audit),
)


def _run() -> None:
  """The command line; its flags are not defined for whoever imports this."""
  from undistillable import main

  weights = flags.DEFINE_string(
    'weights', None, 'A file with those of the network that is audited.'
  )
  model = flags.DEFINE_string(
    'model', None, 'The name of its architecture; None: that of the config.'
  )
  budget = flags.DEFINE_enum(
    'budget', 'small', ['small', 'full'], 'How much is tried.'
  )
  prefix = 'config.'
  names = (flag.lstrip('-').split('=')[0] for flag in sys.argv[1:])
  fixed = frozenset(
    name.removeprefix(prefix) for name in names if name.startswith(prefix)
  )

  def change(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return changed(
      config,
      budget.value,
      model=model.value,
      weights=weights.value,
      fixed=fixed,
    )

  main.run(STUDY, 'undistillable.audit', change)


if __name__ == '__main__':
  _run()
