"""Every field of a config, once, with its meaning.

Each file of configs/ changes what differs. The defaults are those of the
article for CIFAR-10 (Ma et al., 2021, arXiv:2105.07381). The settings of a
method stand under its name, as in `config.nasty.omega`; their meaning is in its
`Settings`.
"""

import difflib
import functools
import math
import re
import typing
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import ml_collections
from ml_collections import config_dict

from undistillable import attacks, defenses, errors, registry
from undistillable.storage import paths

# What the first edition called otherwise.
_RENAMED = {
  'defense': "defenses = ('nasty',), and settings as nasty.omega",
  'attack': "attacks = ('kd',), and settings as kd.temperature",
  'data_free': 'grid.data_free_teacher, _student and _attacks',
  'preset': 'single settings, as dafl.one_hot_weight',
  'settings': 'dafl.<setting> and deep_inversion.<setting>',
  'student_recipe': 'recipes.made_up',
}
# How the type of a field is called.
_TOLD = {
  bool: 'True or False',
  float: 'a finite number',
  int: 'a whole number',
  str: 'a text',
}
# A step of scm, which is no theft by itself; and one that has all networks of
# the owner trained several times.
NOT_TRIED = ('contrastive', 'ensemble')
_MAX_SHOWN = 200  # Characters of a value in an error.
# Methods of one's own, whose settings are in every config from then on.
_OWN: dict[str, ModuleType] = {}


def know(name: str) -> None:
  """Gives all configs to come the settings of a method of one's own.

  A config file that sets one of them does so before it calls `base`. Where a
  file, `--config.defenses` or `--config.attacks` only name a method, the
  command line does it by itself.

  Args:
    name: a dotted module name.

  Raises:
    errors.InputError: see `registry.find`.
  """
  _OWN[name] = registry.find(name, {}, 'method')


def complete(config: ml_collections.ConfigDict) -> None:
  """Gives a config the settings of the methods of one's own that it names.

  Raises:
    errors.InputError: see `registry.find`.
  """
  lists = [
    part.get(field)
    for part in (config, _fields(config.get('arena')))
    for field in ('defenses', 'attacks')
  ]
  # Whatever else stands there `check` will name.
  given = [one for found in lists if isinstance(found, tuple) for one in found]
  for name in (str(one).partition(':')[0] for one in given):
    if '.' in name:
      know(name)
      if registry.short(name) not in config:
        own = registry.defaults(_OWN[name])
        with config.unlocked():
          config[registry.short(name)] = ml_collections.ConfigDict(own)


def renamed(text: str) -> str:
  """What to write for fields of the first edition that a text names; or ''."""
  found = [
    f'{old} of the first edition is now {new}'
    for old, new in _RENAMED.items()
    if re.search(rf'\.{old}[.= ]', text)
  ]
  return '; '.join(found)


def check(config: ml_collections.ConfigDict) -> None:
  """Checks that a config has the fields of `base`, each of its type.

  Raises:
    errors.InputError: which field is missing, unknown or of another type.
  """
  # A method of one's own may be called defense, and has no name.
  named = [
    n for n in config if n == 'data_free' or 'name' in _fields(config[n])
  ]
  old = renamed(' '.join(f'.{name} ' for name in named))
  if old:
    raise errors.InputError(f'config: {old}')
  wanted = _base_to_read()
  # The settings of a method of one's own are its own affair.
  _check_fields(
    {k: v for k, v in config.items() if k in wanted or not _fields(v)}, wanted
  )
  if not isinstance(config.recipes, ml_collections.ConfigDict):
    raise errors.InputError(
      f'config: recipes={config.recipes!r}; expected recipes by name'
    )
  for name, changes in config.recipes.items():
    if not isinstance(changes, ml_collections.ConfigDict):
      raise errors.InputError(
        f'config: recipes.{name}={changes!r}; expected fields of recipe'
      )
    _check_fields(changes, wanted.recipe, f'recipes.{name}.', some=True)
  given = {
    'data_dir': config.data_dir,
    'teacher.init_from': config.teacher.init_from,
    'adversary.init_from': config.adversary.init_from,
  }
  for name, path in given.items():
    if path is not None:
      paths.local(path, name)


