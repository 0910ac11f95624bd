"""What the owner of a network lets its clients see of its answers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export

from undistillable import losses, method, state as state_lib

COLLECTIONS = ('params', 'batch_stats')  # Of the network itself.
PARENTS = 'parents'  # The key of the parents' variables in those of a teacher.


class Network(NamedTuple):
  """A frozen network with its variables: `network(images) -> logits`."""

  module: nn.Module
  variables: state_lib.PyTree

  def __call__(self, images: jax.Array) -> jax.Array:
    return method.frozen_fn(self.module)(self.variables, images)


class Query(NamedTuple):
  """A client's question, and what the owner knows of it.

  Attributes:
    images: float[B, H, W, C].
    logits: float[B, K], of the network that is served.
    parents: {role: network}, the others that the defense reads.
    network: the one that is served, with all that its training left; None where
      nothing but its logits is known.
  """

  images: jax.Array
  logits: jax.Array
  parents: Mapping[str, Network]
  network: Network | None = None


def trained_beside(query: Query, name: str) -> Network:
  """What `method.beside` has trained under a name, beside what is served.

  Returns:
    The module that is served, with the variables of the other; these need not
    be of a network.

  Raises:
    ValueError: there is none of this name.
  """
  if query.network is None or name not in query.network.variables:
    raise ValueError(
      f'this defense reads {name!r}, which its training leaves among the '
      'variables of the network; train it first'
    )
  return Network(query.network.module, query.network.variables[name])


def own(variables: state_lib.PyTree) -> dict[str, state_lib.PyTree]:
  """Those of a network itself, without what is read beside it."""
  return {k: variables[k] for k in COLLECTIONS if k in variables}


# (Query, settings) -> log-scores float[B, K]
ServeFn = Callable[[Query, Any], jax.Array]


def scores(query: Query) -> jax.Array:
  """What the network itself says: y = softmax(z), float32[B, K]."""
  return jnp.exp(losses.log_scores(query.logits))


def log_scores(q: jax.Array, query: Query) -> jax.Array:
  """log q of what a defense serves in place of `scores`: float[B, K] -> same.

  `losses.WITHHELD` where q is 0. Where a score is left as it is, so is its
  logarithm: also that of one too small for float32, of which a thief who
  softens the answers would notice the loss.
  """
  unchanged = q == scores(query)
  log_y = losses.log_scores(query.logits)
  return losses.finite(jnp.where(unchanged, log_y, jnp.log(q)))


def answer_fn(
  model: nn.Module,
  serve: ServeFn | None = None,
  settings: Any = None,
  parents: Mapping[str, nn.Module] | None = None,
) -> method.ApplyFn:
  """What a client of a network is answered.

  Args:
    model: the network.
    serve: see `defenses`; None serves the logits as they are.
    settings: of the defense.
    parents: modules of the other networks that `serve` reads, by role.

  Returns:
    `(variables, images) -> float[B, K]`, without gradients. Beside those of
    the network, variables['parents'] holds the variables of its parents.

  Example:
    >>> from undistillable import models
    >>> from undistillable.defenses import stingy
    >>> model = models.get_model('cnn8', 10)
    >>> served = answer_fn(model, stingy.serve, stingy.Settings())
  """
  logits_fn, parents = method.frozen_fn(model), dict(parents or {})
  if serve is None:
    return logits_fn

  def answer(variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    known = variables.get(PARENTS, {})
    networks = {
      k: Network(v, known[k]) for k, v in parents.items() if k in known
    }
    network = Network(model, variables)
    logits = logits_fn(own(variables), images)

    def ask(images: jax.Array, logits: jax.Array) -> jax.Array:
      query = Query(images, logits, networks, network)
      served = losses.finite(serve(query, settings))
      if served.shape != logits.shape:
        raise ValueError(
          f'serve returns {served.shape}; expected one score a class, '
          f'{logits.shape}'
        )
      return served

    if not export.is_symbolic_dim(images.shape[0]):
      return jax.lax.stop_gradient(ask(images, logits))
    # A function that is exported has any number of images, and a defense may
    # count them, or ask for gradients, of which none are of any number. What
    # it answers depends on no other image.
    served = jax.lax.map(
      lambda one: ask(one[0][None], one[1][None])[0], (images, logits)
    )
    return jax.lax.stop_gradient(served)

  return answer
