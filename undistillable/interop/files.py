"""State dicts in files: safetensors, and PyTorch's own."""

import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from undistillable.interop import state_dicts, torch_files
from undistillable.storage import paths

_TORCH_SUFFIXES = ('.bin', '.ckpt', '.pt', '.pth', '.tar')


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """The tensors of a checkpoint file, by name.

  Args:
    path: a `.safetensors` file, or a `.pt`, `.pth`, `.tar`, `.ckpt` or `.bin`
      file written by `torch.save`. PyTorch is needed for those of versions
      before 1.6 alone. Only tensors and plain containers are unpickled, never
      code; what else is beside the weights is passed over.

  Returns:
    Arrays by tensor name, for `from_torch`.

  Raises:
    FileNotFoundError: where there is no such file.
    ImportError: for an old PyTorch file without PyTorch.
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
  """Writes a state dict (see `to_torch`) to a file.

  Args:
    path: a `.safetensors` file, or a `.pt` file, which `torch.load` reads;
      PyTorch is not needed here.
    state_dict: float32 arrays by tensor name.

  Raises:
    ValueError: for another suffix.

  Example:
    >>> save('weights.safetensors', {'fc.bias': np.zeros(10, np.float32)})
  """
  path = paths.local(path, 'path')
  if path.suffix == '.pt':
    torch_files.write(path, state_dict)
    return
  if path.suffix != '.safetensors':
    raise ValueError(f'{path}: the suffix must be .safetensors or .pt')
  # safetensors writes the buffer as it lies, whatever its strides say.
  arrays = {key: np.ascontiguousarray(x) for key, x in state_dict.items()}
  path.write_bytes(safetensors_numpy.save(arrays))


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return safetensors_numpy.load_file(path)
  # The latter two: of types that NumPy does not know.
  except (safetensors.SafetensorError, AttributeError, KeyError) as error:
    raise ValueError(
      f'{path} is truncated, damaged or no safetensors file of arrays ({error})'
    ) from error


def _load_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what torch.save wrote, and unwraps the state dict in it."""
  if torch_files.is_archive(path):
    try:
      loaded = torch_files.read(path)
    except ValueError as error:
      raise ValueError(
        f'{path} is truncated, damaged or no file of torch.save ({error})'
      ) from error
  else:
    loaded = _load_old(path)
  if isinstance(loaded, torch_files.Other):
    raise ValueError(
      f'{path} holds a whole module, whose code is not run; save its weights '
      'alone: torch.save(model.state_dict(), path)'
    )
  loaded = state_dicts.unwrap(loaded)
  if not isinstance(loaded, Mapping) or not any(
    isinstance(value, np.ndarray) for value in loaded.values()
  ):
    raise ValueError(
      f'{path} holds no state dict (a mapping of names to tensors), neither '
      f'directly nor under {", ".join(state_dicts.WRAPPERS)}'
    )
  for key, value in loaded.items():
    if not isinstance(value, np.ndarray):
      raise ValueError(
        f'{path}: {key} beside the tensors is none; save the state dict alone: '
        'torch.save(model.state_dict(), path)'
      )
  return {
    # Of JAX: NumPy's own does not know bfloat16.
    str(key): x.astype(np.float32)
    if jnp.issubdtype(x.dtype, jnp.floating)
    else x
    for key, x in loaded.items()
  }


def _load_old(path: pathlib.Path) -> Any:
  """Reads a file of PyTorch before 1.6, for which PyTorch is needed."""
  try:
    import torch  # An optional dependency, heavy, and needed here alone.
  except ImportError as error:
    raise ImportError(
      f'{path} is a file of PyTorch before 1.6, or none of it at all: install '
      'torch (pip install torch) to have it read, or save it again where torch '
      'is: torch.save(torch.load(path), path)'
    ) from error
  try:
    loaded = torch.load(path, map_location='cpu', weights_only=True)
  # What torch says goes over six lines, and recommends to run what is there.
  except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
    raise ValueError(
      f'{path} cannot be read safely: it is truncated, damaged, or holds more '
      'than weights; save them alone where torch is: '
      'torch.save(model.state_dict(), path)'
    ) from error
  return _as_arrays(loaded, torch.Tensor)


def _as_arrays(value: Any, kind: type) -> Any:
  """Tensors as arrays, in dicts of dicts."""
  if isinstance(value, Mapping):
    return {key: _as_arrays(one, kind) for key, one in value.items()}
  if not isinstance(value, kind):
    return value
  tensor: Any = value
  return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
