"""Self-undermining: a nasty teacher is accurate, its students are not."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method

PARENTS = ('adversary',)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the article; see `losses.self_undermining`.

  Attributes:
    omega: weight of the divergence, >= 0. The released code has 0.04.
    temperature: tau_A > 0.
  """

  omega: float = 0.004
  temperature: float = 4.0

  def __post_init__(self) -> None:
    losses.check_not_negative('omega', self.omega)
    losses.check_positive('temperature', self.temperature)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, method.ApplyFn | nn.Module],
) -> method.Method:
  """Trains a nasty teacher against a frozen, normally trained adversary.

  Args:
    model: the teacher to train.
    optimizer: an optax transformation.
    settings: see there.
    parents: 'adversary', its module, or `(variables, images) -> logits`; its
      variables are frozen['adversary'].

  Returns:
    The method; its metrics are in `conditions`.

  Source: Ma et al. (2021), arXiv:2105.07381, eq. 2.
  """
  return method.supervised(
    model,
    optimizer,
    loss_fn(settings),
    answer_fns={'adversary': method.as_frozen_fn(parents['adversary'])},
  )


def loss_fn(settings: Settings) -> method.LossFn:
  """Self-undermining against the answers of 'adversary', and `conditions`."""

  def loss(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    adversary_logits = seen.answers['adversary']
    loss = losses.self_undermining(
      seen.logits,
      adversary_logits,
      seen.batch['label'],
      temperature=settings.temperature,
      omega=settings.omega,
    )
    return loss, conditions(
      seen.logits, adversary_logits, seen.batch['label'], settings
    )

  return loss


def conditions(
  logits: jax.Array,
  adversary_logits: jax.Array,
  labels: jax.Array,
  settings: Settings,
) -> method.Metrics:
  """What decides whether a teacher becomes nasty, and how far it has got.

  A teacher z that answers like its adversary a sees no slope of the divergence,
  only its curvature. Along v, the loss there is curved by `v' (F(a, 1) - omega
  F(a, tau)) v` with `F(a, tau) = diag(q) - q q'`, q = softmax(a / tau). The
  traces of both parts are `hold` and `push`: where hold is larger, as with an
  adversary that is unsure, cross entropy keeps the teacher beside it.

  Args:
    logits: float[B, K], of the teacher.
    adversary_logits: float[B, K].
    labels: int[B].
    settings: omega and tau.

  Returns:
    float32[B] each. Of the teacher: `kl`, KL(teacher || adversary) at tau, in
    nats; `gap`, its highest logit less the mean of the others; `peaks`, its
    classes at least half as far above the mean as the highest. Of the
    adversary: `adversary_loss`, its cross entropy; `adversary_gap`, likewise
    but of the true class; `hold`; `push`; `pull`, omega tau^2 KL(uniform ||
    adversary) at tau, what an undecided teacher gains.
  """
  num_classes = logits.shape[-1]
  tau, omega = settings.temperature, settings.omega

  def gap(z: jax.Array, chosen: jax.Array) -> jax.Array:
    others = (z.sum(-1) - chosen) / (num_classes - 1)
    return chosen - others

  def doubt(temperature: float) -> jax.Array:
    q = jnp.exp(losses.log_scores(adversary_logits, temperature))
    return 1 - jnp.sum(jnp.square(q), axis=-1)

  z, top = logits.astype(jnp.float32), logits.max(-1).astype(jnp.float32)
  half = (top + z.mean(-1)) / 2
  true = jnp.take_along_axis(adversary_logits, labels[:, None], axis=-1)[:, 0]
  return {
    'kl': losses.kl_divergence(logits, adversary_logits, temperature=tau),
    'gap': gap(z, top),
    'peaks': jnp.sum(z >= half[:, None], axis=-1).astype(jnp.float32),
    'adversary_loss': losses.cross_entropy(adversary_logits, labels),
    'adversary_gap': gap(adversary_logits, true),
    'hold': doubt(1.0),
    'push': omega * doubt(tau),
    'pull': omega
    * tau**2
    * losses.kl_divergence(
      jnp.zeros_like(adversary_logits), adversary_logits, temperature=tau
    ),
  }


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """Says so where the adversary is too unsure for the teacher to leave it."""
  hold, push = metrics['hold'], metrics['push']
  if not settings.omega or push >= hold:
    return None
  enough = settings.omega * hold / push
  return (
    'the adversary is not sure enough of its training images (cross entropy '
    f'{metrics["adversary_loss"]:.2g}), so this teacher follows it, and is '
    'hardly nasty; train the adversary for more epochs or with less weight '
    f'decay, or raise omega from {settings.omega:.2g} above '
    f'{enough:.2g}, which will cost accuracy'
  )


def remedy(settings: Settings) -> str:
  """What to change where the teacher collapses or diverges."""
  return f'lower nasty.omega (now {settings.omega})'
