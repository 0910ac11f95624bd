"""CIFAR-100 as in Ma et al. (2021): a nasty ResNet-18 and three students.

  python -m undistillable.main --config=configs/cifar100.py \
    --config.data_dir=../shared/data/tfds --workdir=/tmp/cifar100

50,000 training and 10,000 test images of 32 x 32 pixels, 100 classes. Meant for
a GPU or a TPU: 33 networks of 200 epochs. The article reports a nasty teacher
within 2 points of the normal one. Presets, as in
--config=configs/cifar100.py:released: article (default), released (its code),
fast (the whole data set on two cores), smoke (a minute).
"""

import ml_collections

from undistillable import config as config_lib


def get_config(preset: str = 'article') -> ml_collections.ConfigDict:
  """Returns the config; every field can be overridden on the command line."""
  config = config_lib.base()
  config.dataset = config.normalization = 'cifar100'
  config.transfer = 'cifar10'
  config.students = ('mobilenetv2', 'shufflenetv2', 'resnet18')
  # The released code agrees.
  config.nasty.omega = config.nasty_head.omega = 0.005
  config.nasty.temperature = config.nasty_head.temperature = 20.0
  config.kd.temperature = 20.0
  config.dkd.beta, config.stingy.ratio = 8.0, 0.1
  config.reverse_sigmoid.beta = 0.02
  config.adaptive_misinformation.tau = 0.4
  config.sdb.temperature, config.sdb.weight = 20.0, 0.04  # 16 of tau^2 KL.
  config.averager.temperature = config.skeptical.temperature = 20.0
  config.mkd.temperature, config.htc.temperature = 20.0, 70.0
  config.contrastive.omega, config.contrastive.temperature = 0.005, 20.0
  config.scm.temperature = config.ensemble.temperature = 20.0
  config.dafl.one_hot_weight = 0.5
  config.dafl.entropy_weight = 20.0
  config.dafl.activation_weight = 0.1
  config.recipe.epochs = 200
  config.recipe.milestones = (60, 120, 160)
  config.recipe.gamma = 0.2
  config_lib.change_recipe(config, 'dafl', gamma=0.1)
  config.arena.margin = 1.0
  config.grid.teachers = ('resnet18', 'resnet50', 'resnext29')
  config.grid.students = ('mobilenetv2', 'shufflenetv2')
  config.grid.adversaries = ('cnn', 'shufflenetv2', 'resnet50')
  config.grid.omegas = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1)
  return config_lib.preset(config, preset, PRESETS)


def _released(config: ml_collections.ConfigDict) -> None:
  """The settings of the released code, where they differ from the article's."""
  config_lib.article(config)
  config.normalization = 'cifar10'  # Its loader has CIFAR-10's constants.
  config.students = ('mobilenetv2', 'shufflenetv2')  # No teacher-self.
  config.seeds = (0,)  # One run.
  config.val_fraction = 0.0  # The best epoch on the test set is reported.


def _smoke(config: ml_collections.ConfigDict) -> None:
  """Everything once, in a minute or so; the numbers mean nothing."""
  config_lib.smoke(config)
  config.teacher.model = 'resnetc20'  # Compiled in seconds.
  config.students = ('cnn',)


def _fast(config: ml_collections.ConfigDict) -> None:
  """The whole data set on two cores, with a teacher that learns fast."""
  config.teacher.model = 'airbench94'
  config.students = ('mobilenetv2', 'shufflenetv2')
  config.seeds = (0,)
  # With the article's 0.005 the teacher stays beside its adversary, who is less
  # sure of its training images after 30 epochs than after the article's 200.
  config.nasty.omega = config.nasty_head.omega = 0.05
  config_lib.learn_fast(config, 'airbench94', epochs=30)
  config.recipes.airbench94.weight_decay = 1e-3  # More is not tried here.
  config.cmim.delay_steps, config.cmim.ramp_steps = 500, 300  # Of 2,900.
  # Of 3,800; a student of the teacher's own kind takes 2,900.
  config.dkd.warmup_steps = config.skeptical.delay_steps = 400
  for student in config.students:
    config_lib.change_recipe(config, student, epochs=10, schedule='cosine')
  config.grid.teachers = ('airbench94',)
  config.grid.students = ('mobilenetv2',)
  config.grid.omegas = (0.005, 0.01, 0.05)
  config.grid.data_free_teacher = 'airbench94'
  config.grid.data_free_student = 'cnn'
  config_lib.shorten_data_free(config)


PRESETS = {
  'article': config_lib.article,
  'released': _released,
  'fast': _fast,
  'smoke': _smoke,
}
