"""How the owner of a teacher trains or serves it.

A defense is one file and one line in `DEFENSES`. The file declares

  Settings   a frozen dataclass, every field with its default;
  PARENTS    the roles of the networks that it reads: 'adversary' and 'normal'
             are trained normally, any other is planned by `plan`;
  make       `(model, optimizer, settings, parents) -> method.Method`;
             `parents` has their modules, of which the variables are in
             `frozen`. `make = None`: nothing is trained, and the network of
             the parent 'normal' is served.

and, where it needs them,

  serve      `(serving.Query, settings) -> log-scores float32[B, K]`, of a class
             that is withheld `losses.WITHHELD`: what a client is answered;
             without it the logits. It may read what `make` trains beside the
             network, see `method.beside`;
  KEEPS_TOP  True where `serve` leaves the top class what it was, of every
             answer and at all settings (of equal ones the first): whoever hears
             the top classes alone then hears those of the network itself;
  plan       `job -> runs`, see `graph.plan.Job`; the last is the teacher;
  remedy     `settings -> str`: what to change where it destroys the teacher;
  warning    `(metrics, settings) -> str | None`: what its last epoch says;
  further    `(material, variables) -> numbers` that are measured on the test
             images beside those of every network; see `graph.store.Material`;
  FILES      the names of settings that are paths: the content of these files,
             and not their names, is part of the name of a run;
  SECRETS    the entries of its variables that no export may carry;
  OUTLIERS   True where it learns from batch['outlier'] too, if there are any.
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
