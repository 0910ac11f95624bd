"""The claims of the article, judged by what has been measured here.

Ma et al. (2021), arXiv:2105.07381. A claim holds if it is true by more than
one standard error of the mean over seeds; with one seed, which the evidence
mentions, by more than that of the number of test images.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any

from experiments import comparisons, evidence
from undistillable.report import summary

READING = (
  'A claim holds if it is true by more than one standard error: over the '
  'seeds, or of one seed over the test images. '
  'Mean ± one standard deviation, in percentage points; a difference is taken '
  'seed by seed.'
)


class Claim(typing.NamedTuple):
  """One claim.

  Attributes:
    number: in the order of the article.
    text: what it claims.
    experiment: whose results decide it.
    judge: `results -> (whether it holds, the numbers in words)`; None instead
      where the results do not have what it needs.
  """

  number: int
  text: str
  experiment: str
  judge: Callable[[Mapping[str, Any]], comparisons.Found]


class Verdict(typing.NamedTuple):
  """What became of a claim on one data set.

  Attributes:
    number: of the claim.
    text: of the claim.
    status: 'holds', 'fails' or 'not run'.
    evidence: the numbers in words, or ''.
    seeds: how many are behind it.
  """

  number: int
  text: str
  status: str
  evidence: str
  seeds: int


CLAIMS = (
  Claim(
    1,
    'A nasty teacher loses at most about 2 points of accuracy.',
    'main_table',
    evidence.teacher_cost,
  ),
  Claim(
    2,
    'Students of the normal teacher gain up to 4 points over training alone.',
    'main_table',
    evidence.normal_gain,
  ),
  Claim(
    3,
    'Students of the nasty teacher lose (in the article 1.72 to 67.57 points).',
    'main_table',
    evidence.nasty_loss,
  ),
  Claim(
    4,
    'Weaker students lose far more than stronger ones.',
    'main_table',
    evidence.weaker_lose_more,
  ),
  Claim(
    5,
    'It also holds for a student of the architecture of the teacher.',
    'main_table',
    evidence.self_loss,
  ),
  Claim(
    6,
    'Logits of a normal teacher have one peak, those of a nasty one several.',
    'logits',
    evidence.peaks,
  ),
  Claim(
    7,
    'Features of both teachers separate the classes alike; the logits of the '
    'nasty one change strongly.',
    'embedding',
    evidence.separation,
  ),
  Claim(
    8,
    'Adversaries of other architectures work too.',
    'adversary',
    evidence.adversaries,
  ),
  Claim(
    9,
    'Omega from 0 to 0.1 trades the accuracy of the teacher against the loss '
    'of the student.',
    'omega',
    evidence.omega,
  ),
  Claim(
    10,
    'The larger the temperature of distillation, the more the student loses.',
    'temperature',
    evidence.temperature,
  ),
  Claim(
    11,
    'For every alpha the student loses; the smaller alpha, the less.',
    'alpha',
    evidence.alpha,
  ),
  Claim(
    12,
    'For every share of the samples the nasty teacher is worse than the normal '
    'one.',
    'fraction',
    evidence.fraction,
  ),
  Claim(
    13,
    'DAFL from a nasty teacher gives a student more than 5 points worse than '
    'from a normal one.',
    'data_free',
    evidence.data_free,
  ),
  Claim(
    14,
    'DeepInversion images of a nasty teacher hold distorted noise and wrong '
    'features.',
    'inversion',
    evidence.inversion,
  ),
)


# Of the article: what else a config names has no part in its claims.
_METHODS = ('none', 'nasty', 'scratch', 'kd', 'dafl', 'deep_inversion')


def _of_article(results: Mapping[str, Any]) -> dict[str, Any]:
  """The results of the article's defense and attacks alone."""
  owners = {
    run['id']: run['method'] in _METHODS
    for run in results['runs']
    if run['role'] == 'teacher'
  }
  runs = [
    run
    for run in results['runs']
    if run['method'] in _METHODS and owners.get(run['teacher'], True)
  ]
  return {**results, 'runs': runs, 'summary': summary.summarize(runs)}


def judge(
  results: Mapping[str, Mapping[str, Any]], experiment: str | None = None
) -> list[Verdict]:
  """Judges the claims by the results of one data set.

  Args:
    results: {name of an experiment: the content of its results.json}.
    experiment: only the claims that this one decides.

  Returns:
    One verdict a claim, in order.
  """
  return [
    _verdict(claim, results.get(claim.experiment))
    for claim in CLAIMS
    if experiment in (None, claim.experiment)
  ]


def _verdict(claim: Claim, results: Mapping[str, Any] | None) -> Verdict:
  results = results and _of_article(results)
  found = claim.judge(results) if results else None
  if results is None or found is None:
    return Verdict(claim.number, claim.text, 'not run', '', 0)
  holds, text = found
  seeds = len(results['summary']['seeds'])
  if seeds == 1:
    text = f'{text.removesuffix(".")} (one seed).'
  status = {True: 'holds', False: 'fails', None: 'not run'}[holds]
  return Verdict(claim.number, claim.text, status, text, seeds)
