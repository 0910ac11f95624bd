"""Decoupled distillation: what a teacher says of other classes counts more."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle

PARENTS = ('teacher',)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the released code, but for beta; see
  `losses.decoupled_distillation`.

  Attributes:
    temperature: tau > 0.
    alpha: weight of the label's share, >= 0.
    beta: weight of the other classes, >= 0; released is 8 for CIFAR-100, ours
      for ten classes is 2.
    warmup_steps: over which the teacher's weight rises to 1; the released 20
      epochs are 7,640 batches of 128 images of CIFAR.
  """

  temperature: float = 4.0
  alpha: float = 1.0
  beta: float = 2.0
  warmup_steps: int = 7_640

  def __post_init__(self) -> None:
    losses.check_positive('temperature', self.temperature)
    for name in ('alpha', 'beta', 'warmup_steps'):
      losses.check_not_negative(name, getattr(self, name))


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a frozen teacher into a student, on labelled images.

  Equation: `CE(S(x), y) + w tau^2 (alpha KL(b_T || b_S) + beta KL(n_T ||
  n_S))`, see `losses.decoupled_distillation`; w rises from 0 to 1 in
  `warmup_steps`, step by step, where the released code has epochs. Metric
  `decoupled` is the loss without cross entropy and w.

  Source: Zhao et al. (2022), arXiv:2203.08679.
  """

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    labels = seen.batch['label']
    decoupled = losses.decoupled_distillation(
      seen.logits,
      seen.answers['teacher'],
      labels,
      temperature=settings.temperature,
      alpha=settings.alpha,
      beta=settings.beta,
    )
    steps = max(1, settings.warmup_steps)
    weight = jnp.minimum((seen.step + 1) / steps, 1.0)
    loss = losses.cross_entropy(seen.logits, labels) + weight * decoupled
    return loss, {'decoupled': decoupled}

  return oracle.student(model, optimizer, loss_fn, parents)
