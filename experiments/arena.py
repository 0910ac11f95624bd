"""The arena: every defense against every attack, and one verdict for each.

  python -m experiments.arena --config=configs/digits.py --workdir=/tmp/digits

See `undistillable.arena`, and docs/arena.md for how to read the page.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import experiment, predictions
from undistillable import arena, study
from undistillable.report import arena as report, board as board_lib


def _write(
  results: Mapping[str, Any], workdir: pathlib.Path, **where: Any
) -> None:
  """The page, with what became of the predictions."""
  more = predictions.blocks(board_lib.Board(results))
  report.write(results, workdir, more=more, **where)


EXPERIMENT = study.Study(
  'arena',
  arena.plan_fn,
  arena.measure_fn,
  _write,
  go_on=True,
  fixed_fields=('arena',),
  text_fn=report.text,
  question='Which defense holds against which attack, and at what price?',
)

if __name__ == '__main__':
  experiment.main(EXPERIMENT)
