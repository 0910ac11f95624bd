"""Finds, labels and checks the images in the archive of Tiny-ImageNet."""

import collections
import io
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping

import PIL.Image

from undistillable.data import dataset

Images = list[tuple[str, int]]  # (file name in the archive, label).

COUNTS = {'train': 100_000, 'test': 10_000}
SHAPE = (64, 64, 3)
_WNID = re.compile(r'n\d{8}')
_TRAIN = re.compile(r'train/([^/]+)/images/([^/.][^/]*\.jpe?g)', re.IGNORECASE)
_VAL = re.compile(r'val/images/([^/.][^/]*\.jpe?g)', re.IGNORECASE)


def list_archive(
  archive: pathlib.Path,
  read_fn: Callable[[str], bytes],
  names: list[str],
  *,
  allow_partial: bool = False,
) -> tuple[dict[str, Images], tuple[str, ...]]:
  """Finds the images and their labels, without decoding any.

  Args:
    archive: for the errors.
    read_fn: `read_fn(name) -> bytes`.
    names: of all files of the archive.
    allow_partial: fewer images than the official archive has will do.

  Returns:
    ({split: [(file name in the archive, label), ...]}, class names).

  Raises:
    dataset.DataError: incomplete or inconsistent, and which file.
  """
  root = _find_root(archive, names)

  def read_lines(name: str) -> list[str]:
    if root + name not in present:
      raise dataset.DataError(f'{archive} holds no {name}')
    try:
      return read_fn(root + name).decode('utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
      raise dataset.DataError(f'{archive}: {name} is no text') from error

  present = set(names)
  inside = [name.removeprefix(root) for name in names if name.startswith(root)]
  try:
    wnids = _read_wnids(read_lines('wnids.txt'))
    class_names = _read_words(read_lines('words.txt'), wnids)
    label = {wnid: index for index, wnid in enumerate(wnids)}
    annotations = read_lines('val/val_annotations.txt')
    splits = {
      'train': _list_train(inside, label),
      'test': _list_val(inside, annotations, label, allow_partial),
    }
    numbers = {split: len(images) for split, images in splits.items()}
    dataset.check_counts(archive, numbers, COUNTS, allow_partial)
    _check_balance(splits, wnids)
  except _ContentError as error:
    raise dataset.DataError(f'{archive}: {error}') from error
  splits = {
    split: [(root + name, label) for name, label in images]
    for split, images in splits.items()
  }
  return splits, class_names


class _ContentError(Exception):
  """What is wrong in which file of the archive."""


def _find_root(archive: pathlib.Path, names: list[str]) -> str:
  """The folder that holds wnids.txt, with a slash at the end, or ''."""
  found = [name for name in names if name.rpartition('/')[2] == 'wnids.txt']
  if not found:
    raise dataset.DataError(
      f'{archive} is no archive of Tiny-ImageNet: it holds no wnids.txt'
    )
  return min(found, key=len).removesuffix('wnids.txt')


def _read_wnids(lines: list[str]) -> list[str]:
  """The 200 WordNet ids, sorted: a class's label is its place."""
  wnids = sorted(line.strip() for line in lines if line.strip())
  for wnid in wnids:
    if not _WNID.fullmatch(wnid):
      raise _ContentError(f'wnids.txt: {wnid!r} is no WordNet id')
  if len(set(wnids)) != len(wnids) or len(wnids) != 200:
    raise _ContentError(
      f'wnids.txt has {len(set(wnids))} different ids in {len(wnids)} lines, '
      'expected 200'
    )
  return wnids


def _read_words(lines: list[str], wnids: list[str]) -> tuple[str, ...]:
  """What the classes are called; tfds needs names that differ."""
  words = dict(line.split('\t', 1) for line in lines if '\t' in line)
  for wnid in wnids:
    if not words.get(wnid, '').strip():
      raise _ContentError(f'words.txt has no words for {wnid}')
  names = [words[wnid].strip() for wnid in wnids]
  often = collections.Counter(names)
  return tuple(
    f'{name} ({wnid})' if often[name] > 1 else name
    for name, wnid in zip(names, wnids, strict=True)
  )


def _list_train(names: list[str], label: Mapping[str, int]) -> Images:
  """[(name, label), ...]: the folder of an image is its class."""
  images: Images = []
  for name in names:
    if match := _TRAIN.fullmatch(name):
      if match[1] not in label:
        raise _ContentError(f'{name}: {match[1]} is not in wnids.txt')
      images.append((name, label[match[1]]))
  _check_names([name for name, _ in images])
  return images


def _check_names(names: list[str]) -> None:
  """Images are known by their file names; those must differ."""
  seen: dict[str, str] = {}
  for name in names:
    other = seen.setdefault(name.rpartition('/')[2], name)
    if other != name:
      raise _ContentError(f'{other} and {name} have the same file name')


def _list_val(
  names: list[str],
  lines: list[str],
  label: Mapping[str, int],
  allow_partial: bool,
) -> Images:
  """[(name, label), ...]: the annotations name the class of each image."""
  annotated: dict[str, int] = {}
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    where = f'val/val_annotations.txt, line {number}'
    fields = line.split('\t')
    if len(fields) < 2:
      raise _ContentError(f'{where}: {line!r}, expected file, tab, WordNet id')
    file, wnid = fields[0].strip(), fields[1].strip()
    if wnid not in label:
      raise _ContentError(f'{where}: {wnid!r} is not in wnids.txt')
    if file in annotated:
      raise _ContentError(f'{where}: {file} is there twice')
    annotated[file] = label[wnid]
  images: Images = []
  for name in names:
    if match := _VAL.fullmatch(name):
      if match[1] not in annotated:
        raise _ContentError(f'{name} is not in val/val_annotations.txt')
      images.append((name, annotated.pop(match[1])))
  if annotated and not allow_partial:
    raise _ContentError(
      f'val/val_annotations.txt names {min(annotated)}, which is not in '
      'val/images'
    )
  return images


def _check_balance(splits: Mapping[str, Images], wnids: list[str]) -> None:
  """No class has more images than officially, and none has none."""
  for split, images in splits.items():
    counts = collections.Counter(label for _, label in images)
    expected = COUNTS[split] // len(wnids)
    for label, wnid in enumerate(wnids):
      if counts[label] > expected or not counts[label]:
        raise _ContentError(
          f'{wnid} has {counts[label]} {split} images, expected {expected}'
        )


def to_rgb_bytes(content: bytes) -> bytes:
  """Checks an image by decoding it, and keeps its bytes where they are RGB.

  Args:
    content: of a JPEG file.

  Returns:
    The same bytes, so that nothing is encoded twice; grayscale images, about
    2 %, as RGB in a PNG, which loses nothing.

  Raises:
    ValueError: not decodable, or of another size.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('error', PIL.Image.DecompressionBombWarning)
    return _to_rgb_bytes(content)


def _to_rgb_bytes(content: bytes) -> bytes:
  try:
    # PNG as well: in ImageNet some files called JPEG are none.
    with PIL.Image.open(io.BytesIO(content), formats=('JPEG', 'PNG')) as image:
      if image.mode.startswith(('I', 'F')):
        raise ValueError(f'pixels of mode {image.mode}, expected 8 bits each')
      if image.size != SHAPE[1::-1]:
        raise ValueError(f'{image.size} pixels, expected {SHAPE[1::-1]}')
      image.load()
      if image.mode == 'RGB':
        return content
      rgb = io.BytesIO()
      image.convert('RGB').save(rgb, format='PNG')
      return rgb.getvalue()
  except PIL.UnidentifiedImageError:
    raise ValueError('neither a JPEG nor a PNG, or truncated') from None
  except (
    OSError,
    SyntaxError,
    PIL.Image.DecompressionBombError,
    PIL.Image.DecompressionBombWarning,
  ) as error:
    raise ValueError(f'truncated or damaged ({error})') from error
