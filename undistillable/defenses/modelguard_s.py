"""ModelGuard-S: one answer for all that are near it."""

import dataclasses
from collections.abc import Mapping

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, serving

PARENTS = ('normal',)
_NAME = 'book'
_MISSES = ('exact', 'nearest')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of ModelGuard, but for what a finite book needs.

  Attributes:
    epsilon: radius of what has one answer, `|q - y|_1 <= epsilon`, in 0..2.
    words: answers that are kept for each class, >= 1. A full book takes no
      more; ModelGuard's grows without end, to a few a class at epsilon 1.
    miss: what is served where no word is within epsilon: 'nearest', the nearest
      word of the class, as ModelGuard does once its book is closed, or 'exact',
      the scores themselves, as it does before. The first holds more back of
      images unlike the owner's, the second keeps to epsilon; with it and
      epsilon 0 there is no defense.
  """

  epsilon: float = 1.0
  words: int = 64
  miss: str = 'nearest'

  def __post_init__(self) -> None:
    losses.check_not_negative('epsilon', self.epsilon)
    losses.check_whole('words', self.words, least=1)
    losses.check_one_of('miss', self.miss, _MISSES)


@flax.struct.dataclass
class Book:
  """The answers so far, by top class and in the order in which they came."""

  words: jax.Array  # float32[K, M, K], logarithms of scores.
  count: jax.Array  # int32[K], how many there are of each class.

  @property
  def variables(self) -> dict[str, jax.Array]:
    return {'words': self.words, 'count': self.count}


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, nn.Module],
) -> method.Method:
  """Fills a book with the normal network's answers to the training images.

  Equation: for the next scores y, of top class k: if a word of class k is
  within `|w - y|_1 <= epsilon`, nothing is done, else y becomes the last word
  of class k. The words of a class are then further than epsilon apart, and
  **which they are depends on the order of the images**: that of the batches,
  and so the seed. No answer that is served depends on any other: see `serve`.

  Metrics: `loss`, the share of images that became a word; `accuracy`, of the
  normal network; `words`, how many there are; `full`, the share of images that
  would have become a word of a full class.

  Source: Tang et al. (2024), "ModelGuard: Information-Theoretic Defense Against
  Model Extraction Attacks", USENIX Security; its code,
  github.com/Yoruko-Tang/ModelGuard, quantize.py, with ordered quantization.
  """
  del optimizer, parents
  logits_fn = method.frozen_fn(model)

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> Book:
    del rng
    answers = jax.eval_shape(logits_fn, frozen['normal'], batch['image'])
    return empty(answers.shape[-1], settings.words)

  def step(
    state: Book,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[Book, method.Metrics]:
    del rng
    logits = method.answer('normal', logits_fn, frozen, batch)
    hits = 100.0 * (logits.argmax(axis=-1) == batch['label'])
    accuracy = method.average(hits.mean(), axis_name)
    if axis_name is not None:  # Every device enters the answers of all.
      logits = jax.lax.all_gather(logits, axis_name, tiled=True)
    state, (is_new, is_full) = enter(state, logits, settings.epsilon)
    return state, {
      'loss': jnp.mean(is_new, dtype=jnp.float32),
      'accuracy': accuracy,
      'words': state.count.sum().astype(jnp.float32),
      'full': jnp.mean(is_full, dtype=jnp.float32),
    }

  learner = method.Method(init, step, {'normal': logits_fn})
  return method.beside(learner, model, _NAME)


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """The first word that is near the scores of the network.

  Equation: the first w of the top class k of `y = softmax(z)` with
  `|w - y|_1 <= epsilon`; where there is none see `Settings.miss`, and y itself
  where class k has no word. The book is closed: an answer depends on its image
  alone. Whoever was entered into the book is answered as he would have been
  while it was filled: the words before his were there, and those after it come
  later in the order. The top class is kept. At epsilon 1 all answers of one top
  class with a score of 1/2 or more may share a word.

  Source: as of `make`.
  """
  found = serving.trained_beside(query, _NAME).variables
  return look_up(Book(**found), query.logits, settings)


def empty(num_classes: int, num_words: int) -> Book:
  """A book without words."""
  return Book(
    jnp.zeros((num_classes, num_words, num_classes)),
    jnp.zeros(num_classes, jnp.int32),
  )


def enter(
  book: Book, logits: jax.Array, epsilon: float
) -> tuple[Book, tuple[jax.Array, jax.Array]]:
  """Enters answers, logits float[B, K], one after the other.

  Returns:
    The book; and of each answer whether it became a word, and whether only the
    size of the book kept it from that, bool[B].
  """

  def one(
    book: Book, log_y: jax.Array
  ) -> tuple[Book, tuple[jax.Array, jax.Array]]:
    top = log_y.argmax()
    distance = _distances(book, log_y)
    is_missing = ~(distance <= epsilon).any()
    place = book.count[top]
    is_full = place == len(distance)
    # Behind the last place nothing is written.
    at = jnp.where(is_missing, place, len(distance))
    words = book.words.at[top, at].set(log_y, mode='drop')
    is_new = is_missing & ~is_full
    count = book.count.at[top].add(is_new)
    return Book(words, count), (is_new, is_missing & is_full)

  return jax.lax.scan(one, book, losses.log_scores(logits))


def look_up(book: Book, logits: jax.Array, settings: Settings) -> jax.Array:
  """What is served of a closed book, log q: [B, K] -> float32[B, K]."""

  def one(log_y: jax.Array) -> jax.Array:
    words = book.words[log_y.argmax()]
    distance = _distances(book, log_y)
    near = distance <= settings.epsilon
    missed = log_y if settings.miss == 'exact' else words[distance.argmin()]
    found = jnp.where(near.any(), words[near.argmax()], missed)
    return jnp.where(jnp.isfinite(distance).any(), found, log_y)

  return jax.vmap(one)(losses.log_scores(logits))


def _distances(book: Book, log_y: jax.Array) -> jax.Array:
  """From one answer to the words of its class, infinite where there is none."""
  top = log_y.argmax()
  words = book.words[top]
  distance = jnp.abs(jnp.exp(words) - jnp.exp(log_y)[None]).sum(axis=-1)
  return jnp.where(jnp.arange(len(words)) < book.count[top], distance, jnp.inf)