def _check_fields(
  given: Mapping[str, Any],
  wanted: ml_collections.ConfigDict,
  prefix: str = '',
  *,
  some: bool = False,
) -> None:
  """Checks all fields of a part, or some, and what is below them."""
  for name in wanted:
    if name not in given and not some:
      raise errors.InputError(
        f"config: there is no field '{prefix}{name}'; start from "
        'undistillable.config.base() and change what differs'
      )
  for name, value in given.items():
    full = f'{prefix}{name}'
    if name not in wanted:
      raise errors.InputError(_unknown(full, wanted))
    if full == 'recipes':
      continue  # Of which `check` knows more.
    if not isinstance(wanted[name], ml_collections.ConfigDict):
      _check_value(full, value, wanted[name], wanted.get_type(name))
    elif isinstance(value, ml_collections.ConfigDict):
      _check_fields(value, wanted[name], f'{full}.')
    else:
      raise errors.InputError(
        f'config: {full}={_shown(value)}; expected the fields '
        f'{", ".join(wanted[name])}'
      )


def _check_value(name: str, value: Any, example: Any, kind: type) -> None:
  """Checks that a value is of the type of a field."""
  if value is None and example is None:
    return
  if kind in (list, tuple):
    fits = isinstance(value, list | tuple)
    kinds = {type(one) for one in example}
    if fits and len(kinds) == 1:
      (kind,) = kinds
      fits = all(_is(one, kind) for one in value)
      told = f'{_TOLD[kind]} each'
    else:
      told = 'several, as (1, 2)'
  else:
    fits, told = _is(value, kind), _TOLD.get(kind, kind.__name__)
  if not fits:
    raise errors.InputError(f'config: {name}={_shown(value)}; expected {told}')


def _is(value: Any, kind: type) -> bool:
  """Whether a value may stand where a type is expected."""
  if kind is float:
    if not _is(value, int) and not isinstance(value, float):
      return False
    try:
      return math.isfinite(value)
    except OverflowError:  # A whole number larger than any of these.
      return False
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, kind)


def _shown(value: Any) -> str:
  """A value on one line, and not all of a long one."""
  fields = _fields(value)
  text = repr(value.to_dict() if fields else value)
  return text if len(text) <= _MAX_SHOWN else f'{text[:_MAX_SHOWN]}...'


def _unknown(name: str, wanted: Iterable[str]) -> str:
  """What to say of a field that there is not."""
  close = difflib.get_close_matches(name.rpartition('.')[2], wanted, n=1)
  hint = f'; did you mean {close[0]!r}?' if close else ''
  return f'config: there is no field {name!r} in undistillable.config{hint}'


def _fields(value: Any) -> Mapping[str, Any]:
  """The fields of a part of a config; none of a single value."""
  return value if isinstance(value, ml_collections.ConfigDict) else {}


@functools.cache
def _base_to_read() -> ml_collections.ConfigDict:
  return base()


