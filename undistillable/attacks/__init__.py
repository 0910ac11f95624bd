"""How a thief trains a student.

An attack is one file and one line in `ATTACKS`. The file declares `Settings`, a
frozen dataclass; `PARENTS`, ('teacher',), or () for who asks nobody; and

  make: (model, optimizer, settings, parents) -> method.Method

of the student's module and an optax transformation. parents['teacher'] is an
oracle, or what `oracle.as_oracle` takes, any other a module; their variables
are in frozen, by the same role. What else a file may declare is in
docs/add_an_attack.md.
"""

from types import ModuleType

from undistillable import registry
from undistillable.attacks import (
  adaptive_inversion,
  averager,
  bayes,
  contrastive,
  d_dae,
  dafl,
  deep_inversion,
  dfme,
  dist,
  dkd,
  ensemble,
  fast,
  hard_label,
  htc,
  kd,
  kd_tuned,
  knockoff,
  label_smoothing,
  maze,
  mkd,
  scm,
  scratch,
  skeptical,
)

ATTACKS = {
  'adaptive_inversion': adaptive_inversion,
  'averager': averager,
  'bayes': bayes,
  'contrastive': contrastive,
  'd_dae': d_dae,
  'dafl': dafl,
  'deep_inversion': deep_inversion,
  'dfme': dfme,
  'dist': dist,
  'dkd': dkd,
  'ensemble': ensemble,
  'fast': fast,
  'hard_label': hard_label,
  'htc': htc,
  'kd': kd,
  'kd_tuned': kd_tuned,
  'knockoff': knockoff,
  'label_smoothing': label_smoothing,
  'maze': maze,
  'mkd': mkd,
  'scm': scm,
  'scratch': scratch,
  'skeptical': skeptical,
}


def get(name: str) -> ModuleType:
  """The module of an attack; see `registry.find`."""
  return registry.find(name, ATTACKS, 'attack')
