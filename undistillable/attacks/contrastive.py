"""Contrastive network: nasty to the teacher, as a nasty one to its adversary.

What is trained away from false peaks looks normal again. `scm` learns from such
networks; alone it is one of them.

Source: Jandial et al. (2022), "Distilling the Undistillable: Learning from a
Nasty Teacher", arXiv:2210.11728; the equation is that of a public
implementation by others, for its authors published none.
"""

import dataclasses

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import dfme

PARENTS = ('teacher',)

remedy = method.lower('contrastive.omega')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the released nasty teachers of CIFAR-10; see
  `losses.self_undermining`.

  Attributes:
    omega: weight of the divergence, >= 0; 0 is cross entropy alone.
    temperature: tau > 0.
  """

  omega: float = 0.04
  temperature: float = 4.0

  def __post_init__(self) -> None:
    losses.check_not_negative('omega', self.omega)
    losses.check_positive('temperature', self.temperature)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Trains a network away from what a teacher answers, on labelled images.

  Equation: `CE(N(x), y) - omega tau^2 KL(N(x) || T(x))`, both softened by tau;
  see `losses.self_undermining`. Of an answer in which classes are withheld, a
  divergence without bounds, the logits are those of `dfme.centred_scores`.
  Metric `kl` is KL(N || T) at tau, in nats.
  """
  tau = settings.temperature

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    answers = dfme.centred_scores(seen.answers['teacher'])
    loss = losses.self_undermining(
      seen.logits,
      answers,
      seen.batch['label'],
      temperature=tau,
      omega=settings.omega,
    )
    kl = losses.kl_divergence(seen.logits, answers, temperature=tau)
    return loss, {'kl': kl}

  return oracle.student(model, optimizer, loss_fn, parents)
