"""What the experiments share that steal without data: their runs."""

import ml_collections

from undistillable import attacks, data, plan, runs as runs_lib, synthesis


def main_job(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The main job of the teacher and the student of config.data_free."""
  changes = {
    'teacher.model': config.data_free.teacher,
    'students': (config.data_free.student,),
  }
  return plan.make(plan.vary(config, changes))


def dafl(
  config: ml_collections.ConfigDict, seed: int, teacher: runs_lib.Run
) -> list[runs_lib.Run]:
  """A student of a generator's images."""
  chosen = config.dafl
  settings = attacks.ATTACKS['dafl'].PRESETS[chosen.preset]
  student = plan.make_run(
    config,
    seed,
    'student',
    config.data_free.student,
    'dafl',
    settings | chosen.settings.to_dict(),
    {'teacher': teacher},
    chosen.recipe.to_dict(),
  )
  return [student]


def deep_inversion(
  config: ml_collections.ConfigDict, seed: int, teacher: runs_lib.Run
) -> list[runs_lib.Run]:
  """Images from the weights of a teacher, and a student of both."""
  images = _images(config, seed, 'deep_inversion', {'teacher': teacher})
  return [images, _student(config, seed, teacher, images)]


def adaptive_inversion(
  config: ml_collections.ConfigDict, seed: int, teacher: runs_lib.Run
) -> list[runs_lib.Run]:
  """The same, then images that the student errs on, and a student of all."""
  images, student = deep_inversion(config, seed, teacher)
  parents = {'teacher': teacher, 'student': student}
  more = _images(config, seed, 'adaptive_inversion', parents)
  return [images, student, more, _student(config, seed, teacher, more)]


# By the names of attacks.ATTACKS.
THEFTS = {
  'adaptive_inversion': adaptive_inversion,
  'dafl': dafl,
  'deep_inversion': deep_inversion,
}


def _images(
  config: ml_collections.ConfigDict,
  seed: int,
  method: str,
  parents: dict[str, runs_lib.Run],
) -> runs_lib.Run:
  """Images that an attack makes up."""
  chosen = config.deep_inversion
  settings = attacks.ATTACKS[method].PRESETS[chosen.preset]
  # The range that a byte can have, as the teacher sees it.
  low, high = synthesis.value_range(*data.NORMALIZATIONS[config.normalization])
  return plan.make_run(
    config,
    seed,
    'images',
    parents['teacher'].model,
    method,
    settings | chosen.settings.to_dict() | {'low': low, 'high': high},
    parents,
    chosen.recipe.to_dict(),
  )


def _student(
  config: ml_collections.ConfigDict,
  seed: int,
  teacher: runs_lib.Run,
  images: runs_lib.Run,
) -> runs_lib.Run:
  """A student of a teacher's answers to images that were made up."""
  chosen = config.deep_inversion
  return plan.make_run(
    config,
    seed,
    'student',
    config.data_free.student,
    'kd',
    {'temperature': chosen.temperature, 'alpha': chosen.alpha},
    {'teacher': teacher, 'images': images},
    chosen.student_recipe.to_dict(),
  )
