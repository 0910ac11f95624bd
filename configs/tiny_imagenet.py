"""Tiny-ImageNet as in Ma et al. (2021): a nasty ResNet-18, three students.

  python -m undistillable.data prepare tiny_imagenet
  python -m undistillable.main --config=configs/tiny_imagenet.py

100,000 training and 10,000 test images of 64 x 64 pixels, 200 classes. Meant
for a GPU or a TPU: 33 networks of 200 epochs. The article reports a nasty
teacher within 2 points of the normal one. Presets, as in
--config=configs/tiny_imagenet.py:smoke: article (default), released (its code),
smoke (with a ResNeXt-29 teacher, some minutes on two cores).
"""

import ml_collections

from undistillable import config as config_lib


def get_config(preset: str = 'article') -> ml_collections.ConfigDict:
  """Returns the config; every field can be overridden on the command line."""
  config = config_lib.base()
  config.dataset = config.normalization = 'tiny_imagenet'
  config_lib.many_classes(config, omega=0.01)  # The released code agrees.
  config.reverse_sigmoid.beta = 0.008
  config.adaptive_misinformation.tau = 0.25
  # 5 and 20 of 200 epochs.
  config.cmim.delay_steps, config.cmim.ramp_steps = 4_000, 15_000
  config.mkd.rank = 5
  for name in ('deep_inversion', 'adaptive_inversion'):
    config[name].num_images = 100_000
  config.recipe.augment = 'rotate_flip'
  return config_lib.preset(config, preset, PRESETS)


def _smoke(config: ml_collections.ConfigDict) -> None:
  """Everything once, in some minutes; the numbers mean nothing."""
  config_lib.smoke(config)
  config.teacher.model = 'resnext29'  # The heaviest of the grid.
  config.limit, config.val_fraction = 16, 0.0
  config.students = ('mobilenetv2',)
  config.recipe.batch_size = config.eval_batch_size = 4


PRESETS = {
  'article': config_lib.article,
  # Of the official val/ folder the released loader sees one class, ours all.
  'released': config_lib.released,
  'smoke': _smoke,
}
