"""DeepInversion: images from the weights of a network, without any data.

The images train a student in a run of its own, with `kd`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import optax

from undistillable import method
from undistillable.attacks import inversion

PARENTS = ('teacher',)
DATA_FREE = True
SYNTHESIZES = True

PRESETS: dict[str, dict[str, Any]] = {
  # The paper's command in the released code: batches of 256, 2,000 updates of
  # each image by Adam at 0.05.
  'cifar10': {
    'cross_entropy': 1.0,
    'total_variation': 2.5e-5,
    'l2': 0.0,
    'batch_norm': 10.0,
    'jitter': 2,
    'flip': False,
  },
  # 1,000 images in batches of 250, 200 updates of each by Adam at 0.1 with a
  # cosine schedule. A digit that is rolled around the edge of 8 x 8 pixels is
  # none, and a mirrored one neither.
  'digits': {
    'cross_entropy': 1.0,
    'total_variation': 2.5e-5,
    'l2': 0.0,
    'batch_norm': 1.0,
    'jitter': 0,
    'flip': False,
  },
}


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  teacher: nn.Module,
  num_images: int,
  low: Sequence[float],
  high: Sequence[float],
  cross_entropy: float = 1.0,
  total_variation: float,
  l2: float,
  batch_norm: float,
  jitter: int,
  flip: bool,
) -> method.Method:
  """Synthesises images that a teacher takes for its training data.

  Equation: `w CE(T(x), y) + a_tv TV(x) + a_l2 ||x|| + a_f sum_l (||mu_l(x) -
  mu_l|| + ||sigma^2_l(x) - sigma^2_l||)`, over the BatchNorm layers l of T.

  Args:
    model: not used; what is trained are the images.
    optimizer: an optax transformation of one image; its schedule counts
      epochs, as every image is updated once in each.
    teacher: the teacher's module; its variables are frozen['teacher'].
    num_images: N, with as many of each class as can be.
    low: least value of each channel, as the teacher sees it.
    high: largest value of each channel, likewise.
    cross_entropy: w, weight of the labels.
    total_variation: a_tv, weight of the differences between neighbours.
    l2: a_l2, weight of the norm of the batch.
    batch_norm: a_f, weight of the distance to the teacher's statistics.
    jitter: pixels; a step rolls its images by up to as many.
    flip: whether a step mirrors its images with probability 1/2.

  Returns:
    The method; see `inversion.images_method`.

  Raises:
    ValueError: an impossible setting.

  Source: Yin et al. (2020), arXiv:1912.08795, section 3.2.
  """
  del model
  return inversion.images_method(
    optimizer,
    teacher=teacher,
    num_images=num_images,
    low=low,
    high=high,
    jitter=jitter,
    flip=flip,
    weights={
      'cross_entropy': cross_entropy,
      'total_variation': total_variation,
      'l2': l2,
      'batch_norm': batch_norm,
    },
    terms_fn=lambda *_: {},
  )
