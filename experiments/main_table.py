"""The article's three tables: students of normal and of nasty teachers.

Every teacher of grid.teachers, normal and nasty; every student alone and
distilled from both; the teacher's own architecture as a student too.
"""

from experiments import experiment
from undistillable import study

EXPERIMENT = experiment.make(
  'main_table',
  'What do students learn from normal and from nasty teachers?',
  experiment.jobs(
    lambda config: [
      {
        'teacher.model': teacher,
        'students': tuple(dict.fromkeys((*config.students, teacher))),
      }
      for teacher in config.grid.teachers
    ]
  ),
  measure_fn=study.MAIN.measure_fn,  # It keeps answers for a figure.
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
