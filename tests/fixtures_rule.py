"""The rules that filled the parity fixtures (their README), in NumPy."""

import math

import numpy as np


def _fraction(u: np.ndarray) -> np.ndarray:
  return u - np.floor(u)


def tensor(name: str, shape: tuple[int, ...], index: int) -> np.ndarray:
  """float32[shape], in PyTorch's layout, of the `index`-th tensor `name`."""
  j = np.arange(math.prod(shape), dtype=np.float64)
  u = np.sin(12.9898 * (j + 1) + 78.233 * (index + 1)) * 43758.5453
  u = (2 * _fraction(u) - 1).reshape(shape)
  if name.endswith('running_var'):
    u = 1 + 0.5 * np.abs(u)
  elif name.endswith('running_mean'):
    u = 0.1 * u
  elif len(shape) > 1:
    u = 0.9 * math.sqrt(6 / math.prod(shape[1:])) * u
  elif name.endswith('weight'):
    u = 1 + 0.1 * u
  else:
    u = 0.1 * u
  return u.astype(np.float32)


def state_dict(names, shapes, first: int = 0) -> dict[str, np.ndarray]:
  """All tensors, numbered from `first`, in the order of `names`."""
  return {
    name: tensor(name, tuple(shape), first + i)
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
  }


def images(batch: int, size: int, channels: int = 3) -> np.ndarray:
  """float32[batch, size, size, channels]; the rule itself counts in BCHW."""
  j = np.arange(batch * channels * size * size, dtype=np.float64)
  u = np.sin(4.1414 * (j + 1)) * 2654.435
  x = (4 * _fraction(u) - 2).reshape(batch, channels, size, size)
  return x.transpose(0, 2, 3, 1).astype(np.float32)
