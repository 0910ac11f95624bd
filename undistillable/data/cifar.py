"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels.

Source: A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny
Images. What is prepared here equals, record by record, what tfds prepares with
TensorFlow, so either reads the other's folder. The official archives hold
either binary files or pickles of Python 2.
"""

import functools
import io
import pathlib
import pickle
import tarfile
from typing import Any

import numpy as np

from undistillable.data import dataset

_IMAGE_BYTES = 32 * 32 * 3
_BATCHES = {
  'cifar10': {
    'train': [f'data_batch_{number}' for number in range(1, 6)],
    'test': ['test_batch'],
  },
  'cifar100': {'train': ['train'], 'test': ['test']},
}
# Our key: what theirs begin with; in the order of the bytes of a record.
_LABELS = {
  'cifar10': {'label': 'label'},
  'cifar100': {'coarse_label': 'coarse_label', 'label': 'fine_label'},
}
# The files of the class names, among pickles and beside binary files.
_NAMES = {
  'cifar10': ('batches.meta', 'batches.meta.txt'),
  'cifar100': ('meta', '{}_names.txt'),
}


def _read(name: str, archive: pathlib.Path) -> dataset.Content:
  """All images of an archive, in memory."""
  files = _read_tar(archive)
  is_binary = any(file.endswith('.bin') for file in files)
  load_fn = functools.partial(_parse, name) if is_binary else _unpickle
  labels, (meta, text) = _LABELS[name], _NAMES[name]
  keys = {'image': 'data', **{k: f'{theirs}s' for k, theirs in labels.items()}}
  splits, class_names = {}, {}
  try:
    for split, batches in _BATCHES[name].items():
      loaded = [
        load_fn(files[f'{batch}.bin' if is_binary else batch])
        for batch in batches
      ]
      splits[split] = {
        key: np.concatenate([batch[theirs] for batch in loaded])
        for key, theirs in keys.items()
      }
    for key, theirs in labels.items():
      if is_binary:
        class_names[key] = files[text.format(theirs)].decode().split()
      else:
        class_names[key] = _unpickle(files[meta])[f'{theirs}_names']
  except KeyError as error:
    raise ValueError(f'it holds no {error}') from error
  for arrays in splits.values():
    # In an archive channels come first.
    images = arrays['image'].reshape(-1, 3, 32, 32)
    arrays['image'] = images.transpose(0, 2, 3, 1)
  # The key is the place, as in tfds: it decides the order of the records.
  return dataset.from_arrays(splits, class_names, '{split}_{index:05d}')


def _read_tar(archive: pathlib.Path) -> dict[str, bytes]:
  """The files of a tar archive; a link leads to another of them, or nowhere."""
  files = {}
  # What is none has a reason for each compression, line by line.
  if not tarfile.is_tarfile(archive):
    raise ValueError('it is no tar archive, compressed or not')
  with tarfile.open(archive) as tar:
    for member in tar:
      if stream := tar.extractfile(member):  # None of a folder.
        files[member.name.rpartition('/')[2]] = stream.read()
  return files


def _parse(name: str, content: bytes) -> dict[str, np.ndarray]:
  """Records of one byte a label, then 3,072 of the image; as a pickle."""
  labels = [f'{theirs}s' for theirs in _LABELS[name].values()]
  records = np.frombuffer(content, np.uint8).reshape(
    -1, len(labels) + _IMAGE_BYTES
  )
  found = dict(zip(labels, records.T, strict=False))
  return found | {'data': records[:, len(labels) :]}


class _Unpickler(pickle.Unpickler):
  """Makes arrays and numbers of NumPy, and calls nothing else."""

  _KNOWN = {
    '_codecs.encode',
    'numpy.dtype',
    'numpy.ndarray',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy._core.numeric._frombuffer',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy.core.numeric._frombuffer',
  }

  def find_class(self, module: str, name: str) -> Any:
    if f'{module}.{name}' not in self._KNOWN:
      raise ValueError(
        f'its pickle asks for {module}.{name}, which no array needs; it was '
        'not run'
      )
    return super().find_class(module, name)


def _unpickle(content: bytes) -> dict[str, Any]:
  # The encoding of NumPy's arrays in pickles of Python 2.
  return _Unpickler(io.BytesIO(content), encoding='latin1').load()


def _source(
  name: str,
  num_classes: int,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  *,
  sha256_of_binary: str,
  sha256_of_pickles: str,
) -> dataset.Source:
  url = f'https://www.cs.toronto.edu/~kriz/{name.replace("cifar", "cifar-")}'
  return dataset.Source(
    name=name,
    version='3.0.2',
    image_shape=(32, 32, 3),
    num_classes=num_classes,
    num_examples={'train': 50_000, 'test': 10_000},
    mean=mean,
    std=std,
    description=(
      f'60,000 colour images of 32x32 pixels in {num_classes} classes; A. '
      'Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images'
    ),
    read_fn=functools.partial(_read, name),
    archives=(
      dataset.Archive(f'{url}-binary.tar.gz', sha256_of_binary),
      dataset.Archive(f'{url}-python.tar.gz', sha256_of_pickles),
    ),
  )


# Checksums: of the binary files as published in tfds (`url_checksums`), of the
# pickles as published in Keras (`keras.datasets`).
CIFAR10 = _source(
  'cifar10',
  10,
  # As released; the std of the pixels themselves is .2470 .2435 .2616.
  mean=(0.4914, 0.4822, 0.4465),
  std=(0.247, 0.243, 0.261),
  sha256_of_binary=(
    'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd'
  ),
  sha256_of_pickles=(
    '6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce'
  ),
)
CIFAR100 = _source(
  'cifar100',
  100,
  # Its own; the released code normalises it with the constants of CIFAR-10.
  mean=(0.5071, 0.4865, 0.4409),
  std=(0.2673, 0.2564, 0.2762),
  sha256_of_binary=(
    '58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec'
  ),
  sha256_of_pickles=(
    '85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7'
  ),
)
