"""Adaptive misinformation: who asks what the network is unsure of is misled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, serving, state as state_lib

PARENTS = ('normal',)
OUTLIERS = True  # It learns from those of `config.outliers`, if there are any.
_NAME = 'misinformation'
_OUTLIER = 'outlier'

remedy = method.lower('adaptive_misinformation.tau')


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


@flax.struct.dataclass
class Both:
  """Two networks in training: the one that is served, and the one that errs."""

  network: state_lib.TrainState
  other: state_lib.TrainState

  @property
  def step(self) -> jax.Array:
    return self.network.step

  @property
  def variables(self) -> dict[str, state_lib.PyTree]:
    return {**self.network.variables, _NAME: self.other.variables}


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, nn.Module],
) -> method.Method:
  """Trains a second network to be wrong, beside the normal one.

  Equation: `-log(1 - p'_y)`, p' the scores of the second network.

  Where a batch has outliers x', the first is not the normal network, but one
  that is trained as well: `CE(z(x), y) + KL(u || p(x'))`, u = 1 / K, so that it
  is sure of none of them; and the second by the mean of the above and of the
  same for x', whose label is the top class that the first says of it.

  Loss and accuracy are those of the second network. With outliers they are
  those of the first, and there are more metrics: `outlier_kl`, KL(u || p(x')),
  nats, `misinformation_loss` and `misinformation_accuracy`.

  Source: Kariyappa and Qureshi (2020), arXiv:1911.07100, with outliers. Without
  them, as in the code of Tang et al. (2024), "ModelGuard", admis.py.
  """
  del settings, parents
  views = {_OUTLIER: lambda batch: batch.get(_OUTLIER)}

  def exposed(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    loss = losses.cross_entropy(seen.logits, seen.batch['label'])
    z = seen.views[_OUTLIER]
    kl = losses.kl_divergence(jnp.zeros_like(z), z)
    return loss + kl, {'outlier_kl': kl}  # The authors' lambda is 1.

  def wrong(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    loss = unlikelihood(seen.logits, seen.batch['label'])
    if _OUTLIER in seen.views:
      said = seen.batch['outlier_label']
      loss = (loss + unlikelihood(seen.views[_OUTLIER], said)) / 2
    return loss, {}

  first = method.supervised(model, optimizer, exposed, views=views)
  second = method.supervised(model, optimizer, wrong, views=views)
  alone = method.beside(second, model, _NAME)
  logits_fn = method.frozen_fn(model)

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> Any:
    if _OUTLIER not in batch:
      return alone.init(rng, batch, frozen)
    other = second.init(jax.random.fold_in(rng, 1), batch, frozen)
    return Both(first.init(rng, batch, frozen), other)

  def step(
    state: Any,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[Any, method.Metrics]:
    if _OUTLIER not in batch:
      return alone.step(state, frozen, batch, rng, axis_name)
    said = logits_fn(state.network.variables, batch[_OUTLIER]).argmax(-1)
    network, metrics = first.step(state.network, frozen, batch, rng, axis_name)
    batch = {**batch, 'outlier_label': said}
    rng = jax.random.fold_in(rng, 1)
    other, found = second.step(state.other, frozen, batch, rng, axis_name)
    metrics |= {f'{_NAME}_{name}': found[name] for name in ('loss', 'accuracy')}
    return Both(network, other), metrics

  return method.Method(init, step, {}, logits_fn)


def unlikelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log(1 - p_y), in log space: [B, K] and int[B] -> float32[B]."""
  others = ~jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  log_p = losses.log_scores(logits)
  return -jax.nn.logsumexp(log_p, axis=-1, where=others)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """The scores of the network where it is sure, else the second's: `mix`."""
  misinformation = serving.trained_beside(query, _NAME)
  return mix(query.logits, misinformation(query.images), settings)


def mix(
  logits: jax.Array, misinformation: jax.Array, settings: Settings
) -> jax.Array:
  """What is told of logits float[B, K] and their misinformation, alike.

  Equation: `q = (1 - a) y + a y'` with `a = sigmoid(nu (tau - max_k y_k))`,
  `y = softmax(z)` and y' likewise of the second network. The top class is not
  kept.

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
