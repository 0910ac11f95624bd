"""The null teacher: an attack on nobody, which is the attack's own control.

Extra heads, learned soft labels and smooth targets make many a student better
whoever answers. So the same attack is run with each answer replaced by what the
thief knew before he asked: the label of his own image, or nothing. Only what he
gains beyond that was stolen. An attack may say what else it leaves out on
nobody, as `scm` does, whose links do not push away from labels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from undistillable import losses, method as method_lib, oracle, state

ROLE = 'teacher'  # Whose answers are replaced.


def nobody(num_classes: int, *, labels_only: bool = False) -> oracle.Oracle:
  """An oracle that knows nothing: it gives all classes the same score.

  Args:
    num_classes: K.
    labels_only: see `oracle.Oracle`; of equal scores the top class is 0.
  """

  def answer(variables: state.PyTree, images: jax.Array) -> jax.Array:
    del variables
    return jnp.zeros((len(images), num_classes))

  return oracle.Oracle(answer, labels_only=labels_only)


def known_before(labels: jax.Array, answers: jax.Array) -> jax.Array:
  """What a thief knew of his images before he asked about them.

  Args:
    labels: int[B], in 0..K-1, or -1 where he has none.
    answers: float[B, K] or int[B], of `nobody`.

  Returns:
    float32[B, K], log-scores: 0 at the label, and every other class withheld;
    or int[B], the labels. Where there is none, the answer of nobody.

  Example:
    >>> known_before(jnp.array([1, -1]), jnp.zeros((2, 2)))
    Array([[-1.e+09,  0.e+00],
           [ 0.e+00,  0.e+00]], dtype=float32)
  """
  if answers.ndim == 1:
    return jnp.where(labels >= 0, labels, answers)
  is_label = jax.nn.one_hot(labels, answers.shape[-1], dtype=bool)
  certain = jnp.where(is_label, 0.0, losses.WITHHELD)
  return jnp.where((labels >= 0)[:, None], certain, answers)


def on_nobody(method: method_lib.Method) -> method_lib.Method:
  """An attack that hears of its own images what it knew before.

  Args:
    method: an attack whose parent 'teacher' is `nobody`, which is asked about
      whatever images the attack makes up by itself.

  Returns:
    The same method, whose steps read no variables of a teacher: neither value
    nor gradient depends on one.
  """
  others = {k: ask for k, ask in method.answer_fns.items() if k != ROLE}

  def told(batch: method_lib.Batch) -> dict[str, Any]:
    if ROLE not in method.answer_fns:
      return dict(batch)
    nothing = method.answer_fns[ROLE]({}, batch['image'])
    known = known_before(batch['label'], nothing)
    return {**batch, 'answers': {**batch.get('answers', {}), ROLE: known}}

  def init(
    rng: jax.Array, batch: method_lib.Batch, frozen: method_lib.Frozen
  ) -> Any:
    return method.init(rng, told(batch), {**frozen, ROLE: {}})

  def step(
    state: Any,
    frozen: method_lib.Frozen,
    batch: method_lib.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[Any, Any]:
    frozen = {**frozen, ROLE: {}}
    return method.step(state, frozen, told(batch), rng, axis_name)

  return method_lib.Method(init, step, others, method.logits_fn)
