"""Shares of a data set, stratified by class and the same for the same seed."""

import numpy as np

from undistillable.data import checks, dataset

# Keep the two draws apart, so that the thief's share of what is left after
# holding out does not depend on what was held out.
_HOLD_OUT, _TAKE = 0, 1


def hold_out(
  split: dataset.Split, fraction: float, seed: int
) -> tuple[dataset.Split, dataset.Split]:
  """Parts a split in two: for training, and for choosing anything chosen.

  Args:
    split: {'image': uint8[N, H, W, C], 'label': int32[N]}.
    fraction: share to hold out, 0 <= fraction < 1; 0 holds out nothing.
    seed: integer; the same seed holds out the same examples.

  Returns:
    (train, held_out): two splits, disjoint, together all of `split`, each in
    its order, with each class represented in proportion.

  Raises:
    ValueError: fraction out of range, or so small that it holds out nothing;
      or images and labels of different numbers.

  Example:
    >>> label = np.repeat(np.arange(2), 50)
    >>> split = {'image': np.zeros((100, 1, 1, 1), np.uint8), 'label': label}
    >>> [len(part['label']) for part in hold_out(split, 0.1, seed=0)]
    [90, 10]
  """
  if not 0 <= fraction < 1:
    raise ValueError(
      f'the held-out fraction must be at least 0 and below 1; given {fraction}'
    )
  split = checks.examples(split)
  order = _stratified_order(split['label'], (_HOLD_OUT, seed))
  num_held_out = round(fraction * len(order))
  if fraction and num_held_out in (0, len(order)):
    raise ValueError(
      f'a fraction of {fraction} holds out {num_held_out} of {len(order)} '
      'examples; choose one that leaves some on both sides'
    )
  held_out, train = np.split(order, [num_held_out])
  return _select(split, train), _select(split, held_out)


def take_fraction(
  split: dataset.Split, fraction: float, seed: int
) -> dataset.Split:
  """Takes a stratified share of a split: what a thief has of the data.

  For the same seed a smaller share is part of every larger one.

  Args:
    split: {'image': uint8[N, H, W, C], 'label': int32[N]}.
    fraction: share to take, 0 < fraction <= 1.
    seed: integer; the same seed takes the same examples.

  Returns:
    A split of round(fraction * N) examples, in the order of `split`.

  Raises:
    ValueError: fraction out of range, or so small that it takes nothing; or
      images and labels of different numbers.

  Source: Ma et al. (2021), arXiv:2105.07381, the ablation of the share of
  training samples; the released code draws without regard to class.
  """
  if not 0 < fraction <= 1:
    raise ValueError(
      f'the fraction to take must be above 0 and at most 1; given {fraction}'
    )
  split = checks.examples(split)
  order = _stratified_order(split['label'], (_TAKE, seed))
  num_taken = round(fraction * len(order))
  if not num_taken:
    raise ValueError(
      f'a fraction of {fraction} takes none of {len(order)} examples'
    )
  return _select(split, order[:num_taken])


def _stratified_order(label: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
  """Permutes examples so that every prefix holds each class in proportion.

  Shuffle each class, put its r-th of n examples at (r + 1/2) / n on a line,
  and read the line from left to right: prefixes are nested by construction,
  of any length, and off by less than one example a class.
  """
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(label))
  by_class = shuffled[np.argsort(label[shuffled], kind='stable')]
  _, counts = np.unique(label, return_counts=True)
  places = [(np.arange(count) + 0.5) / count for count in counts]
  place = np.concatenate([*places, np.zeros(0)])
  # Classes of one size tie; the second key breaks ties at random.
  return by_class[np.lexsort((rng.permutation(len(label)), place))]


def _select(split: dataset.Split, index: np.ndarray) -> dataset.Split:
  """The examples at `index`, in the split's own order."""
  index = np.sort(index)
  return {key: value[index] for key, value in split.items()}
