"""Optimizers and learning-rate schedules, by name, as PyTorch applies them."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from undistillable import errors, losses

SCHEDULES = ('constant', 'cosine', 'cosine_floor', 'linear', 'step')
# A regular expression that is found somewhere in the 'module/name' of its
# parameters, as 'norm.*/bias'; the factors of their learning rate and decay.
Group = tuple[str, float, float]


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  nesterov: bool = False,
) -> optax.GradientTransformation:
  """SGD with momentum; weight decay is added to the gradient, of every array.

  As torch.optim.SGD without dampening: the decay enters the momentum, and the
  learning rate scales what comes out of it. BatchNorm and biases decay too.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
  )


def adam(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Adam with L2 regularisation in the gradient, as torch.optim.Adam.

  `momentum` is beta_1; beta_2 is 0.999.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.adam(learning_rate, b1=momentum),
  )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'adam': adam,
  'nesterov': functools.partial(sgd, nesterov=True),
  'sgd': sgd,
}


def of_recipe(
  recipe: Mapping[str, Any], steps_per_epoch: int
) -> optax.GradientTransformation:
  """The optimizer that a recipe of `config.base` describes, with its schedule.

  Raises:
    ValueError: an unknown name or an impossible value.
  """
  schedule = get_schedule(
    recipe['schedule'],
    learning_rate=recipe['learning_rate'],
    epochs=recipe['epochs'],
    steps_per_epoch=steps_per_epoch,
    milestones=recipe['milestones'],
    gamma=recipe['gamma'],
    warmup_epochs=recipe['warmup_epochs'],
  )
  return get_optimizer(
    recipe['optimizer'],
    schedule,
    momentum=recipe['momentum'],
    weight_decay=recipe['weight_decay'],
    groups=recipe['groups'],
  )


def get_schedule(
  name: str,
  *,
  learning_rate: float,
  epochs: int,
  steps_per_epoch: int,
  milestones: tuple[int, ...] = (),
  gamma: float = 0.1,
  warmup_epochs: int = 0,
) -> optax.Schedule:
  """The learning rate at every step.

  Args:
    name: 'constant'; 'step', times gamma at each milestone; 'cosine' or
      'linear', from the learning rate down to 0 at the end; 'cosine_floor',
      down to gamma times the learning rate.
    learning_rate: the highest one, > 0.
    epochs: length of the training.
    steps_per_epoch: updates in an epoch.
    milestones: for 'step', in epochs.
    gamma: for 'step', the factor; for 'cosine_floor', the share that is left.
    warmup_epochs: epochs of linear rise from 0 that come first; milestones
      count from the start of the warm-up.

  Returns:
    `step -> learning rate`.

  Raises:
    ValueError: an unknown name or an impossible value.
  """
  errors.check_known('schedule', name, SCHEDULES)
  losses.check_positive('learning_rate', learning_rate)
  losses.check_whole('epochs', epochs, least=1)
  if not 0 <= warmup_epochs < epochs:
    raise ValueError(
      f'warmup_epochs={warmup_epochs}; expected 0..{epochs - 1}, fewer than '
      f'the {epochs} epochs of the training'
    )
  warmup = warmup_epochs * steps_per_epoch
  steps = epochs * steps_per_epoch - warmup
  if name == 'constant':
    schedule = optax.constant_schedule(learning_rate)
  elif name == 'cosine':
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
  elif name == 'cosine_floor':
    schedule = optax.cosine_decay_schedule(learning_rate, steps, alpha=gamma)
  elif name == 'linear':
    schedule = optax.linear_schedule(learning_rate, 0.0, steps)
  else:
    # optax counts from the end of the warm-up.
    boundaries = {m * steps_per_epoch - warmup: gamma for m in milestones}
    schedule = optax.piecewise_constant_schedule(learning_rate, boundaries)
  if not warmup:
    return schedule
  rise = optax.linear_schedule(0.0, learning_rate, warmup)
  return optax.join_schedules([rise, schedule], [warmup])


def get_optimizer(
  name: str,
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float,
  weight_decay: float,
  groups: Sequence[Group] = (),
) -> optax.GradientTransformation:
  """An optimizer of `OPTIMIZERS`.

  Args:
    name: its key.
    learning_rate: a number or a schedule.
    momentum: of SGD; beta_1 of Adam. In 0..1, without 1.
    weight_decay: L2 coefficient, >= 0.
    groups: parameters that learn at another rate, or decay otherwise; what
      several of them name belongs to the first.

  Raises:
    ValueError: an unknown name or an impossible value.

  Example:
    >>> fast = ('bias', 64.0, 1 / 64)
    >>> optimizer = get_optimizer(
    ...   'sgd', 0.1, momentum=0.0, weight_decay=0.0, groups=(fast,))
    >>> params = {'fc': {'bias': jnp.zeros(()), 'kernel': jnp.zeros(())}}
    >>> grads = jax.tree.map(jnp.ones_like, params)
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> {name: round(float(x), 2) for name, x in updates['fc'].items()}
    {'bias': -6.4, 'kernel': -0.1}
  """
  errors.check_known('optimizer', name, OPTIMIZERS)
  if not 0 <= momentum < 1:
    raise ValueError(f'momentum={momentum}; expected 0 <= momentum < 1')
  losses.check_not_negative('weight_decay', weight_decay)
  patterns = _patterns(groups)

  def of_group(rate: float, decay: float) -> optax.GradientTransformation:
    return OPTIMIZERS[name](
      _times(learning_rate, rate),
      momentum=momentum,
      weight_decay=weight_decay * decay,
    )

  if not groups:
    return of_group(1.0, 1.0)

  def group_of(path: tuple[Any, ...], _: Any) -> int:
    found = '/'.join(str(getattr(key, 'key', key)) for key in path)
    numbers = (i for i, p in enumerate(patterns) if p.search(found))
    return next(numbers, len(patterns))

  factors = [*(group[1:] for group in groups), (1.0, 1.0)]
  return optax.partition(
    {i: of_group(*both) for i, both in enumerate(factors)},
    lambda params: jax.tree_util.tree_map_with_path(group_of, params),
  )


def _patterns(groups: Sequence[Group]) -> list[re.Pattern[str]]:
  """The regular expressions of groups, all of which are as they should be."""
  patterns = []
  for group in groups:
    try:
      pattern, rate, decay = group
      patterns.append(re.compile(pattern))
      fits = rate >= 0 and decay >= 0
    except (re.error, TypeError, ValueError):
      fits = False
    if not fits:
      raise ValueError(
        f'groups: {group!r}; expected a regular expression and two factors >= '
        "0, of learning rate and weight decay, as ('norm.*/bias', 64.0, 1.0)"
      )
  return patterns


def _times(
  learning_rate: optax.ScalarOrSchedule, factor: float
) -> optax.ScalarOrSchedule:
  """A learning rate, or a schedule of them, times a factor."""
  if not callable(learning_rate):
    return factor * learning_rate
  schedule: Any = learning_rate
  return schedule if factor == 1 else lambda step: factor * schedule(step)
