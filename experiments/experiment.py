"""What an experiment is: runs, numbers, figures, and claims that they test."""

import importlib
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from experiments import claims
from undistillable import study
from undistillable.graph import plan, runs as runs_lib
from undistillable.report import document, draw, write as write_lib

PlanFn = Callable[[ml_collections.ConfigDict], list[runs_lib.Run]]
# (the content of results.json, the workdir, the folder of the experiment).
FiguresFn = Callable[
  [Mapping[str, Any], pathlib.Path, pathlib.Path], list[draw.Figure]
]


def load(name: str) -> study.Study:
  """The experiment of a module."""
  return importlib.import_module(f'experiments.{name}').EXPERIMENT


def jobs(
  changes_fn: Callable[
    [ml_collections.ConfigDict], Iterable[Mapping[str, Any]]
  ],
) -> PlanFn:
  """`plan_fn` of an experiment: the main job with each of these changes.

  Args:
    changes_fn: `config -> changes`, each as `plan.vary` takes them.
  """
  return lambda config: plan.in_order(
    run
    for changes in changes_fn(config)
    for run in plan.make(plan.vary(config, changes))
  )


def make(
  name: str,
  question: str,
  plan_fn: PlanFn,
  figures_fn: FiguresFn | None = None,
  measure_fn: Callable[..., Mapping[str, Any]] = lambda *_: {},
) -> study.Study:
  """An experiment whose report has these figures, and what became of claims.

  Args:
    name: of its module, and of its folder in a workdir.
    question: see `study.Study`.
    plan_fn: `config -> runs`.
    figures_fn: default: those of the main job.
    measure_fn: see `study.Study`.
  """

  def write(
    results: Mapping[str, Any], workdir: Any, *, folder: Any, command: str
  ) -> None:
    write_lib.write(
      results,
      workdir,
      folder=folder,
      command=command,
      conclusion=_conclusion(name, question, results),
      figures=figures_fn and figures_fn(results, workdir, folder),
    )

  return study.Study(
    name, plan_fn, measure_fn, write, go_on=True, question=question
  )


def main(experiment: study.Study) -> None:
  """`python -m experiments.<name> --config=... --workdir=...`."""
  from undistillable import main  # It defines flags: for a command line alone.

  main.run(experiment, f'experiments.{experiment.name}')


def _conclusion(
  name: str, question: str, results: Mapping[str, Any]
) -> document.Conclusion:
  """What became of the claims that the experiment tests."""
  verdicts = claims.judge({name: results}, name)
  title = f'{question} ({results["runs"][0]["dataset"]})'
  summary = results['summary']
  if not verdicts:
    return document.Conclusion(
      title, summary['headline'], summary['sentence'], 'open'
    )
  holds = sum(verdict.status == 'holds' for verdict in verdicts)
  headline = f'{holds} of {len(verdicts)} claims of the article hold'
  sentence = summary['sentence']
  if len(verdicts) == 1:
    (only,) = verdicts
    headline = f'Claim {only.number} of the article: {only.status}'
    sentence = f'{only.text} {only.evidence}'
  return document.Conclusion(
    title,
    headline,
    sentence,
    'good' if holds == len(verdicts) else 'open',
    [
      document.Heading('Claims of the article'),
      document.Table(
        ('No.', 'Claim', 'Here', 'Measured'),
        [(str(v.number), v.text, v.status, v.evidence) for v in verdicts],
        claims.READING,
      ),
    ],
  )
