"""CIFAR-100 as in Ma et al. (2021): a nasty ResNet-18 and three students.

  python -m undistillable.main --config=configs/cifar100.py \
    --config.data_dir=../shared/data/tfds --workdir=/tmp/cifar100

50,000 training and 10,000 test images of 32 x 32 pixels, 100 classes. Meant for
a GPU or a TPU: 33 networks of 200 epochs. The article reports a nasty teacher
within 2 points of the normal one. Presets, as in
--config=configs/cifar100.py:released: article (default), released (its code),
cpu (shortened for two cores), smoke (a minute).
"""

import ml_collections
from ml_collections import config_dict


def get_config(preset: str = 'article') -> ml_collections.ConfigDict:
  """Returns the config; every field can be overridden on the command line."""
  if preset not in PRESETS:
    raise ValueError(f'unknown preset {preset!r}; known: {", ".join(PRESETS)}')
  config = ml_collections.ConfigDict()

  # What is learned.
  config.dataset = 'cifar100'  # A name of data.DATASETS.
  config.data_dir = config_dict.placeholder(str)  # None: tfds' default folder.
  config.normalization = 'cifar100'  # Whose channel means and deviations.
  config.val_fraction = 0.02  # Share of the training set held out.
  config.limit = config_dict.placeholder(int)  # Examples a split; None: all.

  # Who takes part; names of models.MODELS.
  config.teacher = ml_collections.ConfigDict()
  config.teacher.model = 'resnet18'  # CIFAR's, with a 3 x 3 stem.
  # A .safetensors or PyTorch file: the normal teacher, trained elsewhere.
  config.teacher.init_from = config_dict.placeholder(str)
  config.adversary = ml_collections.ConfigDict()
  # None: the normal teacher is the adversary ("self-undermining").
  config.adversary.model = config_dict.placeholder(str)
  config.adversary.init_from = config_dict.placeholder(str)  # As above.
  config.students = ('mobilenetv2', 'shufflenetv2', 'resnet18')
  config.seeds = (0, 1, 2)  # Each trains all networks anew.

  # How the owner protects the teacher.
  config.defense = ml_collections.ConfigDict()
  config.defense.name = 'nasty'  # A name of defenses.DEFENSES.
  config.defense.omega = 0.005  # The released code agrees.
  config.defense.temperature = 20.0  # tau_A
  config.max_accuracy_drop = 20.0  # Points; a teacher that loses more stops it.

  # How the thief learns.
  config.attack = ml_collections.ConfigDict()
  config.attack.name = 'kd'  # A name of attacks.ATTACKS.
  config.attack.temperature = 20.0  # tau_S
  config.attack.alpha = 0.9  # Weight of the teacher against the labels.
  config.fraction = 1.0  # Share of the training set that the thief has.

  # How every network is trained.
  config.recipe = ml_collections.ConfigDict()
  config.recipe.epochs = 200  # Passes over the training set.
  config.recipe.batch_size = 128  # Over all devices.
  config.recipe.augment = 'pad_crop_flip'  # A name of augment.AUGMENTATIONS.
  config.recipe.optimizer = 'sgd'  # A name of optimizers.OPTIMIZERS.
  config.recipe.learning_rate = 0.1  # The highest one.
  config.recipe.momentum = 0.9  # Of SGD; beta_1 of Adam.
  config.recipe.weight_decay = 5e-4  # Of every parameter, as in PyTorch.
  config.recipe.schedule = 'step'  # A name of optimizers.SCHEDULES.
  config.recipe.milestones = (60, 120, 160)  # Epochs, for the schedule 'step'.
  config.recipe.gamma = 0.2  # Factor at each milestone.
  config.recipe.warmup_epochs = 0  # Linear rise from 0.
  config.recipe.evaluate_every_epochs = 5  # On the held-out part.
  # The article's way: the best epoch on the test set is shown beside the last.
  config.recipe.best_on_test = False
  config.recipe.checkpoint_every_epochs = 1  # What a crash can cost at most.

  # What is changed for single models: config.recipes.cnn = {'epochs': 100}.
  config.recipes = ml_collections.ConfigDict()

  # None: float32 on a CPU, bfloat16 (with float32 parameters) elsewhere.
  config.dtype = config_dict.placeholder(str)  # 'float32' or 'bfloat16'.
  config.eval_batch_size = 256  # Over all devices; bounds the memory only.
  # At most so many networks of the same seed and frozen parents in one step.
  config.together = 4
  config.progress = True  # A progress bar.

  # What the experiments of the article vary, one at a time.
  config.grid = ml_collections.ConfigDict()
  config.grid.teachers = ('resnet18', 'resnet50', 'resnext29')  # Of its table.
  config.grid.students = ('mobilenetv2', 'shufflenetv2')  # Of the others.
  config.grid.stronger_students = ('resnet34', 'resnet50')  # Than the teacher.
  # Besides the teacher's own kind.
  config.grid.adversaries = ('cnn', 'shufflenetv2', 'resnet50')
  config.grid.omegas = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1)  # 0: no defense.
  config.grid.temperatures = (1.0, 2.0, 4.0, 8.0, 16.0, 20.0)  # tau_S
  config.grid.alphas = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # Weights of the teacher.
  config.grid.fractions = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # Of the thief's data.

  # Theft without data; see experiments/data_free.py.
  config.data_free = ml_collections.ConfigDict()
  config.data_free.teacher = 'resnet34'  # Normal, and protected.
  config.data_free.student = 'resnet18'  # Of both.
  # Names of attacks.ATTACKS; adaptive_inversion is a third.
  config.data_free.thefts = ('dafl', 'deep_inversion')
  config.dafl = ml_collections.ConfigDict()
  config.dafl.preset = 'cifar100'  # A name of attacks.dafl.PRESETS.
  config.dafl.settings = ml_collections.ConfigDict()  # What differs from it.
  config.dafl.settings.generator_learning_rate = 0.02  # Of Adam.
  config.dafl.settings.student_steps = 1  # For each of the generator.
  config.dafl.recipe = ml_collections.ConfigDict()  # What differs from recipe.
  config.dafl.recipe.epochs = 2_000  # Of steps_per_epoch each.
  config.dafl.recipe.steps_per_epoch = 120  # There is no data to count by.
  config.dafl.recipe.batch_size = 1_024  # Over all devices.
  config.dafl.recipe.schedule = 'step'  # As released.
  config.dafl.recipe.milestones = (800, 1_600)  # Epochs.
  config.dafl.recipe.gamma = 0.1  # Factor at each milestone.
  config.deep_inversion = ml_collections.ConfigDict()
  config.deep_inversion.preset = 'cifar10'  # Likewise.
  config.deep_inversion.settings = ml_collections.ConfigDict()
  config.deep_inversion.settings.num_images = 50_000  # To make up.
  config.deep_inversion.recipe = ml_collections.ConfigDict()  # Of the images.
  config.deep_inversion.recipe.epochs = 2_000  # Updates of each image.
  config.deep_inversion.recipe.batch_size = 256  # Over all devices.
  config.deep_inversion.recipe.optimizer = 'adam'  # Of the images.
  config.deep_inversion.recipe.learning_rate = 0.05  # The highest one.
  config.deep_inversion.recipe.weight_decay = 0.0  # None.
  config.deep_inversion.recipe.schedule = 'cosine'  # Of theirs.
  # Here an epoch is one update of each image, and all of them are saved.
  config.deep_inversion.recipe.checkpoint_every_epochs = 20
  config.deep_inversion.temperature = 20.0  # Of the student.
  config.deep_inversion.alpha = 0.9  # Weight of the teacher.
  config.deep_inversion.student_recipe = ml_collections.ConfigDict()
  config.deep_inversion.student_recipe.schedule = 'cosine'  # Of theirs.

  return PRESETS[preset](config)


