"""State dicts in files: safetensors, and PyTorch's own where torch is."""

import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from undistillable import paths
from undistillable.interop import state_dicts

_TORCH_SUFFIXES = ('.bin', '.pt', '.pth', '.tar')


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """The tensors of a checkpoint file, by name.

  Args:
    path: a `.safetensors` file, or a `.pt`, `.pth`, `.tar` or `.bin` file
      written by `torch.save`, for which PyTorch must be installed. Only
      tensors and plain containers are unpickled, never code.

  Returns:
    Arrays by tensor name, for `from_torch`.

  Raises:
    FileNotFoundError: where there is no such file.
    ImportError: for a PyTorch file without PyTorch.
    ValueError: for another suffix, or a file that is damaged or holds no state
      dict.

  Example:
    >>> save('weights.safetensors', {'fc.bias': np.zeros(10, np.float32)})
    >>> load('weights.safetensors')['fc.bias'].shape
    (10,)
  """
  path = paths.local(path, 'path')
  if not path.is_file():
    raise FileNotFoundError(f'no checkpoint file at {path}')
  suffix = path.suffix.lower()
  if suffix == '.safetensors':
    return _load_safetensors(path)
  if suffix in _TORCH_SUFFIXES:
    return _load_torch(path)
  known = ', '.join(sorted((*_TORCH_SUFFIXES, '.safetensors')))
  raise ValueError(f'{path}: unknown suffix {path.suffix!r}; known: {known}')


def save(
  path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]
) -> None:
  """Writes a state dict (see `to_torch`) to a `.safetensors` file.

  Example:
    >>> save('weights.safetensors', {'fc.bias': np.zeros(10, np.float32)})
  """
  path = paths.local(path, 'path')
  if path.suffix != '.safetensors':
    raise ValueError(f'{path}: the suffix must be .safetensors')
  # safetensors writes the buffer as it lies, whatever its strides say.
  arrays = {key: np.ascontiguousarray(x) for key, x in state_dict.items()}
  path.write_bytes(safetensors_numpy.save(arrays))


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a safetensors file."""
  try:
    return safetensors_numpy.load_file(path)
  # The latter two: of types that NumPy does not know.
  except (safetensors.SafetensorError, AttributeError, KeyError) as error:
    raise ValueError(
      f'{path} is truncated, damaged or no safetensors file of arrays ({error})'
    ) from error


def _load_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what torch.save wrote, and unwraps the state dict in it."""
  try:
    import torch  # An optional dependency, heavy, and needed here alone.
  except ImportError as error:
    raise ImportError(
      f'{path} is a PyTorch file: install torch (pip install torch), or '
      'convert the file where torch is: safetensors.torch.save_file('
      "state_dict, 'weights.safetensors'), with the state dict that it holds"
    ) from error
  try:
    loaded: Any = torch.load(path, map_location='cpu', weights_only=True)
  except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
    raise ValueError(
      f'{path} is truncated, damaged or no file of weights alone ({error})'
    ) from error
  loaded = state_dicts.unwrap(loaded)
  if not isinstance(loaded, Mapping) or not all(
    isinstance(value, torch.Tensor) for value in loaded.values()
  ):
    raise ValueError(
      f'{path} holds no state dict (a mapping of names to tensors), neither '
      f'directly nor under {", ".join(state_dicts.WRAPPERS)}'
    )
  return {
    key: x.float().numpy() if x.is_floating_point() else x.numpy()
    for key, x in loaded.items()
  }
