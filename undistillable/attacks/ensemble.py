"""Ensemble: the student learns the mean answer of several protected networks.

An owner who serves several, each trained and protected from a seed of its own,
says of the same image as many things. False peaks that differ from network to
network are then averaged out; what a defense does to all answers alike is not.

Equation: that of `scm.make`, with `m = mean_j softmax(log q_j / tau)`: a mean
of scores and not of their logarithms, in which a class that one network
withholds would be withheld by all. The teacher's partners are its links.

Source: none known, but for the ensemble inside of SCM: Jandial et al. (2022),
arXiv:2210.11728.
"""

import dataclasses
import zlib
from typing import Any

from undistillable import losses
from undistillable.attacks import kd, scm

PARENTS = ('teacher',)
make = scm.make
_MAX_NETWORKS = 20  # All of them are trained, and then asked.


@dataclasses.dataclass(frozen=True)
class Settings(kd.Settings):
  """Those of `kd`, and one more.

  Attributes:
    networks: J, how many protected networks are asked, in 1..20; 1 is `kd`.
  """

  networks: int = 3

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_whole('networks', self.networks, least=1)
    if self.networks > _MAX_NETWORKS:
      raise ValueError(
        f'networks={self.networks}; expected at most {_MAX_NETWORKS}'
      )


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """One student, and the further networks of the owner, as partners.

  On nobody there is one who knows nothing: several would say the same. So would
  several networks of one file of weights, of which there are no others.
  """
  run = job.student('ensemble', student, {'teacher': teacher})
  partners = {
    f'partner{number}': partner(teacher, number)
    for number in range(1, run.method_settings.networks)
    if teacher and not _of_a_file(teacher)
  }
  return [dataclasses.replace(run, parents={**run.parents, **partners})]


def _of_a_file(run: Any) -> bool:
  """Whether what clients ask comes from files, whatever its seed."""
  if run.only_serves:
    return _of_a_file(run.parents['normal'])
  return bool(run.init_from)


def partner(run: Any, number: int) -> Any:
  """The same network from another seed, with all that it depends on.

  The seed follows from the number and the run's own, and is the same for all of
  a partner's line. Weights from a file stay as they are.
  """
  parents = {role: partner(one, number) for role, one in run.parents.items()}
  seed = zlib.crc32(f'{run.seed} {number}'.encode())
  if run.init_from:
    seed = run.seed
  elif run.only_serves:
    # What is served is one network, and so is its protected form.
    seed = parents['normal'].seed
  role = {'teacher': 'partner', 'student': 'helper'}.get(run.role, run.role)
  return dataclasses.replace(
    run, role=role, seed=seed, parents=parents, compared_with={}
  )
