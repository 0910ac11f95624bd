"""Lists the experiments: python -m experiments [--config=configs/digits.py].

Of each the question, how many networks it trains, how many of those no
experiment above it needs, and how long these take on this machine, roughly.
"""

from absl import logging

import experiments
from experiments import estimate, experiment as experiment_lib
from undistillable import command, runs as runs_lib
from undistillable.report import conduct

_COLUMNS = ('experiment', 'networks', 'new', 'time', 'question')


def main(argv: list[str]) -> None:
  """Prints the list."""
  del argv
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
    rows.append((name, *counts, time, experiment.title))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = [row[0].ljust(widths[0])]
    cells += [c.rjust(w) for c, w in zip(row[1:4], widths[1:4], strict=True)]
    print('  '.join([*cells, row[4]]))
  total = conduct.duration(estimate.seconds(seen, speed, together))
  print(f'\nAll: {len(seen)} networks, about {total} on this machine.')
  print('Run one with python -m experiments.<name> --config=... --workdir=...')


if __name__ == '__main__':
  command.run(main, default='configs/digits.py')
