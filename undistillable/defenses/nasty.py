"""Self-undermining: a nasty teacher is accurate, its students are not."""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    balance: where it is above 0, omega is not read, but so large that push is
      as many times hold, on the first training images; see `conditions`.
  """

  omega: float = 0.004
  temperature: float = 4.0
  balance: float = 0.0

  def __post_init__(self) -> None:
    losses.check_not_negative('omega', self.omega)
    losses.check_positive('temperature', self.temperature)
    losses.check_not_negative('balance', self.balance)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, method.ApplyFn | nn.Module],
) -> method.Method:
  """Trains a nasty teacher against a frozen, normally trained adversary.

  The parent 'adversary' is a module, or `(variables, images) -> logits`; its
  variables are frozen['adversary']. Metrics: see `conditions`.

  Source: Ma et al. (2021), arXiv:2105.07381, eq. 2.
  """
  return method.supervised(
    model,
    optimizer,
    loss_fn(settings),
    answer_fns={'adversary': method.as_frozen_fn(parents['adversary'])},
    extra=extra(settings),
  )


def loss_fn(settings: Settings) -> method.LossFn:
  """Self-undermining against the answers of 'adversary', and `conditions`."""

  def loss(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    arrays = seen.logits, seen.answers['adversary'], seen.batch['label']
    omega = settings.omega
    if settings.balance:
      omega = jax.lax.stop_gradient(seen.extra['omega'])
    weights: Any = {'temperature': settings.temperature, 'omega': omega}
    found = losses.self_undermining(*arrays, **weights)
    return found, conditions(*arrays, **weights)

  return loss


def extra(settings: Settings) -> method.Extra | None:
  """Keeps the omega that is chosen by `Settings.balance`, if one is."""

  def init(rng: jax.Array, seen: method.Forward) -> dict[str, jax.Array]:
    del rng
    adversary_logits = seen.answers['adversary']
    hold = doubt(adversary_logits).mean()
    most = doubt(adversary_logits, settings.temperature).mean()
    # Nothing holds a teacher whose adversary has no doubt at all.
    return {'omega': settings.balance * hold / jnp.maximum(most, 1e-9)}

  return method.Extra(init, optax.set_to_zero()) if settings.balance else None


def conditions(
  logits: jax.Array,
  adversary_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
  omega: jax.typing.ArrayLike,
) -> method.Metrics:
  """What decides whether a teacher becomes nasty, and how far it has got.

  A teacher z that answers like its adversary a sees no slope of the divergence,
  only its curvature. Along v, the loss there is curved by `v' (F(a, 1) - omega
  F(a, tau)) v` with `F(a, tau) = diag(q) - q q'`, q = softmax(a / tau). The
  traces of both parts are `hold` and `push`: where hold is larger, as with an
  adversary that is unsure, cross entropy keeps the teacher beside it.

  Arguments are those of `losses.self_undermining`.

  Returns:
    float32[B] each. Of the teacher: `kl`, KL(teacher || adversary) at tau, in
    nats; `gap`, its highest logit less the mean of the others; `peaks`, its
    classes at least half as far above the mean as the highest. Of the
    adversary: `adversary_loss`, its cross entropy; `adversary_gap`, likewise
    but of the true class; `hold`; `push`; `pull`, omega tau^2 KL(uniform ||
    adversary) at tau, what an undecided teacher gains. And `omega`.
  """
  z = jnp.asarray(logits, jnp.float32)
  a = jnp.asarray(adversary_logits, jnp.float32)
  weight = jnp.asarray(omega, jnp.float32)
  top = z.max(-1)
  half = (top + z.mean(-1)) / 2
  true = jnp.take_along_axis(a, labels[:, None], axis=-1)[:, 0]
  uniform = losses.kl_divergence(jnp.zeros_like(a), a, temperature=temperature)
  return {
    'kl': losses.kl_divergence(logits, a, temperature=temperature),
    'gap': _above_others(z, top),
    'peaks': jnp.sum(z >= half[:, None], axis=-1).astype(jnp.float32),
    'adversary_loss': losses.cross_entropy(a, labels),
    'adversary_gap': _above_others(a, true),
    'hold': doubt(a),
    'push': weight * doubt(a, temperature),
    'pull': weight * temperature**2 * uniform,
    'omega': jnp.full_like(top, weight),
  }


def doubt(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """1 - sum_k q_k^2 with q = softmax(logits / tau): [..., K] -> float32[...].

  It is the trace of the Hessian of cross entropy in the logits, and of that of
  tau^2 KL(. || logits) where both answers are alike.
  """
  q = jnp.exp(losses.log_scores(logits, temperature))
  return 1 - jnp.sum(jnp.square(q), axis=-1)


def _above_others(logits: jax.Array, chosen: jax.Array) -> jax.Array:
  """One logit less the mean of the others: [..., K] and [...] -> [...]."""
  return chosen - (logits.sum(-1) - chosen) / (logits.shape[-1] - 1)


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """Says so where a teacher stayed with an adversary that is too unsure.

  It left if tau^2 KL from its adversary is at least half of what it is for one
  that answers every class alike, and its logits are other ones by about 1.
  """
  omega, hold, push = (metrics[name] for name in ('omega', 'hold', 'push'))
  if push >= hold or not omega:
    return None
  far = settings.temperature**2 * metrics['kl']
  if far >= max(1.0, metrics['pull'] / omega / 2):
    return None
  return (
    'the adversary is not sure enough of its training images (cross entropy '
    f'{metrics["adversary_loss"]:.2g}): cross entropy holds this teacher '
    'beside it, without false peaks; train the adversary for more epochs or '
    f'with less weight decay, or raise omega from {omega:.2g} towards '
    f'{omega * hold / push:.2g}, which will cost accuracy'
  )


def remedy(settings: Settings, defense: str = 'nasty') -> str:
  """What to change where the teacher collapses or diverges."""
  name = 'balance' if settings.balance else 'omega'
  return f'lower {defense}.{name} (now {getattr(settings, name)})'