def base() -> ml_collections.ConfigDict:
  """A config with all fields."""
  config = ml_collections.ConfigDict()

  # What is learned.
  config.dataset = 'cifar10'  # A name of data.DATASETS.
  config.data_dir = config_dict.placeholder(str)  # None: tfds' default folder.
  config.normalization = 'cifar10'  # Whose channel means and deviations.
  config.val_fraction = 0.02  # Share of the training set held out.
  config.limit = config_dict.placeholder(int)  # Examples a split; None: all.

  # Who takes part; models are names of models.MODELS.
  config.teacher = ml_collections.ConfigDict()
  config.teacher.model = 'resnet18'  # CIFAR's, with a 3 x 3 stem.
  # A .safetensors or PyTorch file: the normal teacher, trained elsewhere.
  config.teacher.init_from = config_dict.placeholder(str)
  config.adversary = ml_collections.ConfigDict()
  # None: the normal teacher is the adversary ("self-undermining").
  config.adversary.model = config_dict.placeholder(str)
  config.adversary.init_from = config_dict.placeholder(str)  # As above.
  config.students = ('cnn', 'resnetc20', 'resnetc32', 'resnet18')
  config.seeds = (0, 1, 2)  # Each trains all networks anew.
  # Names of defenses.DEFENSES, or modules of one's own as 'package.module'.
  config.defenses = ('nasty',)
  # Of attacks.ATTACKS, likewise. Every attack meets every defense.
  config.attacks = ('kd',)
  # Every attack that hears answers is run on nobody as well, as a control of
  # its own, with what the thief knew before he asked: see null_teacher.py.
  config.null_teacher = False
  config.max_accuracy_drop = 20.0  # Points; a teacher that loses more stops it.
  # The data set of images unlike its own from which a defense learns what to
  # distrust, as adaptive_misinformation and decoy: 'cifar100'. None: none.
  config.outliers = config_dict.placeholder(str)

  # What the thief has.
  # Share of the training set that thieves learn from. What is held out, by
  # which they choose, is not shortened.
  config.fraction = 1.0
  # The data set whose images a thief with foreign ones has: 'cifar100'.
  config.transfer = config_dict.placeholder(str)
  # 'fresh': the teacher is asked about every augmented view of an image;
  # 'cached': about every image once.
  config.queries = 'fresh'

  # How every network is trained.
  config.recipe = ml_collections.ConfigDict()
  config.recipe.epochs = 160  # Passes over the training set.
  # Of an epoch, for methods without a data set to count by.
  config.recipe.steps_per_epoch = 100
  config.recipe.batch_size = 128  # Over all devices.
  config.recipe.augment = 'pad_crop_flip'  # A name of augment.AUGMENTATIONS.
  config.recipe.optimizer = 'sgd'  # A name of optimizers.OPTIMIZERS.
  config.recipe.learning_rate = 0.1  # The highest one.
  config.recipe.momentum = 0.9  # Of SGD; beta_1 of Adam.
  config.recipe.weight_decay = 5e-4  # Of every parameter, as in PyTorch.
  # Parameters that learn otherwise; see optimizers.Group.
  config.recipe.groups = ()
  config.recipe.schedule = 'step'  # A name of optimizers.SCHEDULES.
  config.recipe.milestones = (80, 120)  # Epochs, for the schedule 'step'.
  # Factor at each milestone; what 'cosine_floor' leaves of the rate at the end.
  config.recipe.gamma = 0.1
  config.recipe.warmup_epochs = 0  # Linear rise from 0.
  config.recipe.evaluate_every_epochs = 5  # On the held-out part.
  # The article's way: the best epoch on the test set is shown beside the last.
  config.recipe.best_on_test = False
  # What a crash can cost at most; of short ones, as many as twenty checkpoints
  # take time for.
  config.recipe.checkpoint_every_epochs = 1
  # What is changed for single models and methods, by their names; 'made_up' is
  # for students of images that an attack made up.
  config.recipes = ml_collections.ConfigDict()

  # How it is computed.
  # None: float32 on a CPU, bfloat16 (with float32 parameters) elsewhere.
  config.dtype = config_dict.placeholder(str)  # 'float32' or 'bfloat16'.
  # Devices that share a batch; None: all there are, of several hosts as well.
  config.num_devices = config_dict.placeholder(int)
  config.eval_batch_size = 256  # Over all devices; bounds the memory only.
  # Whether a training set lies on every device, or stays on the host, which
  # sends what the next steps take; None: it lies there if it fits.
  config.resident = config_dict.placeholder(bool)
  # At most so many students of one teacher side by side, for whom it is asked
  # once; all of them are in the memory of the device.
  config.together = 4
  config.progress = True  # A progress bar.

  # What the experiments of the article vary, one at a time.
  config.grid = ml_collections.ConfigDict()
  config.grid.teachers = ('resnet18',)  # Of its table.
  config.grid.students = ('cnn', 'resnetc20', 'resnetc32')  # Of the others.
  config.grid.stronger_students = ('resnet34', 'resnet50')  # Than the teacher.
  # Besides the teacher's own kind.
  config.grid.adversaries = ('cnn', 'resnetc20', 'resnet50')
  config.grid.omegas = (0.0, 0.001, 0.004, 0.01, 0.04, 0.1)  # 0: no defense.
  config.grid.balances = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # See nasty.
  config.grid.temperatures = (1.0, 2.0, 4.0, 8.0, 16.0, 20.0)  # tau_S
  config.grid.alphas = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # Weights of the teacher.
  config.grid.fractions = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # Of the thief's data.
  # Theft without data.
  config.grid.data_free_teacher = 'resnet34'  # Normal, and protected.
  config.grid.data_free_student = 'resnet18'  # Of both.
  config.grid.data_free_attacks = ('dafl', 'deep_inversion')

  # The arena: every defense against every attack, by rules that are fixed
  # before the first test number is seen; see undistillable.arena.
  config.arena = ml_collections.ConfigDict()
  # 'name', or with settings that differ from those above, as in
  # 'mad:oracle=argmax' and 'kd:temperature=1.0,alpha=0.1'.
  config.arena.defenses = tuple(defenses.DEFENSES)  # 'none' is always there.
  # Default: all of whoever has own images; of tuned distillation a small grid,
  # since every pair meets every defense.
  config.arena.attacks = tuple(
    f'{name}:temperatures=(1.0,4.0,20.0),alphas=(0.1,0.5,0.9)'
    if name == 'kd_tuned'
    else name
    for name, module in attacks.ATTACKS.items()
    if module.PARENTS
    and registry.declared(module, 'DATA') == 'own'
    and name not in NOT_TRIED
  )
  # Of label smoothing, the control that is as free to choose as a thief is.
  config.arena.epsilons = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9)
  config.arena.margin = 0.5  # Points; a gain below it is none that matters.
  # Attack and control are chosen on the held-out part with these, ...
  config.arena.choose_seeds = (0, 1)
  config.arena.fresh_seeds = (2, 3, 4, 5, 6)  # ... and judged with these.

  known = {**defenses.DEFENSES, **attacks.ATTACKS, **_OWN}
  for module in known.values():
    _add_settings(config, module)
  change_recipe(
    config,
    'dafl',
    epochs=2_000,
    steps_per_epoch=120,
    batch_size=1_024,
    milestones=(800, 1_600),
    warmup_epochs=0,
  )
  # How many epochs, and when the rate falls, follows from its budget.
  change_recipe(config, 'dfme', batch_size=256, warmup_epochs=0)
  change_recipe(config, 'maze', schedule='cosine', warmup_epochs=0)
  # A batch of images each; all of them are saved. As released whoever the
  # student is: 200 epochs after the first images, down to a rate of 2e-4.
  change_recipe(
    config,
    'fast',
    epochs=200,
    steps_per_epoch=1,
    batch_size=256,
    optimizer='sgd',
    learning_rate=0.2,
    momentum=0.9,
    weight_decay=1e-4,
    groups=(),
    schedule='cosine_floor',
    gamma=1e-3,
    warmup_epochs=0,
    checkpoint_every_epochs=20,
  )
  for name in ('deep_inversion', 'adaptive_inversion'):
    change_recipe(
      config,
      name,
      epochs=2_000,  # Updates of each image.
      batch_size=256,
      optimizer='adam',
      learning_rate=0.05,
      weight_decay=0.0,
      schedule='cosine',
      # Here an epoch is one update of each image, and all of them are saved.
      checkpoint_every_epochs=20,
    )
  change_recipe(config, 'made_up', schedule='cosine')
  # One layer learns fast.
  change_recipe(config, 'nasty_head', epochs=30, schedule='cosine')
  # A surrogate of a thief who has just begun.
  change_recipe(config, 'grad2', epochs=10, schedule='constant')
  # Its book is filled in one pass.
  change_recipe(
    config, 'modelguard_s', epochs=1, warmup_epochs=0, augment='none'
  )
  return config


