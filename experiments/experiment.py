"""What an experiment is: runs, numbers, figures, and claims that they test."""

import importlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from experiments import claims
from undistillable import plan, runs as runs_lib, study
from undistillable.report import (
  document,
  draw,
  summary as summary_lib,
  write as write_lib,
)


def _nothing(*_: object) -> dict[str, Any]:
  return {}


def _no_figures(*_: object) -> list[draw.Figure]:
  return []


class Experiment(typing.NamedTuple):
  """One table or figure.

  Attributes:
    name: of its module, and of its folder in a workdir.
    title: the question that it answers.
    plan_fn: `config -> runs`.
    figures_fn: `(results, workdir, folder) -> figures`.
    measure_fn: see `study.Study`.
    report_fn: see there; where its report is another than that of all others.
    fixed_fields: see there.
    text_fn: see there.
  """

  name: str
  title: str
  plan_fn: Callable[[ml_collections.ConfigDict], list[runs_lib.Run]]
  figures_fn: Callable[..., list[draw.Figure]] = _no_figures
  measure_fn: Callable[..., Mapping[str, Any]] = _nothing
  report_fn: Callable[..., None] | None = None
  fixed_fields: tuple[str, ...] = ()
  text_fn: Callable[[study.Results], str] = study.MAIN.text_fn


def load(name: str) -> Experiment:
  """The experiment of a module."""
  return importlib.import_module(f'experiments.{name}').EXPERIMENT


def plan_all(
  configs: Iterable[ml_collections.ConfigDict],
) -> list[runs_lib.Run]:
  """The runs of several configs of the main job, each once."""
  return plan.in_order(run for config in configs for run in plan.make(config))


def as_study(experiment: Experiment) -> study.Study:
  """What `study.run` takes."""

  def write(
    results: Mapping[str, Any], workdir: Any, *, folder: Any, command: str
  ) -> None:
    write_lib.write(
      results,
      workdir,
      folder=folder,
      command=command,
      conclusion=_conclusion(experiment, results),
      figures=experiment.figures_fn(results, workdir, folder),
    )

  return study.Study(
    experiment.name,
    experiment.plan_fn,
    experiment.measure_fn,
    experiment.report_fn or write,
    go_on=True,
    fixed_fields=experiment.fixed_fields,
    text_fn=experiment.text_fn,
  )


def main(experiment: Experiment) -> None:
  """`python -m experiments.<name> --config=... --workdir=...`."""
  from undistillable import main  # It defines flags: for a command line alone.

  main.run(as_study(experiment), f'experiments.{experiment.name}')


def _conclusion(
  experiment: Experiment, results: Mapping[str, Any]
) -> document.Conclusion:
  """What became of the claims that the experiment tests."""
  verdicts = claims.judge({experiment.name: results}, experiment.name)
  where = results['runs'][0]['dataset']
  title = f'{experiment.title} ({where})'
  summary = summary_lib.summarize(results['runs'])
  if not verdicts:
    return document.Conclusion(
      title, summary['headline'], summary['sentence'], 'open'
    )
  holds = [verdict for verdict in verdicts if verdict.status == 'holds']
  sentence = summary['sentence']
  if len(verdicts) == 1:
    sentence = f'{verdicts[0].text} {verdicts[0].evidence}'
  return document.Conclusion(
    title,
    _headline(verdicts, holds),
    sentence,
    'good' if len(holds) == len(verdicts) else 'open',
    [
      document.Heading('Claims of the article'),
      document.Table(
        ('No.', 'Claim', 'Here', 'Measured'),
        [(str(v.number), v.text, v.status, v.evidence) for v in verdicts],
        claims.READING,
      ),
    ],
  )


def _headline(
  verdicts: Sequence[claims.Verdict], holds: Sequence[claims.Verdict]
) -> str:
  if len(verdicts) == 1:
    only = verdicts[0]
    return f'Claim {only.number} of the article: {only.status}'
  return f'{len(holds)} of {len(verdicts)} claims of the article hold'
