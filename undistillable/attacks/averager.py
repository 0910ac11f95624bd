"""Averager: each answer is replaced by the mean answer of its label."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import kd

PARENTS = ('teacher',)

Settings = kd.Settings


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils what a teacher says of a class on average, on labelled images.

  Equation: `alpha tau^2 KL(m_y || S(x)) + (1 - alpha) CE(S(x), y)`, see
  `losses.distillation`, with `m_y` of `mean_answers`. What differs from image
  to image, as false peaks do, averages out. The mean is of a batch: with K
  classes an image shares it with (B - 1) / K others, so that batches are to be
  several times as large as K. The released code multiplies alpha twice. Metric
  `kl` is KL(m_y || S(x)) at tau, in nats.

  Source: Keser and Toreyin (2023), "Averager Student: Distillation from
  Undistillable Teacher", ICLR Tiny Papers.
  """

  def heard(seen: method.Forward) -> jax.Array:
    return mean_answers(
      seen.answers['teacher'],
      seen.batch['label'],
      temperature=settings.temperature,
      total=seen.total,
    )

  return kd.distil(model, optimizer, settings, parents, heard)


def mean_answers(
  answers: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
  total: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """For each example the mean answer to those of its label in the batch.

  Equation: `m_y = mean_{i: y_i = y} log q_i`, in log-scores. Where the teacher
  withholds a class of any of these, whose log-score is none, it is `m_y = tau
  log mean_i softmax(log q_i / tau)`: their mean at tau.

  Args:
    answers: float[B, K], logits or log-scores.
    labels: int[B], in 0..K-1.
    temperature: tau > 0.
    total: the sum of an array over all devices that share the batch.

  Returns:
    float32[B, K], log-scores for a softmax at tau; without gradients.
  """
  num_classes = answers.shape[-1]

  def of_class(values: jax.Array) -> jax.Array:
    """The sums over the examples of each label: [B, ...] -> [K, ...]."""
    return total(jax.ops.segment_sum(values, labels, num_classes))

  log_q = losses.log_scores(answers)
  scores = jnp.exp(losses.log_scores(answers, temperature))
  withheld = jnp.any(losses.is_withheld(answers), axis=-1)
  count = jnp.maximum(of_class(jnp.ones_like(labels)), 1)[:, None]
  of_scores = losses.finite(temperature * jnp.log(of_class(scores) / count))
  means = jnp.where(
    of_class(withheld.astype(jnp.int32))[:, None] > 0,
    of_scores,
    of_class(log_q) / count,
  )
  return means[labels]
