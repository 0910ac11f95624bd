"""What arrays of one's own must be; said where they enter.

Shapes, types and labels of whole data sets are looked at once a call, outside
of what is compiled.
"""

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from undistillable import errors

# The label of images of which nobody knows the class.
UNKNOWN = -1


def examples(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Examples as NumPy arrays.

  Args:
    arrays: label int[N], and of everything else N as well.

  Raises:
    errors.InputError: there are no labels, they are no integers, or of another
      number than something else.
  """
  if not isinstance(arrays, Mapping) or 'label' not in arrays:
    given = sorted(arrays) if isinstance(arrays, Mapping) else type(arrays)
    raise errors.InputError(
      f"expected {{'image': uint8[N, H, W, C], 'label': int[N]}}; given {given}"
    )
  found = {name: np.asarray(array) for name, array in arrays.items()}
  labels(found['label'])
  number = len(found['label'])
  if not number:
    raise errors.InputError('there are no examples: label has shape (0,)')
  for name, array in found.items():
    if array.shape[:1] != (number,):
      raise errors.InputError(
        f'{number} labels, and {name} of shape {array.shape}; expected as many '
        'of each'
      )
  return found


def labels(label: np.ndarray, num_classes: int | None = None) -> None:
  """Checks labels.

  Args:
    label: int[N].
    num_classes: K; default: any. All labels may be `UNKNOWN`.

  Raises:
    errors.InputError: they are no integers, or not in 0..K-1.
  """
  if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
    raise errors.InputError(
      f'labels are {label.dtype}{list(label.shape)}; expected int[N], the '
      'number of a class for each example (of one-hot labels label.argmax(-1))'
    )
  if num_classes is None or not label.size:
    return
  low, high = int(label.min()), int(label.max())
  if (low, high) == (UNKNOWN, UNKNOWN) or 0 <= low <= high < num_classes:
    return
  hint = '; subtract 1 from them' if (low, high) == (1, num_classes) else ''
  raise errors.InputError(
    f'labels are from {low} to {high}; expected 0 to {num_classes - 1}, for '
    f'the {num_classes} classes of the network{hint}'
  )


def images(image: Any, num_channels: int) -> None:
  """Checks that images are uint8[N, H, W, C]; they may be traced.

  Args:
    image: to be checked.
    num_channels: of the normalization; 1 does for any C.

  Raises:
    errors.InputError: they are anything else.
  """
  told = f'images are {image.dtype}{list(image.shape)}'
  if image.dtype != np.uint8:
    raise errors.InputError(
      f'{told}; expected uint8[N, H, W, C] from 0 to 255, which of numbers '
      'from 0 to 1 is (255 * image).round().astype(np.uint8)'
    )
  if image.ndim != 4:
    raise errors.InputError(
      f'{told}; expected uint8[N, H, W, C], with a channel for grey ones '
      '(image[..., None])'
    )
  if num_channels not in (1, image.shape[-1]):
    raise errors.InputError(
      f'{told}, and mean and std are of {num_channels} channels; expected '
      'uint8[N, H, W, C] with as many (channels last)'
    )


def whole(name: str, value: Any, least: int | None = None) -> int:
  """A whole number, of Python or NumPy, as Python's.

  Raises:
    errors.InputError: it is none, or less than `least`.
  """
  if not isinstance(value, numbers.Integral) or isinstance(value, bool):
    raise errors.InputError(f'{name}={value!r}; expected a whole number')
  if least is not None and value < least:
    raise errors.InputError(f'{name}={value}; expected at least {least}')
  return int(value)
