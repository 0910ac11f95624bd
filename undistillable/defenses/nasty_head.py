"""A nasty last layer upon the features of the network that it undermines."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, state as state_lib
from undistillable.defenses import nasty

PARENTS = ('adversary',)


@dataclasses.dataclass(frozen=True)
class Settings(nasty.Settings):
  """Those of `nasty`, and one more.

  Attributes:
    noise: standard deviation of what is added to the last layer before the
      first step, >= 0. Without any, the divergence starts at its minimum, and
      has no gradient.
  """

  noise: float = 1e-3

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_not_negative('noise', self.noise)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, nn.Module],
) -> method.Method:
  """Trains the last layer of the adversary to be nasty, and nothing else.

  The adversary's module equals `model`. Metrics: see `nasty.conditions`.

  Raises:
    ValueError: the adversary is another network than the teacher, or, when
      the method is first used, no inner module of it has parameters.

  Source: "Just Mildly Nasty", github.com/mattkelleher/Nasty-Teacher,
  train_nasty_light.py, which leaves BatchNorm in training mode; the loss, Ma
  et al. (2021), arXiv:2105.07381, eq. 2.
  """
  if parents['adversary'] != model:
    raise ValueError(
      'nasty_head starts from the weights of its adversary, which has another '
      'architecture than the teacher; leave adversary.model empty, or set it '
      'to that of the teacher'
    )
  logits_fn = method.frozen_fn(model)
  answer_fns = {'adversary': logits_fn}

  def supervised(
    variables: state_lib.PyTree, images: jax.Array
  ) -> tuple[method.Method, state_lib.PyTree]:
    """The training of the last layer, and which parameters are in it.

    They cannot be known before the images have a shape; to build the method
    anew costs nothing but time for tracing.
    """
    is_head = last_layer(model, variables, images)
    # Weight decay moves no other parameter, either.
    parts = {True: optimizer, False: optax.set_to_zero()}
    learner = method.supervised(
      model,
      optax.partition(parts, is_head),
      nasty.loss_fn(settings),
      answer_fns=answer_fns,
      extra=nasty.extra(settings),
      train=False,
    )
    return learner, is_head

  def init(
    rng: jax.Array, batch: method.Batch, frozen: method.Frozen
  ) -> state_lib.TrainState:
    start = frozen['adversary']
    learner, is_head = supervised(start, batch['image'])
    noise = optax.tree.random_like(rng, start['params'])
    params = jax.tree.map(
      lambda x, change, is_head: x + settings.noise * change if is_head else x,
      start['params'],
      noise,
      is_head,
    )
    return dataclasses.replace(
      learner.init(rng, batch, frozen),
      params=params,
      batch_stats=start.get('batch_stats', {}),
    )

  def step(
    state: state_lib.TrainState,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[state_lib.TrainState, method.Metrics]:
    learner, _ = supervised(state.variables, batch['image'])
    return learner.step(state, frozen, batch, rng, axis_name)

  return method.Method(init, step, answer_fns, logits_fn)


def warning(metrics: Mapping[str, float], settings: Settings) -> str | None:
  """As of `nasty`; and where the last layer is still that of the adversary."""
  far = settings.temperature**2 * metrics['kl']
  said = nasty.warning(metrics, settings)
  if said or far >= 1.0 or not metrics['omega']:
    return said
  return (
    f'its last layer answers as that of its adversary (tau^2 KL {far:.2g}), '
    'and undermines nobody; raise omega from '
    f'{metrics["omega"]:.2g}, which will cost accuracy'
  )


def last_layer(
  model: nn.Module, variables: state_lib.PyTree, images: jax.Array
) -> state_lib.PyTree:
  """Which parameters are those of the last layer: a bool for each.

  That is the inner module with parameters of its own that is called last when
  the network is evaluated, whatever it is called. Nothing is computed.

  Raises:
    ValueError: there is no such module.
  """
  found: list[tuple[str, ...]] = []

  def note(
    next_fn: Callable[..., Any],
    args: Any,
    kwargs: Any,
    context: nn.module.InterceptorContext,
  ) -> Any:
    module = context.module
    if context.method_name != 'setup' and module.path:
      inside = module.variables.get('params', {}).values()
      # What is no dict is its own, and not that of a module inside of it.
      if not all(isinstance(child, Mapping) for child in inside):
        found.append(module.path)
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(note):
    apply = functools.partial(model.apply, train=False)
    jax.eval_shape(apply, variables, images)
  if not found:
    raise ValueError(
      f'nasty_head trains the last layer, but no inner module of '
      f'{type(model).__name__} has parameters'
    )
  head = found[-1]
  return jax.tree_util.tree_map_with_path(
    lambda path, _: tuple(key.key for key in path[: len(head)]) == head,
    variables['params'],
  )


def remedy(settings: Settings) -> str:
  """What to change where the teacher collapses or diverges."""
  return nasty.remedy(settings, 'nasty_head')
