"""Averager: each answer is replaced by the mean answer of its label."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import kd

PARENTS = ('teacher',)
OVER = ('batch', 'dataset')

Table = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings(kd.Settings):
  """Those of `kd`, and one more.

  Attributes:
    over: which answers a mean is of, those of the 'batch', as in the released
      code, or of the 'dataset': all that were heard so far.
  """

  over: str = 'batch'

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_one_of('over', self.over, OVER)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils what a teacher says of a class on average, on labelled images.

  Equation: `alpha tau^2 KL(m_y || S(x)) + (1 - alpha) CE(S(x), y)`, see
  `losses.distillation`, with `m_y` of `means`. What differs from image to
  image, as false peaks do, averages out. In a batch of B with K classes an
  image shares its mean with (B - 1) / K others: either batches are to be
  several times as large as K, or the mean is over the data set. The released
  code multiplies alpha twice. Metric `kl` is KL(m_y || S(x)) at tau, in nats.

  Source: Keser and Toreyin (2023), "Averager Student: Distillation from
  Undistillable Teacher", ICLR Tiny Papers; means over the data set are ours.
  """
  everything = settings.over == 'dataset'

  def init(rng: jax.Array, seen: method.Forward) -> Table:
    del rng
    return empty(seen.logits.shape[-1])

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    labels = seen.batch['label']
    before = seen.extra if everything else empty(seen.logits.shape[-1])
    after = enter(
      before,
      seen.answers['teacher'],
      labels,
      temperature=settings.temperature,
      total=seen.total,
    )
    heard = means(after, temperature=settings.temperature)[labels]
    loss, metrics = kd.loss(seen, heard, settings)
    return loss + method.leading(before, after), metrics

  extra = method.Extra(init, optax.sgd(1.0)) if everything else None
  return oracle.student(model, optimizer, loss_fn, parents, extra=extra)


def empty(num_classes: int) -> Table:
  """The table of which nothing has been heard.

  Returns:
    Of each label, the first axis: `log_scores` and `scores`, float32[K, K], the
    mean of these, the latter at tau; `count` and `withheld`, float32[K], how
    many answers there were, and how many that withhold a class.
  """
  square, line = jnp.zeros((num_classes, num_classes)), jnp.zeros(num_classes)
  return {
    'log_scores': square,
    'scores': square,
    'count': line,
    'withheld': line,
  }


def enter(
  table: Table,
  answers: jax.Array,
  labels: jax.Array,
  *,
  temperature: float,
  total: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Table:
  """The table after a batch.

  Answers are float[B, K], logits or log-scores, to images of labels int[B]; tau
  > 0; `total` sums an array over all devices that share the batch.
  """
  num_classes = answers.shape[-1]

  def of_class(values: jax.Array) -> jax.Array:
    """The sums over the examples of each label: [B, ...] -> [K, ...]."""
    return total(jax.ops.segment_sum(values, labels, num_classes))

  withheld = jnp.any(losses.is_withheld(answers), axis=-1)
  new = of_class(jnp.ones(len(labels)))
  count = table['count'] + new

  def moved(mean: jax.Array, values: jax.Array) -> jax.Array:
    change = of_class(values) - new[:, None] * mean
    return mean + change / jnp.maximum(count, 1)[:, None]

  return {
    # Of a class in which anything is withheld they are not read.
    'log_scores': moved(
      table['log_scores'],
      jnp.where(withheld[:, None], 0.0, losses.log_scores(answers)),
    ),
    'scores': moved(
      table['scores'], jnp.exp(losses.log_scores(answers, temperature))
    ),
    'count': count,
    'withheld': table['withheld'] + of_class(withheld.astype(jnp.float32)),
  }


def means(table: Table, *, temperature: float) -> jax.Array:
  """The mean answer to each label, float32[K, K], log-scores for a softmax.

  Equation: `m_y = mean_{i: y_i = y} log q_i`, in log-scores. Where the teacher
  withholds a class of any of these, whose log-score is none, it is `m_y = tau
  log mean_i softmax(log q_i / tau)`: their mean at tau, which is that of
  `enter`.
  """
  of_scores = losses.finite(temperature * jnp.log(table['scores']))
  return jnp.where(
    table['withheld'][:, None] > 0, of_scores, table['log_scores']
  )
