"""The main job on scikit-learn's digits: 1,797 images of 8 x 8 pixels.

  python -m undistillable.main --config=configs/digits.py --workdir=/tmp/digits

24 networks in about 3 minutes on two cores, with no network and no download.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the config; every field can be overridden on the command line."""
  config = ml_collections.ConfigDict()

  # What is learned.
  config.dataset = 'digits'  # A name of data.DATASETS.
  config.data_dir = config_dict.placeholder(str)  # None: tfds' default folder.
  config.normalization = 'digits'  # Whose channel means and deviations.
  config.val_fraction = 0.1  # Share of the training set held out.
  config.limit = config_dict.placeholder(int)  # Examples a split; None: all.

  # Who takes part; names of models.MODELS.
  config.teacher = ml_collections.ConfigDict()
  config.teacher.model = 'resnetc8'  # And 8 layers are enough here.
  # A .safetensors or PyTorch file: the normal teacher, trained elsewhere.
  config.teacher.init_from = config_dict.placeholder(str)
  config.adversary = ml_collections.ConfigDict()
  # None: the normal teacher is the adversary ("self-undermining").
  config.adversary.model = config_dict.placeholder(str)
  config.adversary.init_from = config_dict.placeholder(str)  # As above.
  config.students = ('cnn8', 'cnn16')  # With 8 and 16 features.
  config.seeds = (0, 1, 2)  # Each trains all networks anew.

  # How the owner protects the teacher.
  config.defense = ml_collections.ConfigDict()
  config.defense.name = 'nasty'  # A name of defenses.DEFENSES.
  config.defense.omega = 0.05  # Weight of the divergence.
  config.defense.temperature = 8.0  # tau_A
  config.max_accuracy_drop = 20.0  # Points; a teacher that loses more stops it.

  # How the thief learns.
  config.attack = ml_collections.ConfigDict()
  config.attack.name = 'kd'  # A name of attacks.ATTACKS.
  config.attack.temperature = 8.0  # tau_S
  config.attack.alpha = 0.9  # Weight of the teacher against the labels.
  config.fraction = 1.0  # Share of the training set that the thief has.

  # How every network is trained.
  config.recipe = ml_collections.ConfigDict()
  config.recipe.epochs = 30  # Passes over the training set.
  config.recipe.batch_size = 64  # Over all devices.
  config.recipe.augment = 'none'  # A name of augment.AUGMENTATIONS.
  config.recipe.optimizer = 'sgd'  # A name of optimizers.OPTIMIZERS.
  config.recipe.learning_rate = 0.1  # The highest one.
  config.recipe.momentum = 0.9  # Of SGD; beta_1 of Adam.
  config.recipe.weight_decay = 5e-4  # Of every parameter, as in PyTorch.
  config.recipe.schedule = 'cosine'  # A name of optimizers.SCHEDULES.
  config.recipe.milestones = ()  # Epochs, for the schedule 'step'.
  config.recipe.gamma = 0.1  # Factor at each milestone.
  config.recipe.warmup_epochs = 0  # Linear rise from 0.
  config.recipe.evaluate_every_epochs = 2  # On the held-out part.
  # The article's way: the best epoch on the test set is shown beside the last.
  config.recipe.best_on_test = False
  config.recipe.checkpoint_every_epochs = 1  # What a crash can cost at most.

  # What is changed for single models.
  config.recipes = ml_collections.ConfigDict()
  for student in config.students:
    config.recipes[student] = ml_collections.ConfigDict()
    config.recipes[student].optimizer = 'adam'  # As the article's CNN.
    config.recipes[student].learning_rate = 1e-3  # Also its.
    config.recipes[student].weight_decay = 0.0  # Adam has none there.

  # None: float32 on a CPU, bfloat16 (with float32 parameters) elsewhere.
  config.dtype = config_dict.placeholder(str)  # 'float32' or 'bfloat16'.
  config.eval_batch_size = 256  # Over all devices; bounds the memory only.
  # At most so many networks of the same seed and frozen parents in one step.
  config.together = 4
  config.progress = True  # A progress bar.

  # What the experiments of the article vary, one at a time.
  config.grid = ml_collections.ConfigDict()
  config.grid.teachers = ('resnetc8',)  # Of its table.
  config.grid.students = ('cnn8', 'cnn16')  # Of the others.
  # Than the teacher.
  config.grid.stronger_students = ('resnetc14', 'resnetc20')
  # Besides the teacher's own kind.
  config.grid.adversaries = ('cnn8', 'resnetc14')
  config.grid.omegas = (0.0, 0.005, 0.02, 0.05, 0.1)  # 0: no defense.
  config.grid.temperatures = (1.0, 2.0, 4.0, 8.0, 20.0)  # tau_S
  config.grid.alphas = (0.1, 0.3, 0.6, 0.9, 1.0)  # Weights of the teacher.
  config.grid.fractions = (0.1, 0.25, 0.5, 1.0)  # Of the thief's data.

  # Theft without data; see experiments/data_free.py.
  config.data_free = ml_collections.ConfigDict()
  config.data_free.teacher = 'resnetc8'  # Normal, and protected.
  config.data_free.student = 'cnn16'  # Of both.
  # Names of attacks.ATTACKS; adaptive_inversion is a third.
  config.data_free.thefts = ('dafl', 'deep_inversion')
  config.dafl = ml_collections.ConfigDict()
  config.dafl.preset = 'digits'  # A name of attacks.dafl.PRESETS.
  config.dafl.settings = ml_collections.ConfigDict()  # What differs from it.
  config.dafl.settings.generator_learning_rate = 3e-4  # Of Adam.
  config.dafl.settings.student_steps = 1  # For each of the generator.
  config.dafl.recipe = ml_collections.ConfigDict()  # What differs from recipe.
  config.dafl.recipe.epochs = 10  # Of steps_per_epoch each.
  config.dafl.recipe.steps_per_epoch = 100  # There is no data to count by.
  config.dafl.recipe.batch_size = 128  # Over all devices.
  config.deep_inversion = ml_collections.ConfigDict()
  config.deep_inversion.preset = 'digits'  # Likewise.
  config.deep_inversion.settings = ml_collections.ConfigDict()
  config.deep_inversion.settings.num_images = 1_000  # To make up.
  config.deep_inversion.recipe = ml_collections.ConfigDict()  # Of the images.
  config.deep_inversion.recipe.epochs = 200  # Updates of each image.
  config.deep_inversion.recipe.batch_size = 250  # Over all devices.
  config.deep_inversion.recipe.optimizer = 'adam'  # Of the images.
  config.deep_inversion.recipe.learning_rate = 0.1  # The highest one.
  config.deep_inversion.recipe.weight_decay = 0.0  # None.
  config.deep_inversion.recipe.schedule = 'cosine'  # Of theirs.
  config.deep_inversion.temperature = 8.0  # Of the student.
  config.deep_inversion.alpha = 0.9  # Weight of the teacher.
  config.deep_inversion.student_recipe = ml_collections.ConfigDict()
  config.deep_inversion.student_recipe.epochs = 100  # Passes over the images.
  config.deep_inversion.student_recipe.learning_rate = 3e-3  # Of Adam.
  return config
