"""How a thief trains a student.

An attack is one file and one line in `ATTACKS`. The file declares

  Settings   a frozen dataclass, every field with its default;
  PARENTS    ('teacher',), or () for a thief who asks nobody;
  make       `(model, optimizer, settings, parents) -> method.Method`, of the
             student's module and an optax transformation; parents['teacher'] is
             an oracle, or what `oracle.as_oracle` takes, any other a module;
             their variables are in frozen, by the same role. Or None where
             nothing is trained, and `plan` gives the student candidates to be
             one of as further parents;

and, where it differs from the default,

  ACCESS     what the teacher gives away: 'labels', 'scores' (default) or
             'weights';
  DATA       what the student learns from: 'own' labelled images (default),
             'foreign' ones (config.transfer, without labels), or 'none': the
             batches then have a shape and a number for each example alone;
  plan       `(job, teacher, student) -> runs`, see `plan.Job`; the last one is
             the student, and teacher is None for nobody, see `null_teacher`;
  pick       `held_out -> role`: which candidate is the student, by the accuracy
             of each on the held-out part, in percent; needed where make is
             None;
  remedy     `settings -> str`: what to change where the training diverges;
  warning    `(metrics, settings) -> str | None`: what its last epoch says;
  updates_per_epoch  `(settings, steps) -> int`: of the optimizer, for its
             schedule; default: one a step;
  judge      `(material, variables) -> numbers` of a finished run, and
  watch      `material -> evaluate_fn` of one in training, where these are no
             networks, see `synthesis` and `store.Material`.
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
