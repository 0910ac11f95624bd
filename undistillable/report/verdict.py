"""The verdict of the arena: is a defense distillable, by what we know?

Everything is decided by which test images networks get right, on seeds that no
choice was made on:

  distillable    the thief who was chosen on his own validation images gains
                 over the best that he could do alone: the one-sided 95 % lower
                 bound of his gain is above 0, for some student (Holm over the
                 students).
  undistillable  against the attacks listed: for every one of them and every
                 student the one-sided 95 % upper bound of the gain is below
                 the margin. Each of these tests has the full level, and all of
                 them must reject (Berger, 1982, Technometrics 24(4)). Of an
                 attack that lacks a result nobody knows that it would.
  open           neither.

Pure NumPy and SciPy; nothing here knows what a network is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

LEVEL = 0.05  # Of every test, one-sided.
MIN_SEEDS = 3  # With fewer, nothing is decided.
_MAX_SEEDS = 1_000  # Beyond so many a verdict is not to be had by training.
_REPLICATES = 10_000
_TOGETHER = 1_000  # Replicates that are drawn at once; bounds the memory only.


class Gain(NamedTuple):
  """The gain of an attack over a control, in percentage points."""

  points: float  # Mean accuracy of the attack less that of the control.
  seeds_variance: float  # The part of the variance that more seeds reduce.
  images_variance: float  # The part that only more test images reduce.
  degrees: float  # Of freedom of their sum.
  num_seeds: int  # Of the attack or the control, whichever has fewer.
  images_degrees: float = math.inf  # Of freedom of the images' part alone.

  @property
  def error(self) -> float:
    """The standard error."""
    return np.sqrt(self.seeds_variance + self.images_variance)

  def low(self, level: float = LEVEL) -> float:
    """A one-sided lower bound."""
    return self.points - _quantile(level, self.degrees) * self.error

  def high(self, level: float = LEVEL) -> float:
    """A one-sided upper bound."""
    return self.points + _quantile(level, self.degrees) * self.error

  def with_seeds(self, number: Any) -> 'Gain':
    """What so many would leave of it, or arrays for an array of numbers."""
    of_images = self.images_variance**2 / self.images_degrees
    # What is left is of the seeds, however attack and control share it.
    of_seeds = max(self.error**4 / self.degrees - of_images, 0.0)
    share = (self.num_seeds / number) ** 2
    share = share * (self.num_seeds - 1) / (number - 1)
    smallest = np.finfo(float).tiny
    parts = np.maximum(of_seeds * share + of_images, smallest)
    variance = self.seeds_variance * self.num_seeds / number
    found = self._replace(seeds_variance=variance, num_seeds=number)
    return found._replace(degrees=np.maximum(found.error**4 / parts, 1.0))


def gain(attack: np.ndarray, control: np.ndarray) -> Gain:
  """How much more often an attack is right than a control.

  Seeds and test images are both draws: of R networks that see n images each,
  the difference of the mean accuracies has the variance

    s_a^2 / R_a + s_c^2 / R_c + max(0, v - m_a / (n R_a) - m_c / (n R_c))

  with s^2 the variance of the accuracies over seeds, v the variance over
  images of the difference of the mean hits, over n, and m the mean square of
  what neither seed nor image explains (of the two-way table of hits). That
  noise is in s^2 and in v: it is counted once. Seeds of attack and control are
  not paired, since they see their batches in different orders; images are.
  Degrees of freedom after Satterthwaite. One discordant image is the least
  that is reckoned with: agreement on all n proves no agreement on all others.

  Args:
    attack: bool[R_a, n], whether seed r is right about image i.
    control: bool[R_c, n], about the same images.

  Raises:
    ValueError: the shapes do not fit, or one of them has a single seed.

  Source: crossed random effects, as in Searle et al. (1992), "Variance
  Components", chapter 4.
  """
  attack, control = _as_pair(attack, control)
  n = attack.shape[1]
  parts = [_seed_part(hits) for hits in (attack, control)]
  seeds = sum(variance for variance, _ in parts)
  noise = sum(_noise(hits) / hits.size for hits in (attack, control))
  by_image = attack.mean(axis=0) - control.mean(axis=0)
  images = max(float(by_image.var(ddof=1)) / n - noise, 0.0)
  # One image of n on which they differ.
  images = max(images, 1 / n**2 - seeds)
  total = seeds + images
  known = sum(variance**2 / degrees for variance, degrees in parts)
  return Gain(
    points=100.0 * float(by_image.mean()),
    seeds_variance=1e4 * seeds,
    images_variance=1e4 * images,
    degrees=total**2 / (known + images**2 / (n - 1)),
    num_seeds=min(len(attack), len(control)),
    images_degrees=n - 1,
  )


def bootstrap(
  attack: np.ndarray,
  control: np.ndarray,
  replicates: int = _REPLICATES,
  level: float = LEVEL,
) -> tuple[float, float]:
  """One-sided bounds of a gain, in points, by drawing it again.

  Each replicate draws, with replacement, the seeds of the attack, those of the
  control, and n images, the same for both. What R drawn seeds differ from all R
  by is enlarged by sqrt(R / (R - 1)), without which their variance would be too
  small by (R - 1) / R. What neither seed nor image explains is counted three
  times, and so the bounds are wide where that prevails; see `gain`, whose
  bounds decide.

  Args:
    attack: bool[R_a, n], whether seed r is right about image i.
    control: bool[R_c, n], about the same images.
    replicates: how often it is drawn, >= 1.
    level: of the lower bound, 0 to 1; that of the upper one is `LEVEL`.

  Returns:
    Two quantiles of the replicates: `level`, and 1 less that of the other.

  Raises:
    ValueError: the shapes do not fit, or one of them has a single seed.

  Source: Owen (2007), "The pigeonhole bootstrap", arXiv:0712.1111.
  """
  attack, control = _as_pair(attack, control)
  rng = np.random.default_rng(0)
  # Images about which all networks are right and wrong alike are alike: so
  # many of each kind are drawn, which takes hundredths of the time.
  kinds, counts = np.unique(
    np.concatenate([attack, control]), axis=1, return_counts=True
  )
  number, shares = attack.shape[1], counts / attack.shape[1]
  # float[replicates, R_a + R_c], the accuracies.
  hits = np.concatenate(
    [
      drawn @ (kinds.T / number)
      for drawn in _draws(rng, number, shares, replicates)
    ]
  )
  parts = hits[:, : len(attack)], hits[:, len(attack) :]
  ours, theirs = (_drawn_mean(rng, part) for part in parts)
  low, high = np.quantile(ours - theirs, (level, 1 - LEVEL))
  return 100.0 * float(low), 100.0 * float(high)


def _draws(
  rng: np.random.Generator, number: int, shares: np.ndarray, replicates: int
) -> Iterator[np.ndarray]:
  """How often each is drawn of `number`, int[replicates, len(shares)] in parts.

  All at once they are gigabytes, of tens of thousands of images.
  """
  for done in range(0, replicates, _TOGETHER):
    yield rng.multinomial(number, shares, min(_TOGETHER, replicates - done))


def _drawn_mean(rng: np.random.Generator, hits: np.ndarray) -> np.ndarray:
  """The mean over seeds that are drawn for each row of hits[replicates, R]."""
  replicates, number = hits.shape
  drawn = rng.multinomial(number, np.full(number, 1 / number), replicates)
  weights = 1 + (drawn - 1) * math.sqrt(number / (number - 1))
  return (weights * hits).mean(axis=1)


def _as_pair(
  attack: np.ndarray, control: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Hits as numbers, of two or more seeds about the same images."""
  attack, control = (np.asarray(x, np.float64) for x in (attack, control))
  if attack.ndim != 2 or attack.shape[1:] != control.shape[1:]:
    raise ValueError(
      f'hits of shapes {attack.shape} and {control.shape}; expected [R, n] '
      'about the same n images'
    )
  if min(len(attack), len(control)) < 2:
    raise ValueError('one seed has no variance; expected two or more')
  return attack, control


