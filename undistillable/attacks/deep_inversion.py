"""DeepInversion: images from the weights of a network, without any data.

The images train a student in a run of its own, with `kd`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import optax

from undistillable import method, oracle
from undistillable.attacks import inversion, synthesis

PARENTS = ('teacher',)
ACCESS = 'weights'
DATA = 'none'

Settings = inversion.Settings


# Every image counts its own updates, one an epoch.
updates_per_epoch = inversion.updates_per_epoch
judge = synthesis.judge
watch = synthesis.watch


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """The images of a teacher, and a student of its answers to them."""
  images = job.images('deep_inversion', {'teacher': teacher})
  return [images, job.student_of_images(student, teacher, images)]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, oracle.Oracle | nn.Module],
) -> method.Method:
  """Synthesises images that a teacher takes for its training data.

  Equation: `w CE(T(x), y) + a_tv TV(x) + a_l2 ||x|| + a_f sum_l (||mu_l(x) -
  mu_l|| + ||sigma^2_l(x) - sigma^2_l||)`, over the BatchNorm layers l of T.

  Args:
    model: not used; what is trained are the images.
    optimizer: an optax transformation of one image; its schedule counts
      epochs, as every image is updated once in each.
    settings: see there.
    parents: 'teacher', its module, or an oracle that has it; its variables
      are frozen['teacher'].

  Returns:
    The method; see `inversion.images_method`.

  Raises:
    ValueError: the weights of the teacher are not known.

  Source: Yin et al. (2020), arXiv:1912.08795, section 3.2.
  """
  del model
  teacher = oracle.open_module(parents['teacher'])
  return inversion.images_method(
    optimizer, teacher, settings, terms_fn=lambda *_: {}
  )
