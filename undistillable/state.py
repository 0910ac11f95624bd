"""The states of networks in training: arrays only."""

from typing import Any

import flax
import jax

PyTree = Any  # A nested dict, tuple or dataclass of arrays.


@flax.struct.dataclass
class TrainState:
  """What one step of training changes.

  Attributes:
    step: int32[], steps taken so far.
    params: pytree of float32 parameters.
    batch_stats: pytree of BatchNorm statistics, {} for a model without any.
    opt_state: the optimizer's state.
  """

  step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree

  @property
  def variables(self) -> dict[str, PyTree]:
    """What `model.apply` takes, and what is evaluated and published."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


@flax.struct.dataclass
class States:
  """The states of networks that are trained together.

  Attributes:
    members: one state each; all have taken equally many steps.
  """

  members: tuple[Any, ...]

  @property
  def step(self) -> jax.Array:
    """int32[], steps taken so far by each."""
    return self.members[0].step
