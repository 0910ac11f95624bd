"""From archives to folders: whole ones, partial ones, and those to refuse."""

import functools
import hashlib
import io
import os
import pathlib
import pickle
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import PIL.Image
import pytest

from undistillable import data
from undistillable.data import (
  __main__ as cli,
  archives,
  downloads,
  pickles,
  tiny_imagenet_archive,
)

_NAMES10 = ['airplane', 'automobile', 'bird', 'cat', 'deer']
_NAMES10 += ['dog', 'frog', 'horse', 'ship', 'truck']
_NAMES20 = [f'coarse_{i}' for i in range(20)]
_NAMES100 = [f'fine_{i}' for i in range(100)]
_NUM = 4  # Images in each file of a CIFAR archive made here.


def _write_tar(path, files):
  """A .tar.gz of {name: content}, or of whole `TarInfo`s."""
  with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
    for name, content in files.items():
      info = content
      if isinstance(content, bytes):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
      else:
        tar.addfile(info)
  return path


def _lines(names):
  return '\n'.join([*names, '', '']).encode()


@functools.cache
def _records(name):
  """{file: uint8[_NUM, labels + 3072]}, in the official layout."""
  files, classes = {
    'cifar10': (
      [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'],
      (10,),
    ),
    'cifar100': (['train', 'test'], (20, 100)),
  }[name]
  rng = np.random.default_rng(0)
  records = {}
  for file in files:
    records[file] = rng.integers(0, 256, (_NUM, 3072 + len(classes)), np.uint8)
    for column, num_classes in enumerate(classes):
      records[file][:, column] %= num_classes
  return records


def _binary(name):
  """{name: content} of an official archive of binary files."""
  top = {'cifar10': 'cifar-10-batches-bin', 'cifar100': 'cifar-100-binary'}
  files = {f'{f}.bin': r.tobytes() for f, r in _records(name).items()}
  if name == 'cifar10':
    files['batches.meta.txt'] = _lines(_NAMES10)
  else:
    files['coarse_label_names.txt'] = _lines(_NAMES20)
    files['fine_label_names.txt'] = _lines(_NAMES100)
  return {f'{top[name]}/{file}': content for file, content in files.items()}


def _pickled(name, protocol=2):
  """{name: content} of an official archive of pickles."""
  dump = functools.partial(pickle.dumps, protocol=protocol)
  files = {}
  for file, records in _records(name).items():
    batch = {b'filenames': [b'a.png'] * _NUM, b'data': records[:, -3072:]}
    if name == 'cifar10':
      batch[b'labels'] = records[:, 0].tolist()
    else:
      batch[b'coarse_labels'] = records[:, 0].tolist()
      batch[b'fine_labels'] = records[:, 1].tolist()
    files[file] = dump(batch)
  if name == 'cifar10':
    files['batches.meta'] = dump({b'label_names': [*_NAMES10]})
  else:
    names = {b'fine_label_names': _NAMES100, b'coarse_label_names': _NAMES20}
    files['meta'] = dump(names)
  return {f'{name}-python/{file}': content for file, content in files.items()}


def _examples(split):
  """Images with their labels, in an order of their own."""
  pairs = zip(split['image'], split['label'], strict=True)
  return sorted((image.tobytes(), int(label)) for image, label in pairs)


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
@pytest.mark.parametrize(
  'files_fn',
  [
    _binary,
    _pickled,
    functools.partial(_pickled, protocol=4),
    functools.partial(_pickled, protocol=5),
  ],
)
def test_cifar_archives_become_the_arrays_in_them(name, files_fn, tmp_path):
  archive = _write_tar(tmp_path / 'cifar.tar.gz', files_fn(name))
  data.prepare(name, data_dir=tmp_path, archive=archive, allow_partial=True)
  given = data.load(name, data_dir=tmp_path)
  *train, test = _records(name).values()
  for split, records in (
    (given.train, np.concatenate(train)),
    (given.test, test),
  ):
    image = records[:, -3072:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    # The fine label is the last byte before the image.
    label = records[:, -3073]
    assert _examples(split) == _examples({'image': image, 'label': label})
  names = _NAMES10 if name == 'cifar10' else _NAMES100
  assert given.class_names == tuple(names)


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_cifar_folders_are_as_tfds_makes_them(name, tmp_path, shared):
  import tensorflow_datasets as tfds

  archive = _write_tar(tmp_path / 'cifar.tar.gz', _binary(name))
  folder, _ = data.prepare(
    name, data_dir=tmp_path, archive=archive, allow_partial=True
  )
  assert folder == tmp_path / name / '3.0.2'
  expected = shared / 'data' / 'tfds' / name / '3.0.2' / 'features.json'
  assert (folder / 'features.json').read_text() == expected.read_text()
  examples = tfds.data_source(
    name,
    split='train',
    data_dir=tmp_path,
    builder_kwargs={'file_format': 'array_record'},
    decoders={'image': tfds.decode.SkipDecoding()},
  )
  *train, _ = _records(name).values()
  train = np.concatenate(train)
  for example in examples:
    assert example['image'].startswith(b'\x89PNG')
    record = train[int(example['id'].removeprefix(b'train_'))]
    assert example['label'] == record[-3073]
    assert example.get('coarse_label', record[0]) == record[0]


def _drop(name, files):
  return {k: v for k, v in files.items() if not k.endswith(name)}


def _replace(name, content, files):
  return {k: content if k.endswith(name) else v for k, v in files.items()}


def _symlink(name):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
  return info


def _hard_link(name):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = tarfile.LNKTYPE, '../secret'
  return info


class _Attack:
  """Leaves a file where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


_BAD_LABEL = bytes([10]) + bytes(3072)
_TOP = 'cifar-10-batches-bin'


@pytest.mark.parametrize(
  ('change_fn', 'message'),
  [
    (
      lambda f: f,
      '20 train and 4 test images, expected 50,000 and 10,000; to .*'
      '--allow_partial',
    ),
    (lambda f: _drop('data_batch_3.bin', f), 'holds no data_batch_3.bin'),
    (lambda f: _drop('batches.meta.txt', f), 'holds no batches.meta.txt'),
    (lambda f: _drop('.bin', f), 'no complete archive of cifar10'),
    (
      lambda f: _replace('data_batch_2.bin', _BAD_LABEL, f),
      'data_batch_2.bin: image 0 has label 10, expected 0 to 9',
    ),
    (
      lambda f: _replace('test_batch.bin', bytes(3073 + 3072), f),
      'test_batch.bin is cut within an image: 6,145 bytes',
    ),
    (
      lambda f: _replace('batches.meta.txt', _lines(_NAMES10[:9]), f),
      '9 different names of label, expected 10',
    ),
    (lambda f: f | {'../x': b'x'}, "'../x', which leads out of the folder"),
    (lambda f: f | {f'{_TOP}/../../x': b'x'}, 'leads out of the folder'),
    (lambda f: f | {'/etc/x': b'x'}, 'leads out of the folder'),
    (lambda f: f | {'a': _symlink(f'{_TOP}/x.bin')}, "x.bin'.* is a link"),
    (lambda f: f | {'a': _hard_link(f'{_TOP}/x.bin')}, "x.bin'.* is a link"),
    (lambda f: f | {'x/test_batch.bin': b'x'}, 'is there twice'),
  ],
)
def test_bad_cifar_archives_are_refused(change_fn, message, tmp_path):
  files = change_fn(_binary('cifar10'))
  archive = _write_tar(tmp_path / 'bad.tar.gz', files)
  with pytest.raises(data.DataError, match=message) as error:
    data.prepare(
      'cifar10',
      data_dir=tmp_path / 'data',
      archive=archive,
      allow_partial='allow_partial' not in message,
    )
  assert 'bad.tar.gz' in str(error.value)
  assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    (
      [0] * (_NUM - 1),
      rf'holds {_NUM} images and labels of shape \({_NUM - 1},',
    ),
    ([[0]] * _NUM, 'labels of shape'),
    ([[0], *[0] * (_NUM - 1)], 'inhomogeneous'),
    ([0.5] * _NUM, 'holds a label that is no integer'),
    (['cat'] * _NUM, 'holds a label that is no integer'),
    (None, 'labels of shape'),
  ],
)
def test_labels_that_are_no_list_of_numbers_are_refused(
  labels, message, tmp_path
):
  image = np.zeros((_NUM, 3072), np.uint8)
  batch = pickle.dumps({b'data': image, b'labels': labels}, protocol=2)
  files = _replace('data_batch_2', batch, _pickled('cifar10'))
  archive = _write_tar(tmp_path / 'cifar.tar.gz', files)
  with pytest.raises(data.DataError, match=f'data_batch_2.*{message}'):
    data.prepare(
      'cifar10', data_dir=tmp_path, archive=archive, allow_partial=True
    )


def test_a_coarse_label_out_of_range_is_named(tmp_path):
  files = _binary('cifar100')
  record = bytes([20, 3]) + bytes(3072)
  archive = _write_tar(tmp_path / 'a', _replace('train.bin', record, files))
  with pytest.raises(data.DataError, match='train.bin: .* coarse_label 20'):
    data.prepare('cifar100', data_dir=tmp_path, archive=archive)


@pytest.mark.parametrize('share', [0, 0.001, 0.5, 0.99])
def test_a_truncated_tar_is_named(share, tmp_path):
  archive = _write_tar(tmp_path / 'cut.tar.gz', _binary('cifar10'))
  os.truncate(archive, int(share * archive.stat().st_size))
  with pytest.raises(
    data.DataError, match=r'cut\.tar\.gz .*(trunc|no complete)'
  ):
    data.prepare('cifar10', data_dir=tmp_path, archive=archive)


def test_a_bit_that_fell_over_is_found_by_the_checksum(tmp_path):
  archive = _write_tar(tmp_path / 'bit.tar.gz', _binary('cifar10'))
  content = bytearray(archive.read_bytes())
  content[-8] ^= 1  # Of the checksum itself: all before it can be read.
  archive.write_bytes(content)
  with pytest.raises(data.DataError, match=r'bit\.tar\.gz .*CRC'):
    data.prepare(
      'cifar10', data_dir=tmp_path, archive=archive, allow_partial=True
    )


def test_more_images_than_official_are_refused(tmp_path):
  files = _replace('test_batch.bin', bytes(3073 * 10_001), _binary('cifar10'))
  archive = _write_tar(tmp_path / 'a', files)
  with pytest.raises(data.DataError, match='10,001 test images, expected'):
    data.prepare(
      'cifar10', data_dir=tmp_path, archive=archive, allow_partial=True
    )


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_a_pickle_that_runs_code_is_refused(protocol, tmp_path):
  trap = tmp_path / 'sprung'
  attack = pickle.dumps({'data': _Attack(trap)}, protocol)
  files = _replace('data_batch_1', attack, _pickled('cifar10'))
  archive = _write_tar(tmp_path / 'a', files)
  with pytest.raises(data.DataError, match='data_batch_1: .*mkdir.* not run'):
    data.prepare('cifar10', data_dir=tmp_path / 'data', archive=archive)
  assert not trap.exists()
  pickle.loads(attack)  # The trap is a real one.
  assert trap.exists()


def _python2(raw):
  """What Python 2 wrote: {'data': uint8[1, len(raw)], 'labels': [7]}."""
  return (
    b'\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03'
    b'cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01M'
    + struct.pack('<H', len(raw))
    + b'\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN'
    b'J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T'
    + struct.pack('<i', len(raw))
    + raw
    + b'tbU\x06labels]q\x08K\x07au.'
  )


def test_pickles_of_python_2_are_read():
  raw = bytes(range(256)) * 12
  given = pickles.load(_python2(raw))
  assert sorted(given) == ['data', 'labels']
  assert given['data'].shape == (1, 3072)
  assert given['data'].dtype == np.uint8
  assert given['data'].tobytes() == raw
  assert given['labels'] == [7]


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_pickled_arrays_are_read_in_every_protocol(protocol):
  array = np.arange(12, dtype=np.uint8).reshape(3, 4)
  original = {'c': array, 'f': np.asfortranarray(array), 'n': np.int64(-5)}
  given = pickles.load(pickle.dumps(original, protocol))
  for key, value in original.items():
    np.testing.assert_array_equal(given[key], value)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'not a readable pickle'),
    (b'\x80\x04garbage', 'pickle'),
    (pickle.dumps([1]), 'a pickle of a list'),
    # The memo up to this place would take 400 MB.
    (b'\x80\x02}r' + struct.pack('<I', 50_000_000) + b'.', '50000000 values'),
    (pickle.dumps({'a': np.zeros(3, object)}), 'an array of .O8'),
    (pickle.dumps({'a': print}), 'builtins.print'),
    (pickle.dumps({'a': np.load}), 'numpy.*load, which no array needs'),
    (
      _python2(bytes(9)).replace(b'K\x01K\x01M\x09', b'K\x01K\x01M\x0a'),
      '9 byt',
    ),
  ],
)
def test_other_pickles_are_refused(content, message):
  with pytest.raises(ValueError, match=message):
    pickles.load(content)


def test_a_pickle_cannot_change_the_reader():
  expected = np.arange(6, dtype=np.uint8).reshape(2, 3)
  plain = pickle.dumps({'a': expected}, protocol=5)

  def text(value):
    return b'X' + struct.pack('<I', len(value)) + value

  # Gives the function that makes arrays another default, and is a dict.
  function = b'cnumpy.core.numeric\n_frombuffer\n'
  state = b'N}' + text(b'__defaults__') + text(b'F') + b'\x85s\x86'
  assert pickles.load(b'\x80\x02' + function + state + b'b0}.') == {}
  np.testing.assert_array_equal(pickles.load(plain)['a'], expected)
  assert pickles._make.__defaults__ == ('C',)


def test_a_tar_bomb_is_refused_before_it_unpacks(tmp_path):
  archive = _write_tar(tmp_path / 'a', {'d/zeros.bin': bytes(10_000_000)})
  assert archive.stat().st_size < 100_000
  with pytest.raises(data.DataError, match='unpacks to more than'):
    archives.read_tar(archive, ['x'], 1_000_000)


def _huge(name):
  """A header alone, of a file of which nothing is there."""
  info = tarfile.TarInfo(name)
  info.size = 1 << 62
  return info


def _sparse(name):
  """A file of zeros that the archive only mentions."""
  info = tarfile.TarInfo(name)
  info.pax_headers = {'GNU.sparse.map': '0,0', 'GNU.sparse.size': '900000'}
  return info


@pytest.mark.parametrize('info_fn', [_huge, _sparse])
def test_files_larger_than_what_is_there_are_refused(info_fn, tmp_path):
  archive = tmp_path / 'a'
  with tarfile.open(archive, 'w:gz', format=tarfile.PAX_FORMAT) as tar:
    tar.addfile(info_fn('d/x'))
  with pytest.raises(data.DataError, match='unpacks to more than'):
    archives.read_tar(archive, ['x'], 1_000_000)


# Tiny-ImageNet


_WNIDS = [f'n{10_000_000 + 7 * i}' for i in range(200)]


@functools.cache
def _jpeg(mode='RGB', size=(64, 64)):
  """A small JPEG."""
  content = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  image = PIL.Image.fromarray(noise).resize(size).convert(mode)
  image.save(content, format='JPEG', quality=50)
  return content.getvalue()


def _tiny():
  """{name: content} of an archive in the official layout, one image a class."""
  files = {
    # Not sorted, as in the official archive.
    'wnids.txt': '\n'.join(_WNIDS[::-1]).encode(),
    'words.txt': b'n00001740\tentity\n'
    + b''.join(f'{w}\tthing {w[-4:]}, stuff\n'.encode() for w in _WNIDS),
    'val/val_annotations.txt': b''.join(
      f'val_{i}.JPEG\t{w}\t0\t0\t63\t63\n'.encode()
      for i, w in enumerate(_WNIDS[::-1])
    ),
    'test/images/test_0.JPEG': b'never read',
  }
  for index, wnid in enumerate(_WNIDS):
    files[f'train/{wnid}/{wnid}_boxes.txt'] = b'boxes'
    files[f'train/{wnid}/images/{wnid}_0.JPEG'] = _jpeg()
    files[f'val/images/val_{index}.JPEG'] = _jpeg()
  files[f'train/{_WNIDS[3]}/images/{_WNIDS[3]}_0.JPEG'] = _jpeg('L')
  return {f'tiny-imagenet-200/{name}': v for name, v in files.items()}


def _write_zip(path, files):
  with zipfile.ZipFile(path, 'w') as file:
    for name, content in files.items():
      file.writestr(name, content)
  return path


@pytest.fixture(scope='module')
def tiny_dir(tmp_path_factory):
  """A data_dir in which the archive above is prepared."""
  path = tmp_path_factory.mktemp('tiny')
  archive = _write_zip(path / 'tiny.zip', _tiny())
  data.prepare(
    'tiny_imagenet', data_dir=path, archive=archive, allow_partial=True
  )
  return path


def test_tiny_imagenet_counts_sorted_wordnet_ids(tiny_dir):
  import tensorflow_datasets as tfds

  given = data.load('tiny_imagenet', data_dir=tiny_dir)
  assert given.image_shape == (64, 64, 3)
  assert given.class_names[0] == f'thing {_WNIDS[0][-4:]}, stuff'
  assert sorted(given.train['label']) == list(range(200))
  examples = {
    example['id'].decode(): example
    for split in ('train', 'test')
    for example in tfds.data_source(
      'tiny_imagenet',
      split=split,
      data_dir=tiny_dir,
      builder_kwargs={'file_format': 'array_record'},
      decoders={'image': tfds.decode.SkipDecoding()},
    )
  }
  assert examples[f'{_WNIDS[5]}_0.JPEG']['label'] == 5
  # The annotations, not the number of the file, tell the class.
  assert examples['val_0.JPEG']['label'] == 199
  assert examples[f'{_WNIDS[5]}_0.JPEG']['image'] == _jpeg()


def test_byte_order_marks_and_windows_lines_are_no_part_of_a_name():
  plain = _tiny()
  edited = {
    k: b'\xef\xbb\xbf' + v.replace(b'\n', b'\r\n') if k.endswith('txt') else v
    for k, v in plain.items()
  }
  one, two = (
    tiny_imagenet_archive.list_archive(
      pathlib.Path('x.zip'),
      lambda name, files=files: files[name],
      list(files),
      allow_partial=True,
    )
    for files in (plain, edited)
  )
  assert one == two


def test_grayscale_images_become_rgb(tiny_dir):
  given = data.load('tiny_imagenet', data_dir=tiny_dir)
  image = given.train['image'][given.train['label'] == 3][0]
  gray = np.asarray(PIL.Image.open(io.BytesIO(_jpeg('L'))))
  np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=-1))
  other = given.train['image'][given.train['label'] == 4][0]
  expected = np.asarray(PIL.Image.open(io.BytesIO(_jpeg())))
  np.testing.assert_array_equal(other, expected)


def _zip_link(name):
  info = zipfile.ZipInfo(name)
  info.external_attr = (stat.S_IFLNK | 0o777) << 16
  return info


def _png_of(size, bits=8):
  """The beginning of a grayscale PNG."""
  header = b'IHDR' + struct.pack('>IIBBBBB', size, size, bits, 0, 0, 0, 0)
  checksum = struct.pack('>I', zlib.crc32(header))
  start = b'\x89PNG\r\n\x1a\n\0\0\0\r' + header + checksum
  return start + struct.pack('>I', 100) + b'IDAT'


_R = 'tiny-imagenet-200/'
_IMAGE = f'{_R}train/{_WNIDS[7]}/images/{_WNIDS[7]}_0.JPEG'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {},
      '200 train and 200 test images, expected 100,000 and 10,000; to .*'
      '--allow_partial',
    ),
    (
      {_R + 'val/val_annotations.txt': None},
      'holds no val/val_annotations.txt',
    ),
    ({_R + 'words.txt': None}, 'holds no words.txt'),
    ({_R + 'wnids.txt': None}, 'holds no wnids.txt'),
    ({_R + 'wnids.txt': b'n12345678'}, 'wnids.txt has 1 different ids'),
    ({_R + 'wnids.txt': b'label'}, "wnids.txt: 'label' is no WordNet id"),
    ({_R + 'words.txt': b'n12345678\tx'}, f'no words for {_WNIDS[0]}'),
    ({_R + 'words.txt': b'\xff\xfe'}, 'words.txt is no text'),
    (
      {_R + 'val/val_annotations.txt': b'val_0.JPEG\tn99999999\t0'},
      "val_annotations.txt, line 1: 'n99999999' is not in wnids.txt",
    ),
    (
      {_R + 'val/val_annotations.txt': b'val_0.JPEG'},
      "line 1: 'val_0.JPEG', expected file, tab, WordNet id",
    ),
    (
      {_R + 'val/images/val_200.JPEG': _jpeg()},
      'val_200.JPEG is not in val/val_annotations.txt',
    ),
    (
      {f'{_R}train/n99999999/images/a_0.JPEG': _jpeg()},
      'a_0.JPEG: n99999999 is not in wnids.txt',
    ),
    ({_IMAGE: None}, f'{_WNIDS[7]} has 0 train images, expected 500'),
    ({_IMAGE: _jpeg()[:-200]}, f'{_WNIDS[7]}_0.JPEG: truncated or damaged'),
    ({_IMAGE: b'not a picture'}, f'{_WNIDS[7]}_0.JPEG: neither a JPEG nor'),
    ({_IMAGE: b''}, f'{_WNIDS[7]}_0.JPEG: neither a JPEG nor'),
    ({_IMAGE: _png_of(60_000)}, f'{_WNIDS[7]}_0.JPEG: .*exceeds limit'),
    ({_IMAGE: _png_of(10_000)}, f'{_WNIDS[7]}_0.JPEG: .*exceeds limit'),
    ({_IMAGE: _png_of(64, bits=16)}, '_0.JPEG: pixels of mode I;16, expected'),
    (
      {f'{_R}train/{_WNIDS[8]}/images/{_WNIDS[7]}_0.JPEG': _jpeg()},
      f'{_WNIDS[7]}_0.JPEG and .*{_WNIDS[7]}_0.JPEG have the same file name',
    ),
    ({_IMAGE: _jpeg(size=(64, 63))}, r'\(64, 63\) pixels, expected \(64, 64\)'),
    ({'../x': b'x'}, "'../x', which leads out of the folder"),
    ({'C:/x': b'x'}, 'leads out of the folder'),
    ({_R + 'link': _zip_link}, "link', which is a link"),
  ],
)
def test_bad_tiny_imagenet_archives_are_refused(changes, message, tmp_path):
  files = _tiny()
  archive = tmp_path / 'bad.zip'
  with zipfile.ZipFile(archive, 'w') as file:
    for name, content in (files | changes).items():
      if callable(content):
        file.writestr(content(name), '/etc/passwd')
      elif content is not None:
        file.writestr(name, content)
  with pytest.raises(data.DataError, match=message) as error:
    data.prepare(
      'tiny_imagenet',
      data_dir=tmp_path / 'data',
      archive=archive,
      allow_partial='allow_partial' not in message,
    )
  assert 'bad.zip' in str(error.value)
  assert not list((tmp_path / 'data').glob('*'))


def test_annotations_without_their_image_need_allow_partial(tmp_path):
  files = _tiny()
  del files[_R + 'val/images/val_9.JPEG']
  files[_R + 'val/images/val_1.JPEG'] = _jpeg()
  archive = _write_zip(tmp_path / 'a.zip', files)
  with pytest.raises(data.DataError, match='names val_9.JPEG, which is not in'):
    data.prepare('tiny_imagenet', data_dir=tmp_path, archive=archive)


def test_a_truncated_zip_is_named(tmp_path):
  archive = _write_zip(tmp_path / 'cut.zip', _tiny())
  os.truncate(archive, archive.stat().st_size // 2)
  with pytest.raises(data.DataError, match=r'cut\.zip is truncated, damaged'):
    data.prepare('tiny_imagenet', data_dir=tmp_path, archive=archive)


def test_damaged_bytes_in_a_zip_are_named(tmp_path):
  archive = _write_zip(tmp_path / 'a.zip', _tiny())
  content = archive.read_bytes()
  start = content.index(_jpeg()) + 300
  archive.write_bytes(content[:start] + b'damage' + content[start + 6 :])
  with pytest.raises(data.DataError, match=r'a.zip: .*n1.*_0.JPEG is.*CRC'):
    data.prepare(
      'tiny_imagenet', data_dir=tmp_path, archive=archive, allow_partial=True
    )


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a', 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('zeros', bytes(10_000_000))
  with (
    pytest.raises(data.DataError, match='unpacks to more than'),
    archives.open_zip(tmp_path / 'a', 1_000_000),
  ):
    pass


def test_a_zip_that_lies_about_a_size_is_not_unpacked(tmp_path):
  archive = tmp_path / 'a'
  with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('zeros', bytes(50_000_000))
  size = struct.pack('<I', 50_000_000)
  archive.write_bytes(
    archive.read_bytes().replace(size, struct.pack('<I', 1_000))
  )
  tracemalloc.start()
  with (
    archives.open_zip(archive, 1_000_000) as (read_fn, _),
    pytest.raises(data.DataError, match=': zeros is .*damaged'),
  ):
    read_fn('zeros')
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 5_000_000


@pytest.mark.parametrize('kind', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_of_a_zip_are_refused(kind, tmp_path):
  with zipfile.ZipFile(tmp_path / 'a', 'w', kind) as file:
    file.writestr('x', bytes(100))
  with (
    pytest.raises(data.DataError, match="'x', which is not compressed by"),
    archives.open_zip(tmp_path / 'a', 1_000_000),
  ):
    pass


# Downloads and the command line


@pytest.fixture
def official(tmp_path, monkeypatch):
  """Publishes a small archive as the official one; returns its path."""
  archive = _write_tar(tmp_path / 'official.tar.gz', _binary('cifar10'))
  content = archive.read_bytes()
  published = (
    archive.as_uri(),
    len(content),
    hashlib.sha256(content).hexdigest(),
  )
  monkeypatch.setitem(downloads.FILES, 'cifar-10-binary.tar.gz', published)
  return archive


def test_what_is_downloaded_is_kept_and_prepared(official, tmp_path):
  data_dir = tmp_path / 'data'
  data.prepare('cifar10', data_dir=data_dir, allow_partial=True)
  assert len(data.load('cifar10', data_dir=data_dir).test['label']) == _NUM
  kept = data_dir / 'downloads' / 'cifar-10-binary.tar.gz'
  assert [*kept.parent.iterdir()] == [kept]
  official.unlink()
  found = downloads.fetch(kept.name, kept.parent, progress_fn=None)
  assert found == kept


@pytest.mark.parametrize(
  ('change_fn', 'message'),
  [
    (lambda path: path.unlink(), 'cannot download file:.*--archive='),
    (
      lambda path: os.truncate(path, 999),
      'gave 999 bytes of sha256 .*expected',
    ),
    (
      lambda path: path.write_bytes(bytes(path.stat().st_size + 9_000_000)),
      'of sha256 .*thrown away',
    ),
  ],
)
def test_another_file_than_the_published_one_is_thrown_away(
  change_fn, message, official, tmp_path
):
  change_fn(official)
  with pytest.raises(data.DataError, match=message):
    data.prepare('cifar10', data_dir=tmp_path / 'data', allow_partial=True)
  assert not list((tmp_path / 'data' / 'downloads').iterdir())


def test_every_first_archive_can_be_downloaded():
  firsts = [s.archives[0] for s in data.DATASETS.values() if s.archives]
  assert sorted(firsts) == sorted(downloads.FILES)


def test_the_command_prepares_once_checks_and_lists(tmp_path, capsys):
  archive = _write_tar(tmp_path / 'a.tar.gz', _binary('cifar10'))
  folder = f'--data_dir={tmp_path}'
  prepare = ['prepare', 'cifar10', f'--archive={archive}', folder]
  handled = (signal.SIGTERM, signal.SIGHUP)
  before = [signal.getsignal(number) for number in handled]
  try:
    assert cli.main(prepare) == 1
    assert '--allow_partial' in capsys.readouterr().err
    (tmp_path / 'incomplete.0_cifar10').mkdir()  # Of a killed process.
    assert cli.main([*prepare, '--allow_partial']) == 0
    printed = capsys.readouterr()
    assert 'cifar10 prepared in' in printed.out
    assert 'incomplete.0_cifar10 can be removed' in printed.out
    assert '20/20' in printed.err
    archive.unlink()
    assert cli.main(prepare) == 0
    assert 'cifar10 is already prepared in' in capsys.readouterr().out
    assert cli.main(['check', 'cifar10', folder]) == 0
    assert '20 train and 4 test images, only part' in capsys.readouterr().out
    assert cli.main(['check', 'cifar100', folder]) == 1
    assert cli.main(['prepare', 'cifar11', folder]) == 1
    assert 'unknown dataset' in capsys.readouterr().err
    assert cli.main(['list', folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(data.DATASETS)
  finally:
    for number, handler in zip(handled, before, strict=True):
      signal.signal(number, handler)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('cifar10', 'gone.tar.gz is no file; cifar10 takes cifar-10-binary'),
    ('digits', 'gone.tar.gz: digits takes no archive'),
  ],
)
def test_an_archive_that_is_no_use_is_named(name, message, tmp_path):
  with pytest.raises(data.DataError, match=message):
    data.prepare(name, data_dir=tmp_path, archive=tmp_path / 'gone.tar.gz')


@pytest.mark.parametrize('ignored', [False, True])  # As under nohup.
def test_a_hangup_is_heeded_unless_it_is_ignored(ignored):
  before = 'SIG_IGN' if ignored else 'SIG_DFL'
  code = f"""
import argparse, signal, sys
from undistillable.data import __main__ as cli

signal.signal(signal.SIGHUP, signal.{before})
cli._parse = lambda _: argparse.Namespace(
  fn=lambda _: signal.raise_signal(signal.SIGHUP)
)
sys.exit(cli.main([]))
"""
  done = subprocess.run([sys.executable, '-c', code], timeout=120)
  assert done.returncode == (0 if ignored else 128 + signal.SIGHUP)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_killed_preparation_leaves_nothing(number, tmp_path, shared):
  archive = shared / 'data' / 'tiny-imagenet-200-subset.zip'
  command = [sys.executable, '-m', 'undistillable.data', 'prepare']
  command += ['tiny_imagenet', f'--archive={archive}', '--allow_partial']
  # A shell's background job ignores SIGINT, and hands that on to others.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    process = subprocess.Popen(
      [*command, f'--data_dir={tmp_path}'],
      cwd=pathlib.Path(__file__).parents[1],
      stderr=subprocess.PIPE,
    )
  finally:
    signal.signal(signal.SIGINT, before)
  deadline = time.monotonic() + 60
  while not list(tmp_path.glob('incomplete.*')):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(number)
  _, said = process.communicate(timeout=30)
  assert process.returncode == 128 + number
  assert b'Traceback' not in said
  assert not list(tmp_path.iterdir())
