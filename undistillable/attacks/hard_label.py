"""Hard labels: the student learns the teacher's top class and nothing else."""

import dataclasses

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, oracle

PARENTS = ('teacher',)
ACCESS = 'labels'


@dataclasses.dataclass(frozen=True)
class Settings:
  """There is nothing to set."""


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Trains a student on the top classes that a teacher answers.

  Equation: `CE(S(x), argmax T(x))`; of equal scores the first. A defense that
  keeps the top class cannot be told from none here. No labels of a batch are
  read; metric `accuracy` is the percentage of images on which the student
  agrees with the teacher.

  Source: Papernot et al. (2017), arXiv:1602.02697.
  """
  del settings

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    labels = seen.answers['teacher']
    agrees = seen.logits.argmax(-1) == labels
    loss = losses.cross_entropy(seen.logits, labels)
    return loss, {'accuracy': 100.0 * agrees}

  teacher = oracle.as_oracle(parents['teacher'])
  return method.supervised(
    model, optimizer, loss_fn, answer_fns={'teacher': teacher.labels}
  )
