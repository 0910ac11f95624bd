"""How a thief trains a student.

An attack is one file with `make(model, optimizer, *, <parents>, <settings>)`,
which returns a `method.Method`, and `PARENTS`, the roles of the frozen
networks that it reads; and one line in `ATTACKS`.
"""

from undistillable.attacks import kd, scratch

ATTACKS = {
  'kd': kd,
  'scratch': scratch,
}
