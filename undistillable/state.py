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
    extra: a second group of parameters, which is no part of the network.
    extra_opt_state: the state of their optimizer.
  """

  step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree
  extra: PyTree = ()
  extra_opt_state: PyTree = ()

  @property
  def variables(self) -> dict[str, PyTree]:
    """What `model.apply` takes, and what is evaluated and published."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


@flax.struct.dataclass
class BesideState:
  """The state of a training beside a network that stays as it is.

  Attributes:
    step: int32[], steps taken so far.
    network: the variables of that network.
    beside: the state of what is trained; it has a property `variables`.
    name: under which these are found among those of the network.
  """

  step: jax.Array
  network: PyTree
  beside: Any
  name: str = flax.struct.field(pytree_node=False)

  @property
  def variables(self) -> dict[str, PyTree]:
    """Those of the network, and with them what was trained beside it."""
    return {**self.network, self.name: self.beside.variables}
