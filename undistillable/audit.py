"""Audits a model: attacks of all kinds, the right controls, one verdict.

  python -m undistillable.audit --config=cifar10:fast --model=resnet18 \
    --weights=model.safetensors --budget=small --workdir=/tmp/audit

The weights are those of one's own network, protected or not, in any form that
`teacher.init_from` reads; without them the network of the config is trained.
`--budget=full` tries every attack but `ensemble`, of whoever has the owner's
images, foreign ones (of `config.transfer`), none, or the weights, and every
defense that can be served before the network without training. What the command
line sets of `config.arena` counts for more, as
--config.arena.attacks='("kd","my.thief")'.

Any other classifier is audited by its answers alone: those of a file of
`jax.export`, of a folder of `undistillable.export`, or of a module of one's own
with a function `answer` from images to logits, in whatever framework:

  --answers=/tmp/protected    --answers=my_package.my_answers

Where the network is served behind a defense that trains nothing, name it, with
its settings, or the module of one's own:

  --served=stingy    --served=top_k:k=3    --served=my_package.my_wrapper

The verdict, its price and what to do next are then about the network as it is
served; the row `none` of the tables is the network itself.
"""

import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import flags

from undistillable import (
  arena,
  attacks,
  config as config_lib,
  data,
  defenses,
  errors,
  registry,
  study,
)
from undistillable.graph import plan
from undistillable.models import black_box
from undistillable.report import arena as report

# One student, three fresh seeds, with fewer of which nothing is decided.
_SMALL: Mapping[str, Any] = {
  'arena.defenses': (),
  'arena.epsilons': (0.1, 0.3),
  'arena.choose_seeds': (0,),
  'arena.fresh_seeds': (1, 2, 3),
}
_TEMPERATURES = (1.0, 20.0, 4.0)  # Two of them, beside that of the config.
# What can be served before any network as it is.
_WRAPPERS = [k for k, one in defenses.DEFENSES.items() if one.make is None]


def changed(
  config: ml_collections.ConfigDict,
  budget: str,
  *,
  model: str | None = None,
  weights: str | None = None,
  answers: str | None = None,
  served: str | None = None,
  fixed: frozenset[str] = frozenset(),
) -> ml_collections.ConfigDict:
  """The config of an audit.

  Args:
    config: of its data set.
    budget: 'small' or 'full'.
    model: name of the network; None for that of the config.
    weights: path of a file; None for training it.
    answers: see `black_box.know`; of a network of which nothing else is known.
    served: the defense before it, as 'top_k:k=3'; None for none. It is the
      first of arena.defenses then, whatever is fixed, and in `config.audit`.
    fixed: names of fields that stay as they are, as 'arena.attacks'.

  Raises:
    ValueError: another budget; a defense that there is not, or that trains;
      no answers, or answers and weights.
  """
  network: dict[str, Any] = {}
  if model:
    network['teacher.model'] = model
  if weights:
    network['teacher.init_from'] = weights
  if answers is not None:
    if network or {'teacher.model', 'teacher.init_from'} & fixed:
      raise errors.InputError(
        '--answers is of a network of which nothing else is known; leave out '
        '--model, --weights, --config.teacher.model and .init_from'
      )
    known = _known_by_answers(answers, config.normalization)
    network = {k: v for k, v in known.items() if k not in fixed}
  budgets = {
    'small': {
      **_SMALL,
      'students': config.students[:1],
      'arena.attacks': _few(config),
    },
    'full': {
      'arena.defenses': tuple(_WRAPPERS),
      'arena.attacks': (
        *config.arena.attacks,
        *_others(config, network.get('teacher.model', '')),
      ),
    },
  }
  if budget not in budgets:
    raise ValueError(f'budget={budget!r}; expected small or full')
  changes = {k: v for k, v in budgets[budget].items() if k not in fixed}
  varied = plan.vary(config, {**changes, **network})
  if served is None:
    return varied
  name = served.partition(':')[0]
  _check_served(name)
  others = varied.arena.defenses
  if 'arena.defenses' not in fixed:  # Of its own kind there is one.
    others = tuple(one for one in others if one != name)
  # Only where it is needed, or earlier workdirs would have another config.
  with varied.unlocked():
    varied.arena.defenses = tuple(dict.fromkeys((served, *others)))
    varied.audit = ml_collections.ConfigDict({'served': served})
  return varied


