"""Knockoff nets: the student learns the answers to other people's images."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle

PARENTS = ('teacher',)
DATA = 'foreign'


@dataclasses.dataclass(frozen=True)
class Settings:
  """What of the answers is learned.

  Attributes:
    targets: 'scores', or 'top': the answers' top class alone, as a thief may
      choose where the scores are not to be trusted.
  """

  targets: str = 'scores'

  def __post_init__(self) -> None:
    losses.check_one_of('targets', self.targets, _TARGETS)


def hears(settings: Settings) -> str:
  """'labels' where the student would be the same if he were told no more."""
  return 'labels' if settings.targets == 'top' else 'scores'


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """One student, whose teacher is asked about every image once."""
  run = job.student('knockoff', student, {'teacher': teacher})
  return [dataclasses.replace(run, queries='cached')]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Trains a student on a teacher's answers to foreign images.

  Equation: `-sum_k q_k log p_k`, with the answers q and the student's `p =
  softmax(S(x))`, both at temperature 1. Its gradient is that of KL(q || p); of
  answers that are certain of one class it is cross entropy. No labels of a
  batch are read; metric `accuracy` is the percentage of images on which the
  student agrees with the teacher.

  Source: Orekondy et al. (2019), arXiv:1812.02766, with random images.
  """
  scores_fn = _TARGETS[settings.targets]

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    answers = seen.answers['teacher']
    log_p = losses.log_scores(seen.logits)
    loss = -jnp.sum(scores_fn(answers) * log_p, axis=-1)
    agrees = seen.logits.argmax(-1) == answers.argmax(-1)
    return loss, {'accuracy': 100.0 * agrees}

  return oracle.student(model, optimizer, loss_fn, parents)


def _scores(answers: jax.Array) -> jax.Array:
  """As probabilities, float32[B, K]."""
  return jnp.exp(losses.log_scores(answers))


def _top(answers: jax.Array) -> jax.Array:
  """1 at the top class, of equal ones the first; float32[B, K]."""
  return jax.nn.one_hot(answers.argmax(-1), answers.shape[-1])


_TARGETS = {'scores': _scores, 'top': _top}
