"""DIST: the student's scores correlate with the teacher's, and no more.

A divergence asks for equal scores, a correlation for equal relations between
them: of the classes of an image, and of the images of a class.

Source: Huang et al. (2022), "Knowledge Distillation from A Stronger Teacher",
arXiv:2205.10536.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle

PARENTS = ('teacher',)

# Scores that differ by less, relative to their size, differ by rounding.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the released code for CIFAR-100.

  Attributes:
    temperature: tau > 0; released for ImageNet is 1.
    beta: weight of the correlation over the classes of each image, >= 0.
    gamma: weight of that over the images of each class, >= 0.
  """

  temperature: float = 4.0
  beta: float = 2.0
  gamma: float = 2.0

  def __post_init__(self) -> None:
    losses.check_positive('temperature', self.temperature)
    for name in ('beta', 'gamma'):
      losses.check_not_negative(name, getattr(self, name))


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils the relations in a teacher's scores, on labelled images.

  Equation: `CE(S(x), y) + tau^2 (beta inter + gamma intra)`, see `relations`;
  the factor tau^2 is of the released code. Metrics: inter, intra.
  """
  tau = settings.temperature

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    inter, intra = relations(
      seen.logits, seen.answers['teacher'], temperature=tau, total=seen.total
    )
    related = tau**2 * (settings.beta * inter + settings.gamma * intra)
    loss = losses.cross_entropy(seen.logits, seen.batch['label']) + related
    return loss, {'inter': inter, 'intra': intra}

  return oracle.student(model, optimizer, loss_fn, parents)


def relations(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float,
  total: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[jax.Array, jax.Array]:
  """How far two networks are from correlated scores, each in 0..2.

  Equation: `inter = 1 - mean_i rho(s_i., t_i.)`, over the classes of each
  image, and `intra = 1 - mean_k rho(s_.k, t_.k)`, over the images of each
  class, with Pearson's correlation rho of `s = softmax(z_S / tau)` and `t =
  softmax(z_T / tau)`, of logits float[B, K]. Where either is constant but for
  rounding, rho is 0 and has no gradient; the released code adds 1e-8 to the
  product of their norms, which makes the gradient there some 1e7. No gradient
  reaches the teacher's, and none goes through `total`, the sum over all devices
  that share the batch.

  Returns:
    (inter, intra), float32[B] each, whose means over the whole batch are these
    two, in value and in gradient.
  """
  s = jnp.exp(losses.log_scores(student_logits, temperature))
  t = jnp.exp(losses.log_scores(teacher_logits, temperature))
  t = jax.lax.stop_gradient(t)
  batch_size = total(jnp.float32(len(s)))

  def over_batch(x: jax.Array) -> jax.Array:
    return total(jnp.sum(x, axis=0, keepdims=True))

  def over_classes(x: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.sum(x, axis=1, keepdims=True))

  of_classes = _products(s, t, over_classes, jnp.float32(s.shape[1]))
  of_images = _products(s, t, over_batch, batch_size)
  inter = 1.0 - jnp.sum(of_classes, axis=1)
  # The sum over the images is a mean over the batch later on.
  intra = 1.0 - batch_size * jnp.mean(of_images, axis=1)
  return inter, intra


def _products(
  s: jax.Array,
  t: jax.Array,
  sum_fn: Callable[[jax.Array], jax.Array],
  number: jax.Array,
) -> jax.Array:
  """Terms float[B, K] whose sum is rho, and whose gradient is that of rho.

  With a and b, which are s and t less their means and of length 1, it is
  `rho = sum a b`, with the gradient (b - rho a) / |s - mean(s)|. What `sum_fn`
  returns has none, for it may come from other devices; the second term, which
  is 0, stands in for it.
  """
  a, b = (_normalised(x, sum_fn, number) for x in (s, t))
  fixed = jax.lax.stop_gradient(a)
  return a * b - 0.5 * sum_fn(a * b) * (a * a - fixed * fixed)


def _normalised(
  x: jax.Array, sum_fn: Callable[[jax.Array], jax.Array], number: jax.Array
) -> jax.Array:
  """x less its mean, of length 1; 0 where x is constant."""
  centred = x - sum_fn(x) / number
  square, size = sum_fn(centred * centred), sum_fn(x * x)
  varies = square > _ROUNDING**2 * size
  # A norm without bounds makes the gradient 0 as well.
  return centred / jnp.sqrt(jnp.where(varies, square, jnp.inf))