def _add_settings(
  config: ml_collections.ConfigDict, module: ModuleType
) -> None:
  """Gives a config the settings of a method, under its name."""
  name, settings = registry.short(module.__name__), registry.defaults(module)
  types = typing.get_type_hints(module.Settings)
  if settings and name not in config:
    config[name] = {
      key: _placeholder(types[key]) if value is None else value
      for key, value in settings.items()
    }


def change_recipe(
  config: ml_collections.ConfigDict, name: str, **changes: Any
) -> None:
  """Changes fields of the recipe of one model or method, or of 'made_up'."""
  if name not in config.recipes:
    config.recipes[name] = ml_collections.ConfigDict()
  config.recipes[name].update(changes)


def preset(
  config: ml_collections.ConfigDict,
  name: str,
  known: Mapping[str, Any],
) -> ml_collections.ConfigDict:
  """The config with the changes of a preset, of {name: `config -> None`}.

  Raises:
    errors.InputError: there is none of this name.
  """
  errors.check_known('preset', name, known)
  known[name](config)
  return config


# What presets have in common; each function changes a config in place.


def article(config: ml_collections.ConfigDict) -> None:
  """Shows the best epoch on the test set as well, which the article counts."""
  config.recipe.evaluate_every_epochs = 1
  config.recipe.best_on_test = True


