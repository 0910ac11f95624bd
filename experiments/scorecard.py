"""The claims of the article: which hold here, and by what numbers.

  python -m experiments.scorecard --workdir=/tmp/digits --workdir=/tmp/cifar10

Reads what the experiments have left in each workdir; trains nothing. What it
prints is Markdown, and can be read as it is.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

import experiments
from experiments import claims
from undistillable import command, errors
from undistillable.report import document
from undistillable.storage import disk, paths

_WORKDIRS = flags.DEFINE_multi_string(
  'workdir', None, 'Of the experiments; give one for each data set.'
)


def scorecard(workdirs: Sequence[pathlib.Path]) -> str:
  """The scorecards of several workdirs as Markdown.

  Raises:
    errors.InputError: there are no results in one of them.
  """
  return '\n\n'.join(_card(read(workdir)) for workdir in workdirs)


def read(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
  """{name of an experiment: the content of its results.json}.

  The main job is the main table, less the students of the teacher's own kind.
  """
  found = {}
  for name in experiments.NAMES:
    folder = workdir / name
    if name == 'main_table' and not (folder / 'results.json').is_file():
      folder = workdir
    path = folder / 'results.json'
    if disk.damaged(folder, [path.name]):
      raise errors.InputError(f'{path} is damaged; run that experiment again')
    results = disk.read_json(path) if path.is_file() else None
    # The folder of an arena, or of a benchmark, has a results.json as well.
    if isinstance(results, dict) and results.get('study') in ('main', name):
      found[name] = results
  if not found:
    raise errors.InputError(
      f'{workdir} has no results of an experiment; run one with python -m '
      f'experiments.main_table --workdir={workdir}'
    )
  return found


def _card(results: Mapping[str, Mapping[str, Any]]) -> str:
  verdicts = claims.judge(results)
  runs = [run for result in results.values() for run in result['runs']]
  datasets = sorted({run['dataset'] for run in runs})
  counts = [
    f'{sum(v.status == status for v in verdicts)} {status}'
    for status in ('holds', 'fails', 'not run')
  ]
  head = f'**{", ".join(datasets)}**: {", ".join(counts)}.'
  table = document.markdown_table(
    ('No.', 'Claim', 'Here', 'Measured', 'Seeds'),
    [
      (str(v.number), v.text, v.status, v.evidence, str(v.seeds or ''))
      for v in verdicts
    ],
    numeric=(0, 4),
  )
  return f'{head}\n\n{table}'


def main() -> None:
  """Prints the scorecards."""
  workdirs = [paths.local(one, 'workdir') for one in _WORKDIRS.value or ()]
  if not workdirs:
    raise errors.InputError('there is no --workdir; name that of experiments')
  print(scorecard(workdirs))


if __name__ == '__main__':
  command.run(main)
