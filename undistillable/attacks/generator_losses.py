"""What a generator of training images is asked for, in terms of the teacher.

All arithmetic is float32 and in log space. Means are over the batch, which may
be spread over the devices of a pmapped axis.

Source: Chen et al. (2019), arXiv:1904.01186.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from undistillable import losses, method


def one_hot(logits: jax.Array) -> jax.Array:
  """How unsure the teacher is of its own answers.

  Equation: `mean_b CE(z_b, argmax z_b)`, eq. 2 of the paper.

  Args:
    logits: float[B, K], of the teacher.

  Returns:
    float32[], in nats; of this device alone, as it is linear in the examples.

  Example:
    >>> float(one_hot(jnp.zeros((1, 4))))
    1.3862943649291992
  """
  return losses.cross_entropy(logits, logits.argmax(-1)).mean()


def activation(features: jax.Array) -> jax.Array:
  """How little the images excite the teacher's last features.

  Equation: `-mean_{b,f} |f_bf|`, eq. 3 of the paper, as its code divides it.

  Args:
    features: float[B, F].

  Returns:
    float32[], at most 0; of this device alone.
  """
  return -jnp.abs(jnp.asarray(features, jnp.float32)).mean()


def negative_entropy(
  logits: jax.Array, axis_name: str | None = None
) -> jax.Array:
  """How unevenly the teacher finds the images to be of its classes.

  Equation: `sum_k p_k log p_k`, with `p = mean_b softmax(z_b)`, eq. 4.

  Args:
    logits: float[B, K], of the teacher.
    axis_name: the axis over which the batch is spread.

  Returns:
    float32[], in nats, from -log K to 0; the same on all devices.

  Example:
    >>> float(negative_entropy(100.0 * jnp.eye(4)))
    -1.3862943649291992
  """
  log_p = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
  # The mean in log space: of a class that no image is of, every probability
  # underflows, and with it the only gradient that could bring it back.
  top = jax.lax.stop_gradient(log_p).max(0)
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  mean = method.average(jnp.exp(log_p - top[None]).mean(0), axis_name)
  log_mean = top + jnp.log(mean)
  return jnp.sum(jnp.exp(log_mean) * log_mean)


def count_classes(
  logits: jax.Array, axis_name: str | None = None
) -> dict[str, jax.Array]:
  """How many classes the teacher finds in a batch, and how many it misses.

  Args:
    logits: float[B, K], of the teacher.
    axis_name: the axis over which the batch is spread.

  Returns:
    classes: float32[], those that a tenth of their fair share of the images
    is of, 1 / (10 K); classes_missing: float32[], the others.
  """
  num_classes = logits.shape[-1]
  hits = jax.nn.one_hot(logits.argmax(-1), num_classes)
  share = method.average(hits.mean(0), axis_name)
  made = jnp.sum(share >= 0.1 / num_classes, dtype=jnp.float32)
  return {'classes': made, 'classes_missing': num_classes - made}


def collapsed(
  metrics: Mapping[str, float], settings: Mapping[str, Any] | None = None
) -> str | None:
  """Says so if a generator leaves out a tenth of the classes or more.

  Args:
    metrics: of `count_classes`, as means over the last epoch.
    settings: of the method, if the sentence is to tell them.

  Returns:
    One sentence, which says what to change; None for a sound generator.

  Example:
    >>> collapsed({'classes': 10.0, 'classes_missing': 0.0}) is None
    True
  """
  made, missing = metrics['classes'], metrics['classes_missing']
  if missing < 0.1 * (made + missing):
    return None

  def now(name: str) -> str:
    return f' (now {settings[name]})' if settings else ''

  return (
    f'the generator makes images of {made:.0f} of {made + missing:.0f} '
    f'classes; raise entropy_weight{now("entropy_weight")} or lower '
    f'generator_learning_rate{now("generator_learning_rate")}'
  )
