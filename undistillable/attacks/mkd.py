"""Markov KD: a matrix for each class, learned as well, maps the answers.

Wherever a teacher lies in a way of its own for each class, the matrix of that
class can undo it. It can also ignore the teacher, and then it is a learned soft
label: only what the attack gains over itself without a teacher is stolen.

Source: Yang and Ye (2024), "Markov Knowledge Distillation: Make Nasty Teachers
trained by Self-undermining Knowledge Distillation Fully Distillable", ECCV;
details of the form of the matrices from a public implementation by others.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import kd

PARENTS = ('teacher',)

remedy = method.lower('matrix_learning_rate')

_SCALE = 0.1  # Of the normal numbers that U and V start with.


@dataclasses.dataclass(frozen=True)
class Settings(kd.Settings):
  """Those of `kd`, and more; what the paper leaves to be chosen is ours.

  Attributes:
    rank: r, of what each matrix has beside a multiple of the identity.
    matrix_learning_rate: of the matrices' Adam, constant; a hundredth of the
      student's 0.1.
  """

  rank: int = 3
  matrix_learning_rate: float = 1e-3

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_whole('rank', self.rank, least=1)
    losses.check_positive('matrix_learning_rate', self.matrix_learning_rate)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils mapped answers into a student, and learns how to map them.

  Equation: `alpha tau^2 KL(t' || softmax(S(x) / tau)) + (1 - alpha) CE(S(x),
  y)`, with t' of `mapped_answers`. Student and matrices minimise it together,
  step by step: with respect to the one it is the loss of distillation from a
  fixed t', with respect to the other that of a fixed student.

  Public code normalises the columns of the matrices, so that t' is no
  distribution, and softens it once more, which leaves almost nothing of it;
  here rows are, and t' is taken as it is.

  Metric `kl` is KL(t' || S(x)) at tau, in nats; `mapped` the total variation
  between the answer at tau and t', in percent.
  """
  tau, alpha = settings.temperature, settings.alpha

  def init(rng: jax.Array, seen: method.Forward) -> dict[str, jax.Array]:
    return init_matrices(rng, seen.logits.shape[-1], settings.rank)

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    answers, labels = seen.answers['teacher'], seen.batch['label']
    log_t = mapped_answers(seen.extra, answers, labels, temperature=tau)
    log_p = losses.log_scores(seen.logits, tau)
    kl = losses.kl_of_log_scores(log_t, log_p)
    cross_entropy = losses.cross_entropy(seen.logits, labels)
    loss = alpha * tau**2 * kl + (1 - alpha) * cross_entropy
    heard = jnp.exp(losses.log_scores(answers, tau))
    mapped = 50.0 * jnp.sum(jnp.abs(jnp.exp(log_t) - heard), axis=-1)
    return loss, {'kl': kl, 'mapped': mapped}

  extra = method.Extra(init, optax.adam(settings.matrix_learning_rate))
  return oracle.student(model, optimizer, loss_fn, parents, extra=extra)


def init_matrices(
  rng: jax.Array, num_classes: int, rank: int
) -> dict[str, jax.Array]:
  """Small u and v, float32[K, K, r], and s, float32[K]: 2 K K r + K numbers."""
  shape = (num_classes, num_classes, rank)
  u, v = (
    _SCALE * jax.random.normal(key, shape) for key in jax.random.split(rng)
  )
  return {'u': u, 'v': v, 's': jnp.ones(num_classes)}


def mapped_answers(
  matrices: Mapping[str, Any],
  answers: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
) -> jax.Array:
  """The answers after a step of the Markov chain of each example's label.

  Equation: `t'_j = sum_i t_i M_y,ij`, with the answers' power transform `t =
  softmax(log q / tau)`, and `M_y = softmax_j(s_y I + U_y V_y^T)`, each row of
  which adds up to 1. Matrices are those of `init_matrices`, answers float[B,
  K], logits or log-scores, labels int[B] in 0..K-1; it is log t', float32[B,
  K].
  """
  log_t = losses.log_scores(answers, temperature)
  u, v, s = (matrices[name][labels] for name in ('u', 'v', 's'))
  identity = jnp.eye(log_t.shape[-1])[None]
  scores = s[:, None, None] * identity + jnp.einsum('bir,bjr->bij', u, v)
  log_m = jax.nn.log_softmax(scores, axis=-1)
  return jax.nn.logsumexp(log_t[:, :, None] + log_m, axis=1)
