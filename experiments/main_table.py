"""The article's three tables: students of normal and of nasty teachers.

Every teacher of grid.teachers, normal and nasty; every student alone and
distilled from both; the teacher's own architecture as a student too.
"""

import ml_collections

from experiments import experiment
from undistillable import study
from undistillable.graph import plan, runs as runs_lib


def _plan(config: ml_collections.ConfigDict) -> list[runs_lib.Run]:
  """The main job of every teacher, which is a student of its own as well."""
  return experiment.plan_all(
    plan.vary(
      config,
      {
        'teacher.model': teacher,
        'students': tuple(dict.fromkeys((*config.students, teacher))),
      },
    )
    for teacher in config.grid.teachers
  )


EXPERIMENT = experiment.make(
  'main_table',
  'What do students learn from normal and from nasty teachers?',
  _plan,
  measure_fn=study.MAIN.measure_fn,  # It keeps answers for a figure.
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
