"""How the owner of a teacher trains or serves it.

A defense is one file and one line in `DEFENSES`. The file declares `Settings`,
a frozen dataclass; `PARENTS`, the roles of the networks that it reads; and

  make: (model, optimizer, settings, parents) -> method.Method

of the teacher's module and an optax transformation. parents has modules, and
their variables are in frozen, by the same role; with `make = None` nothing is
trained, and the network of the parent 'normal' is served. What clients are
answered, `serve`, and whatever else a file may declare is in
docs/add_a_defense.md.
"""

from types import ModuleType

from undistillable import registry
from undistillable.defenses import (
  adaptive_misinformation,
  cmim,
  decoy,
  grad2,
  label_smoothing,
  mad,
  modelguard_s,
  modelguard_w,
  nasty,
  nasty_head,
  none,
  reverse_sigmoid,
  rounding,
  sdb,
  stingy,
  top_k,
)

DEFENSES = {
  'adaptive_misinformation': adaptive_misinformation,
  'cmim': cmim,
  'decoy': decoy,
  'grad2': grad2,
  'label_smoothing': label_smoothing,
  'mad': mad,
  'modelguard_s': modelguard_s,
  'modelguard_w': modelguard_w,
  'nasty': nasty,
  'nasty_head': nasty_head,
  'none': none,
  'reverse_sigmoid': reverse_sigmoid,
  'rounding': rounding,
  'sdb': sdb,
  'stingy': stingy,
  'top_k': top_k,
}


def get(name: str) -> ModuleType:
  """The module of a defense; see `registry.find`."""
  return registry.find(name, DEFENSES, 'defense')