def _article(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The settings that the article prints."""
  config.recipe.evaluate_every_epochs = 1
  config.recipe.best_on_test = True
  return config


def _released(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The settings of the released code, where they differ from the article's."""
  config = _article(config)
  config.normalization = 'cifar10'  # Its loader has CIFAR-10's constants.
  config.students = ('mobilenetv2', 'shufflenetv2')  # No teacher-self.
  config.seeds = (0,)  # One run.
  config.val_fraction = (
    0.0  # The best epoch on the test set is what it reports.
  )
  return config


def _smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Everything once, in a minute or so; the numbers mean nothing."""
  config.teacher.model = 'resnetc20'  # Compiled in seconds.
  config.limit = 64
  config.val_fraction = 0.25
  config.students = ('cnn',)
  config.seeds = (0,)
  config.recipe.epochs = 1
  config.recipe.batch_size = 16
  config.recipe.milestones = ()
  config.recipes = ml_collections.ConfigDict()
  config.max_accuracy_drop = 100.0
  config.eval_batch_size = 16
  return config


def _cpu(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """What two cores can do: small networks that learn few images by heart.

  A nasty teacher differs from a normal one when its cross entropy is near zero.
  """
  config.limit = 2_000
  config.teacher.model = 'cnn'  # Knows them after 10 epochs of Adam.
  config.students = ('mobilenetv2', 'shufflenetv2')
  config.seeds = (0,)
  config.defense.omega = 0.05
  config.recipe.epochs = 20  # A MobileNetV2 takes about a minute for each.
  config.recipe.batch_size = 32
  config.recipe.augment = 'none'
  config.recipe.optimizer = 'adam'
  config.recipe.learning_rate = 1e-3
  config.recipe.weight_decay = 0.0
  config.recipe.schedule = 'cosine'
  config.recipe.milestones = ()
  config.recipe.evaluate_every_epochs = 5
  config.recipes.cnn = ml_collections.ConfigDict()
  # A constant rate: the nasty one moves away in the last epochs.
  config.recipes.cnn.schedule = 'constant'
  config.grid.teachers = ('cnn',)
  config.grid.students = ('shufflenetv2',)
  config.data_free.teacher = 'cnn'
  config.data_free.student = 'cnn8'
  config.dafl.settings.generator_width = 32  # Features; a quarter.
  config.dafl.settings.generator_learning_rate = 1e-3
  config.dafl.recipe.epochs = 4
  config.dafl.recipe.batch_size = 64
  config.dafl.recipe.schedule = 'constant'
  config.deep_inversion.settings.num_images = 512  # To make up.
  # In a twentieth of the updates, the statistics alone would be matched.
  config.deep_inversion.settings.batch_norm = 0.3
  config.deep_inversion.recipe.epochs = 100
  config.deep_inversion.recipe.batch_size = 128
  config.deep_inversion.recipe.checkpoint_every_epochs = 1
  config.deep_inversion.recipe.learning_rate = 0.1
  config.deep_inversion.student_recipe.epochs = 80
  return config


PRESETS = {
  'article': _article,
  'released': _released,
  'cpu': _cpu,
  'smoke': _smoke,
}
