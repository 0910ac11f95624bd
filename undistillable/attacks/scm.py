"""SCM: the student learns from a chain of networks contrastive to each other.

The first is trained away from the teacher's answers, the second away from the
first's; false peaks are not the same in all of them.

Source: Jandial et al. (2022), "Distilling the Undistillable: Learning from a
Nasty Teacher", arXiv:2210.11728. Its authors published no code, and what else
there is has a plain chain of students; the mean is ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import kd

PARENTS = ('teacher',)
_MAX_LINKS = 20  # All of them are networks that are trained, and then asked.


@dataclasses.dataclass(frozen=True)
class Settings(kd.Settings):
  """Those of `kd`, and more; of a contrastive network under `contrastive`.

  Attributes:
    links: J, how many contrastive networks there are, in 0..20; 0 is `kd`.
  """

  links: int = 2

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_whole('links', self.links, least=0)
    if self.links > _MAX_LINKS:
      raise ValueError(f'links={self.links}; expected at most {_MAX_LINKS}')


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """The chain, each link of the student's architecture, and the student.

  The first link asks the teacher as well; its queries are in its own result.
  On nobody there is nothing to be contrastive to: the links learn the labels
  alone, and the student from his like.
  """
  settings = {} if teacher else {'omega': 0.0}
  run = job.student('scm', student, {'teacher': teacher})
  links: dict[str, Any] = {}
  before = teacher
  for i in range(run.method_settings.links):
    before = job.helper('contrastive', student, {'teacher': before}, settings)
    links[f'link{i + 1}'] = before
  student_run = dataclasses.replace(run, parents={**run.parents, **links})
  return [*links.values(), student_run]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: kd.Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a teacher and a chain of contrastive networks into a student.

  Equation: `alpha tau^2 KL(m || softmax(S(x) / tau)) + (1 - alpha)
  CE(S(x), y)`, with m of `mean_scores` of the teacher and all links. These are
  further parents like it, by any role; how many, `plan` alone reads.
  Metric `kl` is KL(m || S(x)) at tau, in nats.
  """
  tau = settings.temperature

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    answers = list(seen.answers.values())
    heard = tau * mean_scores(answers, temperature=tau)
    return kd.loss(seen, heard, settings)

  answer_fns = {
    role: oracle.as_oracle(parent).scores for role, parent in parents.items()
  }
  return method.supervised(model, optimizer, loss_fn, answer_fns=answer_fns)


def mean_scores(
  answers: Sequence[jax.Array], *, temperature: float
) -> jax.Array:
  """The mean of what several networks answer, each float[B, K].

  Equation: `log mean_j softmax(z_j / tau)`; log-scores, finite.
  """
  log_q = jnp.stack([losses.log_scores(z, temperature) for z in answers])
  return jax.nn.logsumexp(log_q, axis=0) - jnp.log(float(len(answers)))
