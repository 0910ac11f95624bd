"""The loss functions of knowledge distillation, as functions of logits.

Every loss takes logits `float[..., K]` and labels `int[...]`, in 0..K-1, and
returns one number an example, `float32[...]`, in nats; average them yourself.
It raises ValueError where shapes do not fit, labels are not integers, or a
number is outside of the range that is given for it; and AssertionError where
one is an array that would make the loss other than `[...]`.

All arithmetic is float32 and in log space, whatever the type of the input: the
divergence of two softmaxes written with their probabilities has NaN gradients
as soon as one probability underflows.

  from undistillable import losses
  loss = losses.self_undermining(
    logits, adversary_logits, labels, temperature=4.0, omega=0.04).mean()
"""

from collections.abc import Iterable

import chex
import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import optax

# Stands for the logarithm of a score of 0: a class that is not served. Its
# probability is exactly 0 at every temperature up to 1e6, and 0 times it is 0
# where 0 times minus infinity is not a number.
WITHHELD = -1e9


def finite(logits: jax.Array) -> jax.Array:
  """Logits as float32, of which none is below `WITHHELD`.

  Args:
    logits: float[..., K]; minus infinity for a class that is suppressed.

  Returns:
    float32[..., K]; what is no number stays none.

  Example:
    >>> finite(jnp.array([0.0, -jnp.inf]))
    Array([ 0.e+00, -1.e+09], dtype=float32)
  """
  return jnp.maximum(jnp.asarray(logits, jnp.float32), WITHHELD)


