"""How a thief trains a student.

An attack is one file with `make(model, optimizer, *, <parents>, <settings>)`,
which returns a `method.Method`, and `PARENTS`, the roles of the frozen
networks that it reads; and one line in `ATTACKS`.
"""

from undistillable.attacks import (
  adaptive_inversion,
  dafl,
  deep_inversion,
  kd,
  scratch,
)

ATTACKS = {
  'adaptive_inversion': adaptive_inversion,
  'dafl': dafl,
  'deep_inversion': deep_inversion,
  'kd': kd,
  'scratch': scratch,
}
