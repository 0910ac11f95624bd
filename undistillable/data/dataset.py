"""What a data set is, in memory and on disk."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from undistillable import errors
from undistillable.storage import paths

# {'image': uint8[N, H, W, C], 'label': int32[N]}.
Split = Mapping[str, np.ndarray]
# (key, {'id': str, 'image': a PIL image or encoded bytes, 'label': int, ...}).
Example = tuple[int | str, dict[str, Any]]


class DataError(errors.InputError):
  """A data folder or an archive that does not fit; the message says how."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set in memory.

  Attributes:
    name: an entry of `data.DATASETS`.
    train: {'image': uint8[N, H, W, C], 'label': int32[N]}, NumPy, on the host.
    test: alike.
    class_names: one a class, by label.
    mean: of the training images, by channel, in units of 0..1.
    std: alike.
  """

  name: str
  train: Split
  test: Split
  class_names: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.train['image'].shape[1:]


@dataclasses.dataclass(frozen=True)
class Archive:
  """An archive as its authors published it.

  Attributes:
    url: whose last part is the file's name.
    sha256: of its bytes, in hexadecimal.
  """

  url: str
  sha256: str

  @property
  def name(self) -> str:
    return self.url.rpartition('/')[2]


@dataclasses.dataclass(frozen=True)
class Content:
  """What an archive holds, to be written to a folder.

  Attributes:
    class_names: {'label': one name a class, by label}; CIFAR-100 has a
      'coarse_label' as well.
    num_examples: {'train': number, 'test': number}.
    examples_fn: `(split)` yields examples; tfds sorts them by a hash of their
      keys.
  """

  class_names: Mapping[str, Sequence[str]]
  num_examples: Mapping[str, int]
  examples_fn: Callable[[str], Iterator[Example]]


def from_arrays(
  splits: Mapping[str, Mapping[str, np.ndarray]],
  class_names: Mapping[str, Sequence[str]],
  id_format: str,
) -> Content:
  """What arrays in memory hold.

  Args:
    splits: {'train': {'image': uint8[N, H, W, C], 'label': int[N], 'index':
      int[N]}, 'test': alike}; C is 1 or 3, and grey images do without. The
      index is the key of an example; by default it is its place.
    class_names: see `Content`; the splits have each of its keys.
    id_format: as '{split}_{index:05d}'.

  Raises:
    ValueError: the arrays are none of that; `data.prepare` says of which set.
  """
  splits = {
    split: _checked(split, arrays, class_names)
    for split, arrays in splits.items()
  }

  def examples(split: str) -> Iterator[Example]:
    arrays = splits[split]
    for place, image in enumerate(arrays['image']):
      index = int(arrays['index'][place]) if 'index' in arrays else place
      example = {
        'id': id_format.format(split=split, index=index),
        'image': PIL.Image.fromarray(image),
        **{key: int(arrays[key][place]) for key in class_names},
      }
      yield index, example

  numbers = {split: len(arrays['label']) for split, arrays in splits.items()}
  return Content(class_names, numbers, examples)


def _checked(
  split: str,
  arrays: Mapping[str, Any],
  class_names: Mapping[str, Sequence[str]],
) -> dict[str, np.ndarray]:
  """The arrays of a split; grey images without C, as Pillow takes them."""
  arrays = {key: np.asarray(array) for key, array in arrays.items()}
  image = arrays['image']
  if image.ndim == 4 and image.shape[-1] == 1:
    image = arrays['image'] = image[..., 0]
  if image.dtype != np.uint8 or not (
    image.ndim == 3 or (image.ndim == 4 and image.shape[-1] == 3)
  ):
    raise ValueError(
      f'{split} images are {image.dtype}{list(image.shape)}; expected '
      'uint8[N, H, W, C], grey (C = 1) or RGB (C = 3)'
    )
  for key, names in class_names.items():
    label = arrays[key]
    if label.shape != image.shape[:1] or label.dtype.kind not in 'iu':
      raise ValueError(
        f'{split} {key}s are {label.dtype}{list(label.shape)}; expected '
        f'int[{len(image)}], one an image'
      )
    if label.min(initial=0) < 0 or label.max(initial=0) >= len(names):
      raise ValueError(
        f'{split} {key}s are from {label.min()} to {label.max()}; expected 0 '
        f'to {len(names) - 1}'
      )
  return arrays


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set on disk, `data_dir/name/version`, as tfds lays it out.

  Attributes:
    name: of the data set, for tfds and for us.
    version: of the folder that we prepare; any other version is read as well.
    image_shape: (height, width, channels).
    num_classes: of 'label'.
    num_examples: {'train': number, 'test': number} of the whole data set.
    mean: of the training images, by channel, in units of 0..1.
    std: alike.
    description: what it is and whose, for whoever finds the folder.
    read_fn: `(archive)` reads an archive; of an embedded data set, None.
    archives: the official ones, the one to download first; none where the data
      set is embedded.
  """

  name: str
  version: str
  image_shape: tuple[int, int, int]
  num_classes: int
  num_examples: Mapping[str, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  description: str
  read_fn: Callable[..., Content]
  archives: tuple[Archive, ...] = ()

  @property
  def command(self) -> str:
    """What prepares it, but for the folder."""
    return f'python -m undistillable.data prepare {self.name}'


def resolve_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """`data_dir`, or tfds' own default where it is None."""
  name = 'data_dir'
  if data_dir is None:
    data_dir = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    name = 'TFDS_DATA_DIR'
  path = paths.local(data_dir, name)
  if path.exists() and not path.is_dir():
    raise DataError(f'data_dir={path} is a file, expected a folder')
  return path
