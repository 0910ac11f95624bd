"""Reads pickled NumPy arrays without running what a pickle asks to run.

A pickle is a program: it may name any function and have it called. This reader
knows a handful of names that arrays are made of, and puts its own plain
functions in their place; it refuses all others.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

_DTYPES = {
  name: np.dtype(name).newbyteorder('<')
  for name in ('u1', 'u2', 'u4', 'u8', 'i1', 'i2', 'i4', 'i8')
}


def load(content: bytes) -> dict[str, Any]:
  """Reads a pickle of built-in types and integer arrays.

  Args:
    content: a pickle of Python 2 or 3.

  Returns:
    What was pickled, with the keys of the outermost dict as str and arrays as
    np.ndarray. Text of Python 2 comes as bytes.

  Raises:
    ValueError: anything else, in particular a call of another function.
  """
  try:
    _check_memo(content)
    loaded = _Unpickler(io.BytesIO(content), encoding='bytes').load()
  except ValueError:
    raise
  # Damaged bytes are a damaged program: any kind of error may come of them.
  except Exception as error:
    raise ValueError(f'not a readable pickle ({error!r})') from error
  if not isinstance(loaded, dict):
    raise ValueError(f'a pickle of a {type(loaded).__name__}, not of a dict')
  return {_text(key): _unwrap(value) for key, value in loaded.items()}


def _check_memo(content: bytes) -> None:
  """Refuses a place in the memo that would take more memory than there is.

  Places are numbered in a row, and taken up to the highest one.
  """
  try:
    places = [
      argument or 0
      for opcode, argument, _ in pickletools.genops(content)
      if opcode.name in ('PUT', 'BINPUT', 'LONG_BINPUT')
    ]
  except ValueError as error:
    raise ValueError(f'not a readable pickle ({error})') from error
  if max(places, default=0) > len(content):
    raise ValueError(
      f'a pickle of {len(content)} bytes with {max(places)} values'
    )


class _Dtype:
  """What stands for `numpy.dtype` while unpickling."""

  def __init__(self, name: str | bytes, *_: Any) -> None:
    dtype = _DTYPES.get(_text(name))
    if dtype is None:
      raise ValueError(f'an array of {name!r}; expected one of integers')
    self.dtype = dtype

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    if _text(state[1]) not in ('<', '|'):
      raise ValueError(f'an array of byte order {state[1]!r}')


class _Array:
  """What stands for `numpy.ndarray` while unpickling."""

  array: np.ndarray | None = None

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    _, shape, dtype, is_fortran, content = state
    self.array = _make(content, dtype, shape, 'F' if is_fortran else 'C').array


def _make(
  content: bytes,
  dtype: _Dtype,
  shape: tuple[int, ...],
  order: Literal['C', 'F'] = 'C',
) -> _Array:
  """An array of the pickled bytes; its size is checked against them."""
  if len(content) != math.prod(shape) * dtype.dtype.itemsize:
    raise ValueError(f'{len(content)} bytes for an array of shape {shape}')
  made = _Array()
  made.array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
  return made


def _reconstruct(*_: Any) -> _Array:
  """An empty array, to be filled by `__setstate__`."""
  return _Array()


def _scalar(dtype: _Dtype, content: bytes) -> int:
  """A NumPy integer."""
  return int(_unwrap(_make(content, dtype, ())))


def _encode(text: str, encoding: str) -> bytes:
  """Bytes, as Python 3 pickles them for Python 2."""
  if encoding != 'latin1':
    raise ValueError(f'bytes in the encoding {encoding!r}')
  return text.encode('latin1')


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
  ('_codecs', 'encode'): _encode,
  ('numpy', 'dtype'): _Dtype,
  ('numpy', 'ndarray'): _Array,
}
# NumPy 2 moved `core`, and files of both are about.
for _core in ('numpy._core', 'numpy.core'):
  _KNOWN |= {
    (f'{_core}.multiarray', '_reconstruct'): _reconstruct,
    (f'{_core}.multiarray', 'scalar'): _scalar,
    (f'{_core}.numeric', '_frombuffer'): _make,
  }


class _Unpickler(pickle.Unpickler):
  """Knows the names above and no others."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _KNOWN:
      raise ValueError(
        f'the pickle asks for {module}.{name}, which no array needs; it was '
        'not run'
      )
    known = _KNOWN[module, name]
    if isinstance(known, type):
      return known
    # A new one each time: a pickle may set the attributes of what it is given.
    return lambda *args: known(*args)


def _unwrap(value: Any) -> Any:
  """The array that a stand-in holds; other values as they are."""
  if not isinstance(value, _Array):
    return value
  if value.array is None:
    raise ValueError('an array without content')
  return value.array


def _text(value: Any) -> Any:
  """str of the bytes of Python 2."""
  return value.decode('latin1') if isinstance(value, bytes) else value