def _seed_part(hits: np.ndarray) -> tuple[float, int]:
  """The variance of a mean over seeds, and its degrees of freedom."""
  return float(hits.mean(axis=1).var(ddof=1)) / len(hits), len(hits) - 1


def _noise(hits: np.ndarray) -> float:
  """The mean square of what is left of hits without seed and image."""
  left = hits - hits.mean(axis=0, keepdims=True)
  left = left - left.mean(axis=1, keepdims=True)
  rows, columns = hits.shape
  return float(np.sum(left**2)) / ((rows - 1) * (columns - 1))


def choose(validation: Mapping[str, np.ndarray]) -> str:
  """The name with the most hits; of equal ones the first by its name.

  Args:
    validation: {name: bool[R, m]}, hits on images that were held out.
  """
  return min(validation, key=lambda name: (-validation[name].mean(), name))


def stability(validation: Mapping[str, np.ndarray]) -> float:
  """How often the same is chosen from other validation images, 0..1.

  These are drawn again from the images, with replacement; see `choose`.
  """
  names = sorted(validation)  # Ties go to the first, as there.
  hits = np.stack([validation[name].mean(axis=0) for name in names])
  number = hits.shape[1]
  rng = np.random.default_rng(0)
  shares = np.full(number, 1 / number)
  # Rounded: sums of equal numbers in another order are to stay equal.
  found = [
    np.argmax(np.round(drawn @ hits.T, 6), axis=1)
    for drawn in _draws(rng, number, shares, _REPLICATES)
  ]
  same = np.concatenate(found) == names.index(choose(validation))
  return float(same.mean())


