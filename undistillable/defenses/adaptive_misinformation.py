"""Adaptive misinformation: who asks what the network is unsure of is misled."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, serving

PARENTS = ('normal',)
_NAME = 'misinformation'


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of ModelGuard for CIFAR-10; it has tau 0.4 for CIFAR-100, and 0.25
  for Caltech-256.

  Attributes:
    tau: the top score below which the truth is not told, >= 0. 0 is no defense,
      if nu is large; more than 1 tells nobody anything.
    nu: steepness of the step between both, > 0. The authors' code has 10,000.
  """

  tau: float = 0.7
  nu: float = 1000.0

  def __post_init__(self) -> None:
    losses.check_not_negative('tau', self.tau)
    losses.check_positive('nu', self.nu)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, nn.Module],
) -> method.Method:
  """Trains a second network to be wrong, beside the normal one.

  Equation: `-log(1 - p_y)`, p the scores of the second network.

  Args:
    model: the network that is served, and the architecture of the second.
    optimizer: an optax transformation, for the second.
    settings: see there.
    parents: 'normal', a module that equals `model`; its variables are
      frozen['normal'].

  Returns:
    The method; loss and accuracy are those of the second network.

  Source: Kariyappa and Qureshi (2020), arXiv:1911.07100. There both networks
  also see outliers in training, on which the first is made unsure; here, as in
  the code of Tang et al. (2024), "ModelGuard", admis.py, the second learns from
  the owner's images alone, and the first is the normal network as it is.
  """
  del settings, parents

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    return unlikelihood(seen.logits, seen.batch['label']), {}

  learner = method.supervised(model, optimizer, loss_fn)
  return method.beside(learner, model, _NAME)


def unlikelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log(1 - p_y), in log space: [B, K] and int[B] -> float32[B]."""
  others = ~jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  log_p = losses.log_scores(logits)
  return -jax.nn.logsumexp(log_p, axis=-1, where=others)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """The scores of the network where it is sure, else those of the second.

  Args:
    query: what a client asks.
    settings: see there.

  Returns:
    log q, float32[B, K], of `mix`.
  """
  misinformation = serving.trained_beside(query, _NAME)
  return mix(query.logits, misinformation(query.images), settings)


def mix(
  logits: jax.Array, misinformation: jax.Array, settings: Settings
) -> jax.Array:
  """What is told of an answer and its misinformation.

  Equation: `q = (1 - a) y + a y'` with `a = sigmoid(nu (tau - max_k y_k))`,
  `y = softmax(z)` and y' likewise of the second network. The top class is not
  kept.

  Args:
    logits: float[B, K], z.
    misinformation: float[B, K], the logits of the second network.
    settings: see there.

  Returns:
    log q, float32[B, K].

  Source: Kariyappa and Qureshi (2020), arXiv:1911.07100.
  """
  log_y, log_wrong = (losses.log_scores(z) for z in (logits, misinformation))
  top = jnp.exp(log_y.max(axis=-1, keepdims=True))
  unsure = settings.nu * (settings.tau - top)
  return losses.finite(
    jnp.logaddexp(
      jax.nn.log_sigmoid(-unsure) + log_y,
      jax.nn.log_sigmoid(unsure) + log_wrong,
    )
  )


def remedy(settings: Settings) -> str:
  """What to change where clients are told too little of the truth."""
  return f'lower adaptive_misinformation.tau (now {settings.tau})'