def is_withheld(logits: jax.typing.ArrayLike) -> jax.Array:
  """Which classes a teacher does not serve: bool[..., K].

  Args:
    logits: float[..., K], of `finite`, at temperature 1.

  Example:
    >>> is_withheld(finite(jnp.array([-500.0, -jnp.inf])))
    Array([False,  True], dtype=bool)
  """
  return jnp.asarray(logits, jnp.float32) < 0.5 * WITHHELD


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross entropy of softmax(logits) with integer labels.

  Equation: `-log softmax(z)_y`

  Args:
    logits: float[..., K].
    labels: int[...].

  Example:
    >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0])
    1.3862943649291992
  """
  _check_labels(logits, labels)
  return optax.softmax_cross_entropy_with_integer_labels(finite(logits), labels)


def label_smoothing(
  logits: jax.Array, labels: jax.Array, *, epsilon: float
) -> jax.Array:
  """Cross entropy with labels that give every class a share of the score.

  Equation: `-sum_k t_k log softmax(z)_k` with `t = (1 - eps) e_y + eps / K`:
  the label itself keeps `1 - eps + eps / K`.

  Args:
    logits: float[..., K].
    labels: int[...].
    epsilon: the share that is spread over all K classes, in 0..1; 0 is cross
      entropy.

  Example:
    >>> z = jnp.zeros((1, 4))
    >>> float(label_smoothing(z, jnp.array([2]), epsilon=0.1)[0])
    1.3862943649291992

  Source: Szegedy et al. (2016), arXiv:1512.00567, section 7.
  """
  check_share('epsilon', epsilon)
  uniform = -jnp.mean(log_scores(logits), axis=-1)
  loss = (1 - epsilon) * cross_entropy(logits, labels) + epsilon * uniform
  return _one_each(loss, labels)


def log_scores(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """log softmax(logits / tau), float32[..., K], finite.

  Args:
    logits: float[..., K].
    temperature: tau > 0.
  """
  return jax.nn.log_softmax(finite(logits) / temperature)


def kl_divergence(
  p_logits: jax.Array, q_logits: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
  """Kullback-Leibler divergence KL(p || q) of two softened softmaxes.

  Equation: `sum_k p_k (log p_k - log q_k)`, `p = softmax(p_logits / tau)` and
  `q = softmax(q_logits / tau)`. The factor tau^2 of the distillation losses is
  not included. Both arguments receive gradients.

  Args:
    p_logits: float[..., K].
    q_logits: float[..., K].
    temperature: tau > 0.

  Example:
    >>> logits = jnp.array([[1.0, 2.0]])
    >>> float(kl_divergence(logits, logits, temperature=4.0)[0])
    0.0
  """
  _check_pair(p_logits, q_logits, temperature)
  log_p, log_q = (log_scores(z, temperature) for z in (p_logits, q_logits))
  return kl_of_log_scores(log_p, log_q)


def kl_of_log_scores(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """`sum_k p_k (log p_k - log q_k)`, [..., K] -> float32[...].

  Its slope is that of this sum, which loses nothing where the two are almost
  alike; its value is that of `divergence`, since of the sum nothing would be
  left there but rounding.
  """
  total = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return total + jax.lax.stop_gradient(divergence(log_p, log_q) - total)


def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """KL(p || q) of log-scores, which may be almost alike: float32[...].

  Since both add up to 1 it is `sum_k p_k (e^d_k - 1 - d_k)`, d = log q - log p,
  each term of second order and none below 0: rounding is not multiplied by
  tau^2, as it is where terms of first order cancel.

  Args:
    log_p: float32[..., K], as of `log_scores`.
    log_q: float32[..., K], alike.
  """
  p, d = jnp.exp(log_p), log_q - log_p
  is_near = jnp.abs(d) < 1
  near = jnp.where(is_near, d, 0.0)  # Or the exponential could overflow.
  terms = jnp.where(
    is_near, p * (jnp.expm1(near) - near), jnp.exp(log_q) - p - p * d
  )
  return jnp.sum(terms, axis=-1)


def jensen_shannon(
  p_logits: jax.Array, q_logits: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
  """Jensen-Shannon divergence of two softened softmaxes.

  Equation: `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2`,
  `p = softmax(p_logits / tau)` and `q = softmax(q_logits / tau)`. Symmetric,
  in 0..log 2. Both arguments receive gradients.

  Args:
    p_logits: float[..., K].
    q_logits: float[..., K].
    temperature: tau > 0.

  Example:
    >>> p, q = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> float(jensen_shannon(p, q)[0])
    0.6931471824645996

  Source: Lin (1991), doi:10.1109/18.61115.
  """
  _check_pair(p_logits, q_logits, temperature)
  log_p, log_q = (log_scores(z, temperature) for z in (p_logits, q_logits))
  log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
  p_terms = jnp.exp(log_p) * (log_p - log_m)
  q_terms = jnp.exp(log_q) * (log_q - log_m)
  return 0.5 * jnp.sum(p_terms + q_terms, axis=-1)


def distillation(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
  alpha: float,
) -> jax.Array:
  """Knowledge distillation: the loss with which a student learns a teacher.

  Equation: `alpha tau^2 KL(teacher || student) + (1 - alpha) CE(student, y)`.
  No gradient reaches the teacher.

  Args:
    student_logits: float[..., K].
    teacher_logits: float[..., K].
    labels: int[...].
    temperature: tau > 0, of both softmaxes in the divergence.
    alpha: weight of the teacher, in 0..1; 0 is cross entropy alone.

  Example:
    >>> z = jnp.array([[0.0, 0.0]])
    >>> float(distillation(z, z, jnp.array([1]), temperature=4.0, alpha=1.0)[0])
    0.0

  Source: Hinton et al. (2015), arXiv:1503.02531, section 2; weights as in
  Ma et al. (2021), arXiv:2105.07381, eq. 1.
  """
  check_alpha(alpha)
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  divergence = kl_divergence(
    teacher_logits, student_logits, temperature=temperature
  )
  loss = alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy(
    student_logits, labels
  )
  return _one_each(loss, labels)


def decoupled_distillation(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
  alpha: float,
  beta: float,
) -> jax.Array:
  """The divergence of distillation in two parts, each with its own weight.

  Equation: `tau^2 (alpha KL(b_T || b_S) + beta KL(n_T || n_S))`, where at tau
  `b = (p_y, 1 - p_y)` says how sure a network is of the label, and `n`, the
  softmax over the other classes, how it ranks those. With alpha 1 and beta
  1 - p_y of the teacher it is `tau^2 KL(teacher || student)`. No gradient
  reaches the teacher.

  Args:
    student_logits: float[..., K].
    teacher_logits: float[..., K].
    labels: int[...].
    temperature: tau > 0, of all softmaxes.
    alpha: weight of the label, >= 0.
    beta: weight of the other classes, >= 0. Of a teacher who withholds all of
      them they count as equal, the limit of scores that vanish alike.

  Example:
    >>> z = jnp.array([[0.0, 2.0, 1.0]])
    >>> y = jnp.array([1])
    >>> float(decoupled_distillation(
    ...   z, z, y, temperature=4.0, alpha=1.0, beta=8.0)[0])
    0.0

  Source: Zhao et al. (2022), arXiv:2203.08679.
  """
  check_not_negative('alpha', alpha)
  check_not_negative('beta', beta)
  _check_pair(student_logits, teacher_logits, temperature)
  _check_labels(student_logits, labels)
  num_classes = jnp.shape(student_logits)[-1]
  others = ~jax.nn.one_hot(labels, num_classes, dtype=bool)

  def parts(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log p_y and log(1 - p_y), [...]; and log n, [..., K], 0 at the label."""
    log_p = log_scores(logits, temperature)
    sure = jnp.sum(jnp.where(others, 0.0, log_p), axis=-1)
    # Not log(1 - p_y), which is the logarithm of 0 where the network is sure.
    unsure = jax.nn.logsumexp(log_p, axis=-1, where=others)
    # Not log_p - unsure, which is 0 for each where all of them are withheld:
    # beside 1e9 the logarithm of their number is lost in rounding.
    log_n = jax.nn.log_softmax(log_p, where=others)
    return sure, unsure, jnp.where(others, log_n, 0.0)

  sure_t, unsure_t, others_t = parts(jax.lax.stop_gradient(teacher_logits))
  sure_s, unsure_s, others_s = parts(student_logits)
  both = ((sure_t, unsure_t), (sure_s, unsure_s))
  of_label = kl_of_log_scores(*(jnp.stack(pair, axis=-1) for pair in both))
  of_others = kl_of_log_scores(others_t, others_s)
  loss = temperature**2 * (alpha * of_label + beta * of_others)
  return _one_each(loss, labels)


