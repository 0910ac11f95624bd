"""Adaptive DeepInversion: images on which a student still errs.

The student was trained on images of DeepInversion before and is frozen here;
it goes on with these images in a run of its own, with `kd`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import deep_inversion

PARENTS = ('teacher', 'student')
ACCESS = 'weights'
DATA = 'none'

updates_per_epoch = deep_inversion.updates_per_epoch
judge = deep_inversion.judge
watch = deep_inversion.watch

# Of both softmaxes in the divergence, as released.
TEMPERATURE = 3.0


@dataclasses.dataclass(frozen=True)
class Settings(deep_inversion.Settings):
  """Those of DeepInversion, and one more.

  Attributes:
    competition: a_c, weight of the agreement of teacher and student. The
      default is ours: the released CIFAR-10 code leaves it at 0.
  """

  competition: float = 1.0

  @property
  def weights(self) -> dict[str, float]:
    """Of the terms of the loss."""
    return super().weights | {'competition': self.competition}


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """DeepInversion; then images that the student errs on, and one of all."""
  before = deep_inversion.plan(job, teacher, student)
  parents = {'teacher': teacher, 'student': before[-1]}
  images = job.images('adaptive_inversion', parents)
  return [*before, images, job.student_of_images(student, teacher, images)]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Synthesises images on which a teacher and a student disagree.

  Equation: that of DeepInversion, and `a_c (1 - JS(T(x), S(x)))`. The released
  code puts other divergences, KL(M || T) and KL(M || S) to the mean M, and
  clamped probabilities in the place of the paper's JS, which is taken here.

  The other parent is 'student', a module, or an oracle that has it; the rest is
  as of `deep_inversion.make`. Metric `competition` is 1 - JS, with JS in nats
  at temperature 3.

  Source: Yin et al. (2020), arXiv:1912.08795, section 3.3.
  """
  student = oracle.open_module(parents['student'])

  def terms_fn(
    frozen: method.Frozen, image: jax.Array, teacher_logits: jax.Array
  ) -> method.Metrics:
    variables = jax.lax.stop_gradient(frozen['student'])
    student_logits: Any = student.apply(variables, image, train=False)
    divergence = losses.jensen_shannon(
      teacher_logits, student_logits, temperature=TEMPERATURE
    )
    return {'competition': 1.0 - divergence}

  return deep_inversion.make(model, optimizer, settings, parents, terms_fn)
