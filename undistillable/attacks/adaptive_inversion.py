"""Adaptive DeepInversion: images on which a student still errs.

The student was trained on images of DeepInversion before and is frozen here;
it goes on with these images in a run of its own, with `kd`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import optax

from undistillable import losses, method
from undistillable.attacks import deep_inversion, inversion

PARENTS = ('teacher', 'student')
DATA_FREE = True
SYNTHESIZES = True

# Of both softmaxes in the divergence, as released.
TEMPERATURE = 3.0

# The weight is ours: the released CIFAR-10 code leaves it at 0.
PRESETS: dict[str, dict[str, Any]] = {
  name: {**preset, 'competition': 1.0}
  for name, preset in deep_inversion.PRESETS.items()
}


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  teacher: nn.Module,
  student: nn.Module,
  num_images: int,
  low: Sequence[float],
  high: Sequence[float],
  cross_entropy: float = 1.0,
  total_variation: float,
  l2: float,
  batch_norm: float,
  competition: float,
  jitter: int,
  flip: bool,
) -> method.Method:
  """Synthesises images on which a teacher and a student disagree.

  Equation: that of DeepInversion, and `a_c (1 - JS(T(x), S(x)))`. The released
  code puts other divergences, KL(M || T) and KL(M || S) to the mean M, and
  clamped probabilities in the place of the paper's JS, which is taken here.

  Args:
    model: not used; what is trained are the images.
    optimizer: as in `deep_inversion.make`.
    teacher: the teacher's module; its variables are frozen['teacher'].
    student: the student's module; its variables are frozen['student'].
    num_images: as there, and so are the next seven.
    low: least value of each channel.
    high: largest value of each channel.
    cross_entropy: w.
    total_variation: a_tv.
    l2: a_l2.
    batch_norm: a_f, of the teacher's layers.
    competition: a_c, weight of the agreement of teacher and student.
    jitter: pixels.
    flip: whether a step mirrors its images with probability 1/2.

  Returns:
    The method; see `inversion.images_method`. Metric `competition` is
    1 - JS, with JS in nats at temperature 3.

  Raises:
    ValueError: an impossible setting.

  Source: Yin et al. (2020), arXiv:1912.08795, section 3.3.
  """
  del model

  def terms_fn(
    frozen: method.Frozen, image: jax.Array, teacher_logits: jax.Array
  ) -> method.Metrics:
    variables = jax.lax.stop_gradient(frozen['student'])
    student_logits: Any = student.apply(variables, image, train=False)
    divergence = losses.jensen_shannon(
      teacher_logits, student_logits, temperature=TEMPERATURE
    )
    return {'competition': 1.0 - divergence}

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
      'competition': competition,
    },
    terms_fn=terms_fn,
  )
