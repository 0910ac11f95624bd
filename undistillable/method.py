"""The contract that defenses and attacks fulfil: a pair of pure functions.

A method trains one network. What it may read of other networks comes in
`frozen`, a dict from a role ('adversary', 'teacher') to variables; it is an
argument of every step, never a closure, or XLA would bake the weights into the
program.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import errors, state as state_lib

# image: float[B, H, W, C], label: int[B]; where there are any, outlier, images
# unlike these; and where they were asked for before, answers: {role: float[B,
# K]}, see `Method`
Batch = Mapping[str, Any]
Frozen = Mapping[str, state_lib.PyTree]
Metrics = dict[str, jax.Array]
# (variables, images float[B, H, W, C]) -> logits float[B, K]
ApplyFn = Callable[[state_lib.PyTree, jax.Array], jax.Array]


class Forward(NamedTuple):
  """What a loss sees of one forward pass.

  Attributes:
    logits: float[B, K], of the network in training.
    answers: {role: float[B, K]}, what frozen networks say of the same images;
      int[B] of whoever is told the top classes alone.
    batch: image: float[B, H, W, C], label: int[B].
    features: what `features_fn` of `supervised` chose of the network's
      intermediate values; () without one.
    extra: the second group of parameters; () without one.
    step: int32[], steps taken before this one.
    total: the sum of an array over all devices, itself on one; no gradient
      goes through it.
    views: {name: float[B, K]}, logits of what `views` of `supervised` shows
      the network in the same pass; {} without any.
    axis_name: the axis over which the batch is spread, for BatchNorm of the
      second group; None on one device.
  """

  logits: jax.Array
  answers: Mapping[str, jax.Array]
  batch: Batch
  features: Any
  extra: state_lib.PyTree
  step: jax.Array
  total: Callable[[jax.Array], jax.Array]
  views: Mapping[str, jax.Array]
  axis_name: str | None = None


# A batch -> float[B, H, W, C]; None where it has no such images.
ViewFn = Callable[[Batch], jax.Array | None]
# Forward -> (loss float[B], further metrics float[B] by name)
LossFn = Callable[[Forward], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
  """How one network learns.

  Attributes:
    init: `(rng, batch, frozen) -> state`; the state has a property `variables`.
      The batch is of the first examples, as many as the training loop likes;
      few networks see more in it than its shape.
    step: `(state, frozen, batch, rng, axis_name=None) -> (state, metrics)`;
      metrics are scalars by name, averaged over the devices of `axis_name`.
    answer_fns: {role: `(variables, images) -> float[B, K]`, or int[B]} of the
      frozen networks of which the step reads nothing but their answers to the
      batch's own images. Whoever has these already hands them in as
      batch['answers'][role], and frozen[role] is then not read.
    logits_fn: `(variables, images) -> float[B, K]` of the network in training,
      where the labels must be of its K classes.
  """

  init: Callable[..., Any]
  step: Callable[..., tuple[Any, Any]]
  answer_fns: Mapping[str, ApplyFn] = dataclasses.field(default_factory=dict)
  logits_fn: ApplyFn | None = None


class Extra(NamedTuple):
  """A second group of parameters, trained beside the network and then dropped.

  Attributes:
    init: `(rng, Forward) -> params`; of an initial forward pass of the first
      examples, in evaluation mode.
    optimizer: an optax transformation.
  """

  init: Callable[[jax.Array, Forward], state_lib.PyTree]
  optimizer: optax.GradientTransformation


def supervised(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  loss_fn: LossFn,
  *,
  answer_fns: Mapping[str, ApplyFn] | None = None,
  extra: Extra | None = None,
  features_fn: Callable[[Mapping[str, Any]], Any] | None = None,
  views: Mapping[str, ViewFn] | None = None,
  train: bool = True,
) -> Method:
  """The method that minimises the mean of one loss over a batch.

  Args:
    model: a linen module, `model.apply(variables, images, train=...)`, whose
      variables are 'params' and, with BatchNorm, 'batch_stats'. Where it has a
      field `axis_name`, its BatchNorm pools statistics over that axis.
    optimizer: an optax transformation.
    loss_fn: `Forward -> (loss, metrics)`, one number an example each.
    answer_fns: see `Method`; their answers are in the loss's `answers`, and
      no gradient reaches them.
    extra: further parameters of the loss.
    features_fn: of the values of all inner modules, as flax's
      `capture_intermediates` lays them out, those that the loss wants; with
      views, of all images in the order of the pass.
    views: further images that the network is shown with those of the batch, by
      name. It is one pass over all of them, one after the other, so BatchNorm
      has one mean of all, as it has when it is evaluated; dropout draws for
      each anew. The answers of frozen networks are of the batch's own.
    train: False leaves BatchNorm and dropout as they are in an evaluation.

  Returns:
    The method. Its metrics are loss, accuracy (percent), and those of loss_fn.
    Its step raises ValueError, while it is traced, for a loss_fn that
    returns anything but one number an example.
  """
  answer_fns, views = dict(answer_fns or {}), dict(views or {})
  _check_module(model)

  def forward(
    network: nn.Module,
    variables: state_lib.PyTree,
    frozen: Frozen,
    batch: Batch,
    rng: jax.Array,
    axis_name: str | None,
    train: bool = train,
  ) -> tuple[Forward, state_lib.PyTree]:
    """What the loss sees, without the second group, and what has changed."""
    mutable = ['batch_stats'] if train else []
    options: dict[str, Any] = {'mutable': mutable}
    if features_fn:
      options = {
        'mutable': [*mutable, 'intermediates'],
        'capture_intermediates': True,
      }
    if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
      # The key is that of all devices, and a module knows its own images only.
      rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    # Flax draws from 'params' where a module asks for any other stream.
    streams = {'dropout': rng, 'params': jax.random.fold_in(rng, 1)}
    images, shown = _with_views(batch, views)
    logits, updates = network.apply(
      variables, images, train=train, rngs=streams, **options
    )
    _check_logits(logits, images, model)
    if shown:
      logits, *others = jnp.split(logits, 1 + len(shown))
      shown = dict(zip(shown, others, strict=True))
    features = features_fn(updates['intermediates']) if features_fn else ()
    answers = {
      role: jax.lax.stop_gradient(answer(role, ask, frozen, batch))
      for role, ask in answer_fns.items()
    }
    seen = Forward(
      logits=logits,
      answers=answers,
      batch=batch,
      features=features,
      extra=(),
      step=jnp.zeros((), jnp.int32),
      total=functools.partial(_total, axis_name=axis_name),
      views=shown,
      axis_name=axis_name,
    )
    return seen, updates.get('batch_stats', variables['batch_stats'])

  def init(
    rng: jax.Array, batch: Batch, frozen: Frozen
  ) -> state_lib.TrainState:
    variables = model.init(rng, batch['image'], train=False)
    _check_collections(variables, model)
    variables = {
      'params': variables['params'],
      'batch_stats': variables.get('batch_stats', {}),
    }
    state = state_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=variables['batch_stats'],
      opt_state=optimizer.init(variables['params']),
    )
    if extra is None:
      return state
    seen, _ = forward(model, variables, frozen, batch, rng, None, train=False)
    params = extra.init(jax.random.fold_in(rng, 1), seen)
    return dataclasses.replace(
      state, extra=params, extra_opt_state=extra.optimizer.init(params)
    )

  def step(
    state: state_lib.TrainState,
    frozen: Frozen,
    batch: Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[state_lib.TrainState, Metrics]:
    network = _on_axis(model, axis_name)

    def mean_loss(
      groups: tuple[state_lib.PyTree, state_lib.PyTree],
    ) -> tuple[jax.Array, tuple[Metrics, state_lib.PyTree]]:
      params, further = groups
      variables = {'params': params, 'batch_stats': state.batch_stats}
      seen, batch_stats = forward(
        network, variables, frozen, batch, rng, axis_name
      )
      loss, metrics = loss_fn(seen._replace(extra=further, step=state.step))
      hits = seen.logits.argmax(-1) == batch['label']
      metrics = {'loss': loss, 'accuracy': 100.0 * hits, **metrics}
      # What is a mean already would go unnoticed through the mean below.
      for name, value in metrics.items():
        if jnp.shape(value) != batch['label'].shape:
          raise ValueError(
            f'loss_fn returns a {name} of shape {jnp.shape(value)}; expected '
            f'one number an example, {batch["label"].shape}'
          )
      return loss.mean(), (jax.tree.map(jnp.mean, metrics), batch_stats)

    grads, (metrics, batch_stats) = jax.grad(mean_loss, has_aux=True)(
      (state.params, state.extra)
    )
    grads, metrics = average((grads, metrics), axis_name)
    if train:
      # Statistics are averaged too: a model that cannot pool them over the
      # devices would otherwise leave each device with its own. Those that a
      # method leaves alone would not survive a mean of three bit for bit.
      batch_stats = average(batch_stats, axis_name)
    params, opt_state = _update(
      optimizer, grads[0], state.opt_state, state.params
    )
    state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    if extra:
      params, opt_state = _update(
        extra.optimizer, grads[1], state.extra_opt_state, state.extra
      )
      state = dataclasses.replace(
        state, extra=params, extra_opt_state=opt_state
      )
    return state, metrics

  return Method(init, step, answer_fns, frozen_fn(model))


def leading(before: state_lib.PyTree, after: state_lib.PyTree) -> jax.Array:
  """A loss of value 0, whose descent of rate 1 leads from before to after.

  So an `Extra` with `optax.sgd(1.0)` may keep what a method has counted or
  heard. All arrays are float32, and no gradient reaches what is in them.

  Args:
    before: the parameters of the `Extra`, as they are.
    after: those that they become, the same for all devices of the batch.
  """
  steps = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, before, after))
  change = jax.tree.map(lambda x, y: jnp.sum(x * y), before, steps)
  found = jax.tree.reduce(jnp.add, change)
  return found - jax.lax.stop_gradient(found)


def beside(learner: Method, model: nn.Module, name: str) -> Method:
  """The method that trains what only the answering reads.

  The normal network is served as it is, weights and all. What the learner
  trains is one more entry of its variables: a network that answers in its
  place, one that stands for the thief's, or anything else.

  Args:
    learner: the method that trains it.
    model: the network that is served; its variables are frozen['normal'].
    name: of the entry; `serving.trained_beside` finds it.

  Returns:
    The method. Its metrics are those of the learner.
  """

  def init(
    rng: jax.Array, batch: Batch, frozen: Frozen
  ) -> state_lib.BesideState:
    if 'normal' not in frozen:
      raise errors.InputError(
        "method.beside serves the network of the parent 'normal'; name it in "
        'PARENTS'
      )
    network = {
      key: frozen['normal'][key]
      for key in ('params', 'batch_stats')
      if key in frozen['normal']
    }
    other = learner.init(rng, batch, frozen)
    step = jnp.zeros((), jnp.int32)
    return state_lib.BesideState(step, network, other, name)

  def step(
    state: state_lib.BesideState,
    frozen: Frozen,
    batch: Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[state_lib.BesideState, Metrics]:
    other, metrics = learner.step(state.beside, frozen, batch, rng, axis_name)
    new = dataclasses.replace(state, step=state.step + 1, beside=other)
    return new, metrics

  return Method(init, step, learner.answer_fns, frozen_fn(model))


def frozen_fn(model: nn.Module) -> ApplyFn:
  """A network that must not change, in evaluation mode, without gradients.

  Args:
    model: a linen module.

  Returns:
    `(variables, images) -> logits`.
  """

  _check_module(model)

  def apply_fn(variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    frozen = jax.lax.stop_gradient(variables)
    try:
      logits: Any = model.apply(frozen, images, train=False)
    except flax.errors.InvalidRngError as error:
      raise errors.InputError(
        f'{type(model).__name__} draws random numbers with train=False; '
        'expected none in an evaluation'
      ) from error
    _check_logits(logits, images, model)
    return jax.lax.stop_gradient(logits)

  return apply_fn


@functools.lru_cache(maxsize=16)
def features_fn(model: nn.Module) -> ApplyFn:
  """What the last layer of a network reads, in evaluation mode.

  Args:
    model: a linen module that sows 'features' into 'intermediates', as all of
      `models.MODELS` do.

  Returns:
    `(variables, images) -> float[B, F]`; the same for equal modules.
  """

  def apply_fn(variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    _, sown = model.apply(
      variables, images, train=False, mutable=['intermediates']
    )
    (features,) = sown['intermediates']['features']
    return features.reshape(len(features), -1)

  return apply_fn


def answer(role: str, ask: ApplyFn, frozen: Frozen, batch: Batch) -> jax.Array:
  """What a frozen network says of a batch; it may have been asked before."""
  given = batch.get('answers', {})
  return given[role] if role in given else ask(frozen[role], batch['image'])


def lower(name: str) -> Callable[[Any], str]:
  """The `remedy` of a method: a setting that is too high, as 'cmim.weight'."""
  field = name.rpartition('.')[2]
  return lambda settings: f'lower {name} (now {getattr(settings, field)})'


def _with_views(
  batch: Batch, views: Mapping[str, ViewFn]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """All images of a pass, and those of them that are views, by name."""
  images = batch['image']
  shown = {
    name: found.astype(images.dtype)
    for name, view in views.items()
    if (found := view(batch)) is not None
  }
  if not shown:
    return images, {}
  return jnp.concatenate([images, *shown.values()]), shown


def as_frozen_fn(network: ApplyFn | nn.Module) -> ApplyFn:
  """`frozen_fn` of a module; a function is taken as it is."""
  if isinstance(network, nn.Module):
    return frozen_fn(network)
  _check_no_other(network)
  return network


def _check_module(model: Any) -> None:
  """Raises InputError for what cannot be called as a module of Linen."""
  name = type(model).__name__
  if not isinstance(model, nn.Module):
    _check_no_other(model)
    raise errors.InputError(
      f'the network is of type {name}; expected a flax.linen module, called as '
      'module(images, train=...)'
    )
  parameters = inspect.signature(type(model).__call__).parameters
  any_name = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
  if 'train' not in parameters and not any_name:
    raise errors.InputError(
      f'{name}.__call__ takes {", ".join(list(parameters)[1:])}; expected '
      'images and train, as in module(images, train=False)'
    )


def _check_no_other(network: Any) -> None:
  """Raises InputError for a module of another library, callable as it is."""
  origins = [kind.__module__ for kind in type(network).__mro__]
  if any(origin.startswith('flax.nnx') for origin in origins):
    raise errors.InputError(
      f'{type(network).__name__} is a module of flax.nnx; expected one of '
      'flax.linen, which flax.nnx.bridge.to_linen(its class, ...) makes'
    )
  if any(origin.startswith('torch.nn') for origin in origins):
    raise errors.InputError(
      f'{type(network).__name__} is a module of PyTorch; expected one of '
      'flax.linen; see undistillable.interop for its weights'
    )


def _check_collections(variables: Mapping[str, Any], model: nn.Module) -> None:
  """Raises InputError for variables that a training would not keep."""
  if 'params' not in variables or set(variables) - {'params', 'batch_stats'}:
    raise errors.InputError(
      f'{type(model).__name__} has variables in {sorted(variables)}; expected '
      "'params', and of what is not trained none but 'batch_stats'"
    )


def _check_logits(logits: Any, images: jax.Array, model: nn.Module) -> None:
  """Raises InputError for an answer that is not one score a class."""
  shape = getattr(logits, 'shape', None)
  if shape is None or len(shape) != 2 or shape[0] != images.shape[0]:
    given = type(logits).__name__ if shape is None else f'shape {shape}'
    raise errors.InputError(
      f'{type(model).__name__} answers {len(images)} images with {given}; '
      f'expected logits of shape ({len(images)}, classes)'
    )


def average(tree: Any, axis_name: str | None) -> Any:
  """The mean of every array over the devices; the tree itself on one."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _total(x: jax.Array, axis_name: str | None) -> jax.Array:
  """See `Forward`."""
  x = jax.lax.stop_gradient(x)
  return x if axis_name is None else jax.lax.psum(x, axis_name)


def _update(
  optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, old: Any
) -> tuple[state_lib.PyTree, Any]:
  """Parameters and the state of their optimizer after a step."""
  updates, opt_state = optimizer.update(grads, opt_state, old)
  return optax.apply_updates(old, updates), opt_state


def _on_axis(model: nn.Module, axis_name: str | None) -> nn.Module:
  """The same model with its BatchNorm pooled over the devices."""
  if axis_name is None or not hasattr(model, 'axis_name'):
    return model
  return model.clone(axis_name=axis_name)