def released(config: ml_collections.ConfigDict) -> None:
  """What the released code does otherwise than the article on any data set."""
  article(config)
  teacher = config.teacher.model
  # No teacher-self.
  config.students = tuple(s for s in config.students if s != teacher)
  config.seeds = (0,)  # One run.
  # It picks the best epoch on the test set, which is shown beside the last.
  config.val_fraction = 0.0


def many_classes(config: ml_collections.ConfigDict, omega: float) -> None:
  """What CIFAR-100 and Tiny-ImageNet share; omega is that of all like nasty."""
  config.students = ('mobilenetv2', 'shufflenetv2', 'resnet18')
  config.nasty.omega = config.nasty_head.omega = omega
  config.contrastive.omega = omega
  set_temperature(config, 20.0)
  config.htc.temperature = 70.0
  config.dkd.beta, config.stingy.ratio = 8.0, 0.1
  config.sdb.temperature, config.sdb.weight = 20.0, 0.04  # 16 of tau^2 KL.
  config.dafl.one_hot_weight = 0.5
  config.dafl.entropy_weight = 20.0
  config.dafl.activation_weight = 0.1
  config.recipe.epochs = 200
  config.recipe.milestones = (60, 120, 160)
  config.recipe.gamma = 0.2
  change_recipe(config, 'dafl', gamma=0.1)
  config.arena.margin = 1.0
  config.grid.teachers = ('resnet18', 'resnet50', 'resnext29')
  config.grid.students = ('mobilenetv2', 'shufflenetv2')
  config.grid.adversaries = ('cnn', 'shufflenetv2', 'resnet50')
  config.grid.omegas = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1)


def set_temperature(
  config: ml_collections.ConfigDict, temperature: float
) -> None:
  """Sets tau of nasty, of kd and of all but dist, dkd, htc and sdb."""
  for name in ('nasty', 'nasty_head', 'contrastive'):
    config[name].temperature = temperature
  for name in ('kd', 'averager', 'ensemble', 'mkd', 'scm', 'skeptical'):
    config[name].temperature = temperature


