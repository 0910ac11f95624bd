"""Lists the experiments: python -m experiments [--config=configs/digits.py].

Of each the question, how many networks it trains, how many of those no
experiment above it needs, and how long these take on this machine, roughly.
"""

from absl import logging

import experiments
from experiments import estimate, experiment as experiment_lib
from undistillable import command
from undistillable.graph import runs as runs_lib
from undistillable.report import conduct, document

_COLUMNS = ('experiment', 'networks', 'new', 'time', 'question')


def main() -> None:
  """Prints the list."""
  logging.set_verbosity(logging.WARNING)  # JAX tells which devices it lacks.
  config = command.config()
  speed, together = estimate.measured_speed(), config.together
  rows: list[tuple[str, ...]] = [_COLUMNS]
  seen: dict[runs_lib.Run, None] = {}  # In order.
  for name in experiments.NAMES:
    experiment = experiment_lib.load(name)
    planned = experiment.plan_fn(config)
    new = [run for run in planned if run not in seen]
    seen |= dict.fromkeys(new)
    time = conduct.duration(estimate.seconds(new, speed, together))
    counts = str(len(planned)), str(len(new))
    rows.append((name, *counts, time, experiment.question))
  print('\n'.join(document.aligned(rows, numeric=(1, 2, 3))))
  total = conduct.duration(estimate.seconds(seen, speed, together))
  print(f'\nAll: {len(seen)} networks, about {total} on this machine.')
  print('Run one with python -m experiments.<name> --config=... --workdir=...')


if __name__ == '__main__':
  command.run(main, default='configs/digits.py')
