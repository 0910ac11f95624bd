"""Tuned distillation: `kd` at the temperature and alpha that the thief prefers.

A teacher that ruins students at one temperature and one alpha may be harmless
at others, and a thief who holds out a part of his images finds out which.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from undistillable import errors, losses

PARENTS = ('teacher',)

make = None  # Nothing is trained: the student is the best of some.


@dataclasses.dataclass(frozen=True)
class Settings:
  """The grid, in which every pair is tried.

  Attributes:
    temperatures: tau_S > 0, see `kd`.
    alphas: weights of the teacher, in 0..1; 0 would be the control.
  """

  temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 10.0, 20.0, 50.0)
  alphas: tuple[float, ...] = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

  def __post_init__(self) -> None:
    for name in ('temperatures', 'alphas'):
      values = getattr(self, name)
      if not values or len(set(values)) < len(values):
        raise ValueError(f'{name}={values}; expected one number or more, once')
    for temperature in self.temperatures:
      losses.check_positive('temperatures', temperature)
    for alpha in self.alphas:
      losses.check_alpha(alpha)


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """A student of `kd` for every pair of the grid, and the best of them.

  Raises:
    errors.InputError: no part of the training set is held out to choose by.
  """
  if not job.config.val_fraction:
    raise errors.InputError(
      'kd_tuned: val_fraction=0; expected a part of the training set to be '
      'held out, by which to choose'
    )
  parents = {'teacher': teacher}
  best = job.student('kd_tuned', student, parents)
  settings = best.method_settings
  # As those of a config: 1 and 1.0 are one setting, and one network.
  grid = map(float, settings.temperatures), map(float, settings.alphas)
  candidates = {
    f'kd(temperature={temperature:g}, alpha={alpha:g})': job.helper(
      'kd', student, parents, {'temperature': temperature, 'alpha': alpha}
    )
    for temperature, alpha in itertools.product(*grid)
  }
  best = dataclasses.replace(best, parents={**best.parents, **candidates})
  return [*candidates.values(), best]


def pick(held_out: Mapping[str, float]) -> str:
  """The candidate with the best held-out accuracy, of equals the first."""
  return max(held_out, key=lambda role: held_out[role])