def smoke(config: ml_collections.ConfigDict) -> None:
  """Everything once, on 64 images in a minute; the numbers mean nothing."""
  config.teacher.model = 'resnetc20'  # Compiled in seconds.
  config.students = ('cnn',)
  config.limit = 64
  config.val_fraction = 0.25
  config.seeds = (0,)
  config.recipe.epochs = 1
  config.recipe.batch_size = config.eval_batch_size = 16
  config.recipe.milestones = ()
  config.recipes = ml_collections.ConfigDict()
  config.dfme.budget = 250  # Queries; two steps.
  config.maze.budget = 500  # Alike.
  config.cmim.delay_steps = config.cmim.ramp_steps = 0
  config.skeptical.delay_steps = config.dkd.warmup_steps = 0
  config.max_accuracy_drop = 100.0


def on_two_cores(
  config: ml_collections.ConfigDict, students: tuple[str, ...]
) -> None:
  """Shortens all of CIFAR-10 or CIFAR-100 to what two cores can do.

  The first of the students is that of the grid.
  """
  config.students = students
  config.seeds = (0,)
  for student in students:
    change_recipe(config, student, epochs=10, schedule='cosine')
  # After the students, of whom it may be one: it learns in its own way.
  config.teacher.model = 'airbench94'
  learn_fast(config, 'airbench94', epochs=30)
  config.cmim.delay_steps, config.cmim.ramp_steps = 500, 300  # Of 2,900.
  # Of 3,800; a student of the teacher's own kind takes 2,900.
  config.dkd.warmup_steps = config.skeptical.delay_steps = 400
  config.grid.teachers = ('airbench94',)
  config.grid.students = students[:1]
  config.grid.data_free_teacher = 'airbench94'
  config.grid.data_free_student = 'cnn'
  shorten_data_free(config)


def learn_fast(
  config: ml_collections.ConfigDict, name: str, epochs: int
) -> None:
  """Trains a network of the family `airbench` in its own way, 5 epochs or more.

  Source: Jordan (2024), arXiv:2404.00498, where it is done for 10 epochs.
  """
  change_recipe(
    config,
    name,
    epochs=epochs,
    batch_size=512,
    augment='reflect_crop_flip',
    optimizer='nesterov',
    learning_rate=0.32,
    momentum=0.85,
    weight_decay=3e-3,
    groups=(('norm.*/bias', 64.0, 1 / 64),),
    schedule='linear',
    warmup_epochs=epochs // 5,
  )


def learn_as_model(config: ml_collections.ConfigDict, method: str) -> None:
  """Leaves it to the recipe of his model how the student of a method learns.

  All but how long that is, and that the rate falls to 0 as a cosine.
  """
  recipe = config.recipes[method]
  for field in (
    'gamma',
    'groups',
    'learning_rate',
    'momentum',
    'optimizer',
    'weight_decay',
  ):
    if field in recipe:
      del recipe[field]
  recipe.schedule = 'cosine'


def shorten_data_free(config: ml_collections.ConfigDict) -> None:
  """Shortens the thefts without data to what two cores can do."""
  learn_as_model(config, 'fast')
  config.dafl.generator_width = 32  # Features; a quarter.
  config.dafl.generator_learning_rate = 1e-3
  change_recipe(config, 'dafl', epochs=4, batch_size=64, schedule='constant')
  for name in ('deep_inversion', 'adaptive_inversion'):
    config[name].num_images = 512
    # In a twentieth of the updates, the statistics alone would be matched.
    config[name].batch_norm = 0.3
    change_recipe(
      config,
      name,
      epochs=100,
      batch_size=128,
      learning_rate=0.1,
      warmup_epochs=0,  # And not those of the teacher.
      momentum=0.9,
      checkpoint_every_epochs=1,
    )
  change_recipe(config, 'made_up', epochs=80)


def _placeholder(kind: Any) -> Any:
  """An empty field, of the type that its annotation names beside None."""
  options = [one for one in typing.get_args(kind) if one is not type(None)]
  return config_dict.placeholder(options[0] if options else kind)
