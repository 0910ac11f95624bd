"""What torch.save writes, in and out without PyTorch, and nothing is run.

Such a file is a zip archive: `data.pkl`, a pickle of names, shapes and strides,
and a file of raw numbers for each storage. The pickle is read by an unpickler
that makes tensors and plain containers. Whatever else it asks for, as for the
arguments of a training script or a NumPy number beside the weights, becomes an
inert `Other`: no class or function of another package is imported or called.
What is written names them, and holds a dict of tensors alone.
"""

import collections
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES: dict[str, Any] = {
  'BFloat16Storage': jnp.bfloat16,
  'BoolStorage': np.bool_,
  'ByteStorage': np.uint8,
  'CharStorage': np.int8,
  'ComplexDoubleStorage': np.complex128,
  'ComplexFloatStorage': np.complex64,
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'IntStorage': np.int32,
  'LongStorage': np.int64,
  'ShortStorage': np.int16,
}


class Other:
  """Stands for what is neither a tensor nor a plain container."""

  def _ignore(self, *args: Any, **kwargs: Any) -> None:
    pass

  # All that a pickle does to objects.
  __init__ = __setstate__ = __setitem__ = append = extend = add = _ignore


class _Kind(Other):
  """The type of the numbers of a storage."""

  def __init__(self, name: str):
    self.dtype = np.dtype(_DTYPES[name])


class _Storage(Other):
  """float[n], or of another type."""

  def __init__(self, numbers: np.ndarray):
    self.numbers = numbers


def is_archive(path: pathlib.Path) -> bool:
  """Whether a file is of the kind that is read here, as since PyTorch 1.6."""
  with path.open('rb') as file:
    return file.read(4) == b'PK\x03\x04'  # Also of one that is cut off.


def read(path: pathlib.Path) -> Any:
  """What a file holds: containers of arrays, numbers, texts and `Other`.

  Raises:
    ValueError: it is damaged, or no file of torch.save.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      (index,) = [n for n in names if n.split('/')[1:] == ['data.pkl']]
      root = index.removesuffix('data.pkl')
      order = f'{root}byteorder'
      if order in names and archive.read(order) != b'little':
        raise ValueError('its numbers are not little-endian')
      return _Unpickler(archive, root).load()
  # Damaged bytes raise what they like in zipfile and pickle.
  except Exception as error:
    raise ValueError(f'{type(error).__name__}: {error}') from error


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict as torch.save would, for `torch.load(path)`.

  Args:
    path: of the file.
    tensors: float32 each, by name; of any shape.

  Example:
    >>> write(pathlib.Path('model.pt'), {'fc.bias': np.zeros(10, np.float32)})
    >>> read(pathlib.Path('model.pt'))['fc.bias'].shape
    (10,)
  """
  with zipfile.ZipFile(path, 'w') as archive:  # Which torch wants unpacked.
    archive.writestr('model/data.pkl', _pickled(tensors))
    archive.writestr('model/byteorder', 'little')
    for i, tensor in enumerate(tensors.values()):
      archive.writestr(f'model/data/{i}', tensor.astype('<f4').tobytes())
    archive.writestr('model/version', '3\n')


def _pickled(tensors: Mapping[str, np.ndarray]) -> bytes:
  """The pickle of a dict of tensors, of which each is storage number i.

  Written by hand: a pickler imports what it names, and torch need not be here.
  """

  def text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack('<I', len(encoded)) + encoded

  def number(value: int) -> bytes:
    return pickle.LONG1 + b'\x08' + struct.pack('<q', value)

  def group(*items: bytes) -> bytes:
    return pickle.MARK + b''.join(items) + pickle.TUPLE

  def name(module: str, member: str) -> bytes:
    return pickle.GLOBAL + f'{module}\n{member}\n'.encode()

  parts = [pickle.PROTO, b'\x02', pickle.EMPTY_DICT, pickle.MARK]
  for i, (key, tensor) in enumerate(tensors.items()):
    strides = [math.prod(tensor.shape[j + 1 :]) for j in range(tensor.ndim)]
    storage = group(
      text('storage'),
      name('torch', 'FloatStorage'),
      text(str(i)),
      text('cpu'),
      number(tensor.size),
    )
    arguments = group(
      storage + pickle.BINPERSID,
      number(0),  # Where in the storage it begins.
      group(*map(number, tensor.shape)),
      group(*map(number, strides)),
      pickle.NEWFALSE,  # It asks for no gradient.
      name('collections', 'OrderedDict') + pickle.EMPTY_TUPLE + pickle.REDUCE,
    )
    rebuild = name('torch._utils', '_rebuild_tensor_v2')
    parts += [text(key), rebuild, arguments, pickle.REDUCE]
  return b''.join([*parts, pickle.SETITEMS, pickle.STOP])


class _Unpickler(pickle.Unpickler):
  """Makes arrays and plain containers, and calls nothing else."""

  def __init__(self, archive: zipfile.ZipFile, root: str):
    super().__init__(io.BytesIO(archive.read(f'{root}data.pkl')))
    self._archive, self._root = archive, root

  def find_class(self, module: str, name: str) -> Any:
    # A pickle can set attributes of what it is given, so that functions and
    # classes of ours are made anew each time, and NumPy's types hidden.
    match f'{module}.{name}':
      case 'collections.OrderedDict':
        return collections.OrderedDict
      case 'torch._utils._rebuild_parameter':
        return lambda tensor, *_: tensor
      case 'torch._utils._rebuild_tensor_v2':
        return lambda *args: _tensor(*args)
    if module == 'torch' and name in _DTYPES:
      return _Kind(name)
    return type('Other', (Other,), {})

  def persistent_load(self, pid: Any) -> Any:
    _, kind, key, *_ = pid
    if not isinstance(kind, _Kind):
      return Other()
    numbers = self._archive.read(f'{self._root}data/{key}')
    return _Storage(np.frombuffer(numbers, kind.dtype))


def _tensor(
  storage: Any, offset: int, shape: Any, strides: Any, *_: Any
) -> np.ndarray | Other:
  """An array of its own, from its place in a storage."""
  if not isinstance(storage, _Storage):
    return Other()
  numbers = storage.numbers
  if not math.prod(shape):
    return np.zeros(shape, numbers.dtype)
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if min((offset, *shape, *strides)) < 0 or last >= len(numbers):
    raise ValueError(f'a tensor of {shape} lies outside its storage')
  steps = [stride * numbers.itemsize for stride in strides]
  view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps)
  return view.copy()