def _known_by_answers(source: str, normalization: str) -> dict[str, Any]:
  """What a config says of a network of which the answers are known."""
  errors.check_known('normalization', normalization, data.NORMALIZATIONS)
  try:
    name, path = black_box.know(source, *data.NORMALIZATIONS[normalization])
  except errors.InputError as error:
    raise errors.InputError(f'--answers: {error}') from error
  found = {'teacher.model': name, 'teacher.init_from': str(path)}
  if black_box.is_recorded(name):  # Once an image, by its bytes.
    found |= {'queries': 'cached', 'dtype': 'float32'}
  return found


def _check_served(name: str) -> None:
  """Raises InputError for what is not before a network that is as it is."""
  if name == 'none':
    raise errors.InputError(
      '--served=none is the network itself, as without the flag; leave it out'
    )
  short = registry.short(name)
  if '.' in name and short in defenses.DEFENSES:
    raise errors.InputError(
      f'--served={name}: {short} is a defense of the package; give its name '
      'without a module, or call your own otherwise'
    )
  if '.' not in name and name not in defenses.DEFENSES:
    raise errors.InputError(
      f'--served: unknown defense {name!r}; those that serve a network as it '
      f'is: {", ".join(_WRAPPERS)}, or a module of your own as package.module'
    )
  module = defenses.get(name)
  if module.make is None and not hasattr(module, 'plan'):
    return
  if not hasattr(module, 'serve'):
    raise errors.InputError(
      f'--served={name}: {short} trains the network itself; give the weights '
      'that it trained as --weights, without --served'
    )
  raise errors.InputError(
    f'--served={name}: {short} answers by what it trains beside the network, '
    f'which a file of weights lacks; --config.arena.defenses=\'("{name}",)\' '
    'trains it anew, for a row of its own'
  )


def _measure(config: ml_collections.ConfigDict, *given: Any) -> dict[str, Any]:
  """As of the arena, and the row that it is all about.

  Raises:
    errors.DivergedError: its network has no answers that can be judged.
  """
  numbers = arena.measure_fn(config, *given)
  none, *others = numbers['board']['owners']
  audited = others[0] if 'audit' in config else none
  if audited not in numbers['prices']:
    reason = arena.fault(config, audited, given[1])
    raise errors.DivergedError(f'there is nothing to audit: {reason}')
  return numbers | {'audited': audited}


def _few(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The attacks of a small audit."""
  others = [t for t in _TEMPERATURES if t != config.kd.temperature][:2]
  tempered = [f'kd:temperature={temperature}' for temperature in others]
  return 'kd', *tempered, 'dkd', 'hard_label'


def _others(config: ml_collections.ConfigDict, network: str) -> list[str]:
  """Attacks that the arena of a config lacks, and that one network allows.

  Foreign images are those of `config.transfer`; without it nobody has any. Nor
  has anybody the weights of a black box.
  """
  lists = {name.split(':')[0] for name in config.arena.attacks}
  unfit = set() if config.transfer else {'foreign'}
  if network in black_box.KNOWN:
    unfit.add('weights')
  if black_box.is_recorded(network):
    unfit.add('none')
  return [
    name
    for name, module in attacks.ATTACKS.items()
    if module.PARENTS
    and name not in (*lists, *config_lib.NOT_TRIED)
    and registry.declared(module, 'DATA') not in unfit
    and registry.declared(module, 'ACCESS') not in unfit
  ]


STUDY = study.Study(
  'audit',
  arena.plan_fn,
  _measure,
  report.write,
  go_on=True,
  fixed_fields=('arena',),
  text_fn=report.text,
)


def _run() -> None:
  """The command line; its flags are not defined for whoever imports this."""
  from undistillable import main

  flags.DEFINE_string(
    'weights', None, 'A file with those of the network that is audited.'
  )
  flags.DEFINE_string(
    'model', None, 'The name of its architecture; None: that of the config.'
  )
  flags.DEFINE_string(
    'answers',
    None,
    'In place of both: what answers for the network. A file of jax.export, a '
    'folder of undistillable.export, or a module as my_package.my_answers.',
  )
  flags.DEFINE_string(
    'served',
    None,
    'The defense behind which it is served, as stingy, top_k:k=3 or '
    'my_package.my_wrapper; None: the verdict is on the network itself.',
  )
  flags.DEFINE_enum('budget', 'small', ['small', 'full'], 'How much is tried.')
  prefix = 'config.'
  typed = (flag.lstrip('-').split('=')[0] for flag in sys.argv[1:])
  fixed = frozenset(
    name.removeprefix(prefix) for name in typed if name.startswith(prefix)
  )

  def change(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    names = 'budget', 'model', 'weights', 'answers', 'served'
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    return changed(config, **given, fixed=fixed)

  main.run(STUDY, 'undistillable.audit', change)


if __name__ == '__main__':
  _run()
