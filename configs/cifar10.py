"""CIFAR-10 as in Ma et al. (2021): a nasty ResNet-18 and four students.

  python -m undistillable.main --config=configs/cifar10.py \
    --config.data_dir=../shared/data/tfds --workdir=/tmp/cifar10

The data are 50,000 training and 10,000 test images of 32 x 32 pixels. Meant for
a GPU or a TPU: 42 networks of 100 to 160 epochs. The article reports
a nasty teacher within 2 points of the normal one.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the config; every field can be overridden on the command line."""
  config = ml_collections.ConfigDict()

  # What is learned.
  config.dataset = 'cifar10'  # A name of data.DATASETS.
  config.data_dir = config_dict.placeholder(str)  # None: tfds' default folder.
  config.normalization = 'cifar10'  # Whose channel means and deviations.
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
  config.students = (
    'cnn',
    'resnetc20',
    'resnetc32',
    'resnet18',
  )  # Weak to self.
  config.seeds = (0, 1, 2)  # Each trains all networks anew.

  # How the owner protects the teacher.
  config.defense = ml_collections.ConfigDict()
  config.defense.name = 'nasty'  # A name of defenses.DEFENSES.
  config.defense.omega = 0.004  # The article's; its released code has 0.04.
  config.defense.temperature = 4.0  # tau_A
  config.max_accuracy_drop = 20.0  # Points; a teacher that loses more stops it.

  # How the thief learns.
  config.attack = ml_collections.ConfigDict()
  config.attack.name = 'kd'  # A name of attacks.ATTACKS.
  config.attack.temperature = 4.0  # tau_S
  config.attack.alpha = 0.9  # Weight of the teacher against the labels.
  config.fraction = 1.0  # Share of the training set that the thief has.

  # How every network is trained.
  config.recipe = ml_collections.ConfigDict()
  config.recipe.epochs = 160  # Passes over the training set.
  config.recipe.batch_size = 128  # Over all devices.
  config.recipe.augment = 'pad_crop_flip'  # A name of augment.AUGMENTATIONS.
  config.recipe.optimizer = 'sgd'  # A name of optimizers.OPTIMIZERS.
  config.recipe.learning_rate = 0.1  # The highest one.
  config.recipe.momentum = 0.9  # Of SGD; beta_1 of Adam.
  config.recipe.weight_decay = 5e-4  # Of every parameter, as in PyTorch.
  config.recipe.schedule = 'step'  # A name of optimizers.SCHEDULES.
  config.recipe.milestones = (80, 120)  # Epochs, for the schedule 'step'.
  config.recipe.gamma = 0.1  # Factor at each milestone.
  config.recipe.warmup_epochs = 0  # Linear rise from 0.
  config.recipe.evaluate_every_epochs = 5  # On the held-out part.
  config.recipe.checkpoint_every_epochs = 10  # What a crash can cost at most.

  # What is changed for single models.
  config.recipes = ml_collections.ConfigDict()
  config.recipes.cnn = ml_collections.ConfigDict()
  config.recipes.cnn.epochs = 100  # The 5-layer CNN learns with Adam.
  config.recipes.cnn.optimizer = 'adam'  # Also in the released code.
  config.recipes.cnn.learning_rate = 1e-3  # Constant throughout.
  config.recipes.cnn.weight_decay = 0.0  # Adam has none there.
  config.recipes.cnn.schedule = 'constant'  # Its milestone is epoch 999.

  # None: float32 on a CPU, bfloat16 (with float32 parameters) elsewhere.
  config.dtype = config_dict.placeholder(str)  # 'float32' or 'bfloat16'.
  config.progress = True  # A progress bar.
  return config
