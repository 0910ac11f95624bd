"""How the owner of a teacher trains or serves it.

A defense is one file with `make(model, optimizer, *, <parents>, <settings>)`,
which returns a `method.Method`, and `PARENTS`, the roles of the frozen
networks that it reads; and one line in `DEFENSES`.
"""

from undistillable.defenses import nasty, none

DEFENSES = {
  'nasty': nasty,
  'none': none,
}