def self_undermining(
  teacher_logits: jax.Array,
  adversary_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
  omega: float,
) -> jax.Array:
  """Self-undermining: the loss with which a teacher becomes nasty.

  Equation: `CE(teacher, y) - omega tau^2 KL(teacher || adversary)`. The
  divergence is taken in the direction of the released code, so it is bounded
  for each example by `-log min_k q_k` of the adversary. Negative values are
  normal. No gradient reaches the adversary.

  Args:
    teacher_logits: float[..., K], of the network in training.
    adversary_logits: float[..., K], of the frozen, normally trained one.
    labels: int[...].
    temperature: tau_A > 0.
    omega: weight of the divergence, >= 0; 0 is cross entropy alone.

  Example:
    >>> z = jnp.array([[0.0, 0.0]])
    >>> y = jnp.array([1])
    >>> float(self_undermining(z, z, y, temperature=4.0, omega=0.04)[0])
    0.6931471824645996

  Source: Ma et al. (2021), arXiv:2105.07381, eq. 2.
  """
  check_not_negative('omega', omega)
  adversary_logits = jax.lax.stop_gradient(adversary_logits)
  divergence = kl_divergence(
    teacher_logits, adversary_logits, temperature=temperature
  )
  loss = (
    cross_entropy(teacher_logits, labels) - omega * temperature**2 * divergence
  )
  return _one_each(loss, labels)


def _one_each(loss: jax.Array, labels: jax.Array) -> jax.Array:
  """The loss; a weight of another shape would be broadcast in silence."""
  chex.assert_shape(loss, jnp.shape(labels))
  return loss


def _check_labels(logits: jax.Array, labels: jax.Array) -> None:
  """Says which shape was expected; optax would broadcast some wrong ones."""
  if jnp.ndim(logits) < 1 or jnp.shape(labels) != jnp.shape(logits)[:-1]:
    raise ValueError(
      f'labels of shape {jnp.shape(labels)} do not fit logits of shape '
      f'{jnp.shape(logits)}; expected logits [..., K] and integer labels [...]'
    )
  if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
    raise ValueError(
      f'labels are {jnp.result_type(labels)}; expected integers, one an '
      'example (for one-hot labels pass labels.argmax(-1))'
    )
  # Of what is traced nobody knows the values yet.
  if not isinstance(labels, jax.core.Tracer) and jnp.size(labels):
    # As NumPy's: in a function that JAX compiles it would trace its own.
    values = np.asarray(labels)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= jnp.shape(logits)[-1]:
      raise ValueError(
        f'labels are from {low} to {high}; expected 0 to '
        f'{jnp.shape(logits)[-1] - 1}, for logits of shape {jnp.shape(logits)}'
      )


def _check_pair(
  p_logits: jax.Array, q_logits: jax.Array, temperature: float
) -> None:
  """A broadcast between the two is a mistake in the caller's network."""
  check_positive('temperature', temperature)
  if jnp.shape(p_logits) != jnp.shape(q_logits) or jnp.ndim(p_logits) < 1:
    raise ValueError(
      f'logits of shapes {jnp.shape(p_logits)} and {jnp.shape(q_logits)}; '
      'expected the same [..., K] for both networks'
    )


def check_positive(name: str, value: float) -> None:
  """Raises ValueError unless the concrete `value` is positive, finite."""
  if _is_number(value) and not 0 < value < float('inf'):
    raise ValueError(f'{name}={value}; expected a positive number')


def check_not_negative(name: str, value: float) -> None:
  """Raises ValueError unless the concrete `value` is >= 0 and finite."""
  if _is_number(value) and not 0 <= value < float('inf'):
    raise ValueError(f'{name}={value}; expected a number >= 0')


def check_alpha(alpha: float) -> None:
  """Raises ValueError unless the concrete weight `alpha` is in 0..1."""
  if _is_number(alpha) and not 0 <= alpha <= 1:
    raise ValueError(f'alpha={alpha}; expected a weight in 0..1')


def check_share(name: str, value: float) -> None:
  """Raises ValueError unless the concrete `value` is in 0..1."""
  if _is_number(value) and not 0 <= value <= 1:
    raise ValueError(f'{name}={value}; expected a share in 0..1')


def check_whole(name: str, value: int, *, least: int) -> None:
  """Raises ValueError unless `value` is a whole number, and large enough."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise ValueError(f'{name}={value}; expected a whole number >= {least}')


def check_one_of(name: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError unless `value` is one of those that are known."""
  known = list(known)
  if value not in known:
    raise ValueError(f'{name}={value!r}; known: {", ".join(known)}')


def _is_number(value: float) -> bool:
  """Only concrete numbers can be checked: a traced one has no value yet."""
  return isinstance(value, int | float)
