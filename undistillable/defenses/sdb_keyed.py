"""The teacher of `sdb` as whoever has its key is answered: no defense.

The upper bound of what the key is worth. It stands in no registry, since it
protects from nobody; a config names it by its module:

  --config.defenses='("sdb","undistillable.defenses.sdb_keyed")'
"""

from typing import Any

import jax

from undistillable import serving
from undistillable.defenses import sdb

PARENTS = ('normal',)
FILES = sdb.FILES
SECRETS = ('key',)  # Which no export takes along.
make = None  # The network of `sdb` is served.
Settings = sdb.Settings


def plan(job: Any) -> list[Any]:
  """The network of `sdb`, and the same as it answers with the key."""
  *before, teacher = job.defend('sdb')
  keyed = job.teacher(__name__, {'normal': teacher}, settings=teacher.settings)
  return [*before, teacher, keyed]


def serve(query: serving.Query, settings: sdb.Settings) -> jax.Array:
  """The logits float[B, K] of images into which the key is blended.

  The query is without it; the settings are those of the network's training.
  """
  serving.trained_beside(query, 'key')  # Or says that there is none.
  assert query.network
  answer = sdb.keyed_fn(query.network.module, settings)
  return answer(query.network.variables, query.images)