class Contest(NamedTuple):
  """What one student came to against one defense."""

  student: str
  # The attack that the thief chose by validation; None where he has nothing to
  # choose by. Then any attack may show that he gains, and Holm's correction
  # goes over all of them.
  chosen: str | None
  gains: Mapping[str, Gain]  # Of each attack over the control.
  # Attacks that were tried, of which a run diverged, or is not there.
  missing: Sequence[str] = ()
  # Of those who know what no thief does: they are shown, and decide nothing.
  bounds: Mapping[str, Gain] = {}


class Verdict(NamedTuple):
  """What became of a defense."""

  decision: str  # 'distillable', 'undistillable' or 'open'.
  # What decides: the candidate with the greatest lower bound; without one ''.
  student: str
  attack: str
  gain: Gain | None
  level: float  # Of its lower bound, with Holm's correction.
  below_margin: bool  # Whether every gain is known to be below the margin.
  # Of an open verdict, how many fresh ones would settle it if all gains stayed
  # as they are; None where no number of them would.
  seeds: int | None
  missing: Sequence[str] = ()  # Attacks without a result, by some student.


def judge(contests: Sequence[Contest], margin: float) -> Verdict:
  """The verdict on one defense; `contests` are one a student.

  A gain below the margin, in points, is none that matters.
  """
  candidates = [
    (one.student, name, one.gains[name])
    for one in contests
    for name in ([one.chosen] if one.chosen else sorted(one.gains))
  ]
  every = [found for one in contests for found in one.gains.values()]
  missing = tuple(dict.fromkeys(k for one in contests for k in one.missing))
  if not candidates:
    return Verdict('open', '', '', None, LEVEL, False, None, missing)
  # Of Holm's steps the first decides whether there is any gain at all.
  first = LEVEL / len(candidates)
  # That of a thief who gains much bounds what leaks; the surest gain, of least
  # p-value, may be a small one of another.
  student, attack, best = min(
    candidates, key=lambda c: (-c[2].low(first), c[0], c[1])
  )
  enough = min(found.num_seeds for found in every) >= MIN_SEEDS
  gained = best.low(first) > 0 and best.num_seeds >= MIN_SEEDS
  below = enough and all(found.high() < margin for found in every)
  below = below and not missing
  decision = 'distillable' if gained else 'undistillable' if below else 'open'
  seeds = None
  if decision == 'open':
    rivals = [found for _, _, found in candidates]
    # A gain above 0 is one whatever the others come to.
    most = -math.inf if missing else margin
    seeds = _seeds_to_settle(rivals, every, most, first)
  return Verdict(decision, student, attack, best, first, below, seeds, missing)


def _seeds_to_settle(
  candidates: Sequence[Gain],
  every: Sequence[Gain],
  margin: float,
  first: float,
) -> int | None:
  """The least number of seeds with which either test would reject."""
  have = min(found.num_seeds for found in every)
  numbers = np.arange(max(have + 1, MIN_SEEDS), _MAX_SEEDS + 1)
  gained = [g.with_seeds(numbers).low(first) > 0 for g in candidates]
  below = [g.with_seeds(numbers).high() < margin for g in every]
  settled = np.any(gained, axis=0) | np.all(below, axis=0)
  return int(numbers[settled.argmax()]) if settled.any() else None


def _quantile(level: float, degrees: Any) -> Any:
  """What Student's t of such degrees exceeds with probability `level`.

  As scipy.stats, for which every command would wait.
  """
  return -scipy.special.stdtrit(degrees, level)
