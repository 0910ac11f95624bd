"""CMIM: all scores of one class are alike, at every temperature.

What a thief learns from scores beside labels is how the images of one class
differ: the mutual information of image and answer, given the label. Its
estimate is the mean divergence of the scores from their mean over the class.

Source: Ye, Hamidi and Yang (2025), arXiv:2507.00012, for what is minimised; the
estimate at one temperature from the code of the same authors,
github.com/iclr2024mcmi/ICLRMCMI. The weights of the temperatures, lambda, and
how the means are kept are ours.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method

PARENTS = ()

remedy = method.lower('cmim.weight')

Table = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """All are our choice: those of the paper were not at hand.

  Attributes:
    weight: lambda >= 0; try 0.1, 0.3, 1 and 3 on held-out images.
    temperatures: tau > 0, one or more.
    decay: d of the moving means, at least 0 and below 1.
    delay_steps: of cross entropy alone, in which the means settle; 5 epochs of
      128 images of CIFAR.
    ramp_steps: over which lambda then rises in a line; a tenth of 160 epochs.
  """

  weight: float = 1.0
  temperatures: tuple[float, ...] = (1.0, 4.0, 10.0, 20.0)
  decay: float = 0.99
  delay_steps: int = 2_000
  ramp_steps: int = 6_000

  def __post_init__(self) -> None:
    losses.check_not_negative('weight', self.weight)
    values = self.temperatures
    if not values or len(set(values)) < len(values):
      raise ValueError(
        f'temperatures={values}; expected one number or more, once'
      )
    for temperature in values:
      losses.check_positive('temperatures', temperature)
    if not 0 <= self.decay < 1:
      raise ValueError(f'decay={self.decay}; expected a share below 1')
    losses.check_whole('delay_steps', self.delay_steps, least=0)
    losses.check_whole('ramp_steps', self.ramp_steps, least=0)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, Any] | None = None,
) -> method.Method:
  """Trains a network whose scores say its label and no more.

  Equation: `CE(z, y) + lambda (1/M) sum_tau tau^2 KL(softmax(z / tau) ||
  Q_y^tau)` over M temperatures, with the Q of `enter`, the batch itself among
  them; see `divergence`. Lambda is 0 in the first `delay_steps`, and rises over
  the next `ramp_steps`. In place of a pass over the training set that would
  start Q, its means are unbiased from the first batch on: then a mean is that
  of the batch.

  What is served has no Q. Metrics: `cmi`, the mean over tau of tau^2 KL, in
  nats; `weight`, lambda.

  Source: see above.
  """
  del parents
  temperatures = settings.temperatures

  def init(rng: jax.Array, seen: method.Forward) -> Table:
    del rng
    return empty(seen.logits.shape[-1], len(temperatures))

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    z, labels, before = seen.logits, seen.batch['label'], seen.extra
    after = enter(
      before,
      z,
      labels,
      temperatures=temperatures,
      decay=settings.decay,
      total=seen.total,
    )
    cmi = divergence(after, z, labels, temperatures=temperatures)
    risen = (seen.step + 1 - settings.delay_steps) / max(1, settings.ramp_steps)
    weight = settings.weight * jnp.clip(risen, 0.0, 1.0)
    loss = losses.cross_entropy(z, labels) + weight * cmi
    loss += method.leading(before, after)
    return loss, {'cmi': cmi, 'weight': jnp.full_like(cmi, weight)}

  extra = method.Extra(init, optax.sgd(1.0))
  return method.supervised(model, optimizer, loss_fn, extra=extra)


def empty(num_classes: int, num_temperatures: int) -> Table:
  """The table of which no class has been seen.

  Returns:
    scores: float32[M, K, K], whose second axis is the label, and weights:
    float32[K]. The mean of a class is `Q_y^tau = scores / weights`.
  """
  return {
    'scores': jnp.zeros((num_temperatures, num_classes, num_classes)),
    'weights': jnp.zeros(num_classes),
  }


def enter(
  table: Table,
  logits: jax.Array,
  labels: jax.Array,
  *,
  temperatures: tuple[float, ...],
  decay: float,
  total: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Table:
  """The table after a batch.

  Equation: of each class in the batch `scores <- d scores + (1 - d) m`, with m
  the mean over its examples of `softmax(z / tau)`, and `weights <- d weights +
  1 - d`, d the decay. A class that is not in the batch keeps what it has.

  Logits are float[B, K], of labels int[B], at M temperatures; `total` sums an
  array over all devices that share the batch.
  """
  num_classes = logits.shape[-1]

  def of_class(values: jax.Array) -> jax.Array:
    """The sums over the examples of each label: [B, ...] -> [K, ...]."""
    return total(jax.ops.segment_sum(values, labels, num_classes))

  count = of_class(jnp.ones(len(labels)))
  scores = jnp.stack(
    [jnp.exp(losses.log_scores(logits, tau)) for tau in temperatures], axis=1
  )
  sums = jnp.swapaxes(of_class(scores), 0, 1)
  means = sums / jnp.maximum(count, 1)[None, :, None]
  rate = (1 - decay) * (count > 0)
  return {
    'scores': table['scores'] + rate[None, :, None] * (means - table['scores']),
    'weights': table['weights'] + rate * (1 - table['weights']),
  }


def divergence(
  table: Table,
  logits: jax.Array,
  labels: jax.Array,
  *,
  temperatures: tuple[float, ...],
) -> jax.Array:
  """How far scores are from the mean ones of their class, at all temperatures.

  Equation: `(1/M) sum_tau tau^2 KL(softmax(z / tau) || Q_y^tau)`. Where Q is
  the mean of exactly these scores, the mean of the divergence over the class is
  `H(Q) - mean H(p)`, at most log K. Without tau^2 it would vanish as tau grows;
  with it, it becomes `1 / 2K` times the squared distance of the centred logits
  from their mean.

  Arguments are those of `enter`, which has put these labels into the table; no
  gradient reaches it. The result is float32[B], in nats.

  Example:
    >>> z, y = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0])
    >>> table = enter(empty(2, 1), z, y, temperatures=(1.0,), decay=0.5)
    >>> d = divergence(table, z, y, temperatures=(1.0,))
    >>> [round(float(x), 4) for x in d]
    [0.3278, 0.3278]
  """
  table = jax.lax.stop_gradient(table)
  weights = table['weights'][labels][:, None]
  terms = []
  for tau, scores in zip(temperatures, table['scores'], strict=True):
    # Where all scores of a class underflow, those of the example do as well.
    log_q = losses.finite(jnp.log(scores[labels] / weights))
    log_p = losses.log_scores(logits, tau)
    terms.append(tau**2 * losses.divergence(log_p, jax.nn.log_softmax(log_q)))
  return sum(terms[1:], terms[0]) / len(terms)


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """Says so where the training ended before lambda had risen."""
  reached = metrics['weight']
  if reached > 0.999 * settings.weight or not settings.weight:
    return None
  return (
    f'lambda has risen to {reached:.2g} of {settings.weight:.2g} only, in the '
    'mean of the last epoch; train for more epochs, or lower cmim.delay_steps '
    f'(now {settings.delay_steps}) and cmim.ramp_steps (now '
    f'{settings.ramp_steps})'
  )
