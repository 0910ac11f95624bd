"""What the experiments share that steal without data: their runs."""

import ml_collections

from undistillable import data, plan, runs as runs_lib, synthesis
from undistillable.attacks import dafl, deep_inversion


def main_job(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The main job of the teacher and the student of config.data_free."""
  changes = {
    'teacher.model': config.data_free.teacher,
    'students': (config.data_free.student,),
  }
  return plan.make(plan.vary(config, changes))


def by_dafl(
  config: ml_collections.ConfigDict, seed: int, teacher: runs_lib.Run
) -> runs_lib.Run:
  """A student of a generator's images."""
  return plan.make_run(
    config,
    seed,
    'student',
    config.data_free.student,
    'dafl',
    dafl.PRESETS[config.dafl.preset] | config.dafl.settings.to_dict(),
    {'teacher': teacher},
    config.dafl.recipe.to_dict(),
  )


def images(
  config: ml_collections.ConfigDict, seed: int, teacher: runs_lib.Run
) -> runs_lib.Run:
  """Images from the weights of a teacher."""
  chosen = config.deep_inversion
  # The range that a byte can have, as the teacher sees it.
  low, high = synthesis.value_range(*data.NORMALIZATIONS[config.normalization])
  settings = deep_inversion.PRESETS[chosen.preset] | chosen.settings.to_dict()
  return plan.make_run(
    config,
    seed,
    'images',
    teacher.model,
    'deep_inversion',
    settings | {'low': low, 'high': high},
    {'teacher': teacher},
    chosen.recipe.to_dict(),
  )


def by_inversion(
  config: ml_collections.ConfigDict, seed: int, teacher: runs_lib.Run
) -> list[runs_lib.Run]:
  """Images from the weights of a teacher, and a student of both."""
  chosen = config.deep_inversion
  made = images(config, seed, teacher)
  student = plan.make_run(
    config,
    seed,
    'student',
    config.data_free.student,
    'kd',
    {'temperature': chosen.temperature, 'alpha': chosen.alpha},
    {'teacher': teacher, 'images': made},
    chosen.student_recipe.to_dict(),
  )
  return [made, student]
