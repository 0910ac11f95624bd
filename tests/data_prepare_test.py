"""From archives to folders: official ones, subsets, and those to refuse."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
import time

import numpy as np
import PIL.Image
import pytest
import tiny_archive

from undistillable import data
from undistillable.data import (
  __main__ as cli,
  archives,
  cifar,
  dataset,
  folders,
)

_NAMES10 = ['airplane', 'automobile', 'bird', 'cat', 'deer']
_NAMES10 += ['dog', 'frog', 'horse', 'ship', 'truck']
_NAMES20 = [f'coarse_{i}' for i in range(20)]
_NAMES100 = [f'fine_{i}' for i in range(100)]
_NUM = 4  # Images in each file of a CIFAR archive made here.


def _write_tar(path, files):
  """A .tar.gz of {name: content}, or a .tar."""
  mode = 'w:gz' if path.suffix == '.gz' else 'w'
  with tarfile.open(path, mode) as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


def _prepare(name, data_dir, archive):
  """Of an archive that is not the official one."""
  return data.prepare(name, data_dir=data_dir, archive=archive, unverified=True)


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
    batch = {'filenames': [b'a.png'] * _NUM, 'data': records[:, -3072:]}
    if name == 'cifar10':
      batch['labels'] = records[:, 0].tolist()
    else:
      batch['coarse_labels'] = records[:, 0].tolist()
      batch['fine_labels'] = records[:, 1].tolist()
    files[file] = dump(batch)
  if name == 'cifar10':
    files['batches.meta'] = dump({'label_names': [*_NAMES10]})
  else:
    names = {'fine_label_names': _NAMES100, 'coarse_label_names': _NAMES20}
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
  _prepare(name, tmp_path, archive)
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


def test_an_archive_that_was_decompressed_is_read_alike(tmp_path):
  splits = []
  for ending in ('tar.gz', 'tar'):
    folder = tmp_path / ending
    folder.mkdir()
    archive = _write_tar(folder / f'cifar.{ending}', _binary('cifar10'))
    _prepare('cifar10', folder, archive)
    splits.append(data.load('cifar10', data_dir=folder).test)
  np.testing.assert_array_equal(splits[0]['image'], splits[1]['image'])


def test_an_archive_that_was_unpacked_is_refused(tmp_path):
  with pytest.raises(
    data.DataError, match='is a folder; cifar10 takes cifar-1'
  ):
    data.prepare('cifar10', data_dir=tmp_path, archive=tmp_path)


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_cifar_folders_are_as_tfds_makes_them(name, tmp_path, shared):
  import tensorflow_datasets as tfds

  archive = _write_tar(tmp_path / 'cifar.tar.gz', _binary(name))
  folder, _ = _prepare(name, tmp_path, archive)
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


class _Attack:
  """Leaves a file where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
  ('change_fn', 'message'),
  [
    (lambda f: _drop('data_batch_3.bin', f), "holds no 'data_batch_3.bin'"),
    (lambda f: _drop('batches.meta.txt', f), "holds no 'batches.meta.txt'"),
    (lambda f: _drop('.bin', f), "holds no 'data_batch_1'"),
    (
      lambda f: _replace('data_batch_2.bin', bytes([10]) + bytes(3072), f),
      'train labels are from 0 to 10; expected 0 to 9',
    ),
    (
      lambda f: _replace('test_batch.bin', bytes(3073 + 3072), f),
      'cannot reshape array of size 6145',
    ),
    (lambda f: _replace('test_batch.bin', b'', f), 'holds no test images'),
    (
      lambda f: _replace('batches.meta.txt', _lines([*_NAMES10, 'x']), f),
      'names 11 classes, expected 10',
    ),
    (
      lambda f: _replace('batches.meta.txt', _lines([*_NAMES10[:9], 'cat']), f),
      'names 9 classes, expected 10',
    ),
  ],
)
def test_other_cifar_archives_are_refused(change_fn, message, tmp_path):
  files = change_fn(_binary('cifar10'))
  archive = _write_tar(tmp_path / 'bad.tar.gz', files)
  with pytest.raises(data.DataError, match=f'bad.tar.gz cannot .*{message}'):
    _prepare('cifar10', tmp_path / 'data', archive)
  assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize(
  ('batch', 'message'),
  [
    ({'labels': [0] * (_NUM - 1)}, r'train labels are .*\[19\]; .* int\[20\]'),
    ({'labels': [[0]] * _NUM}, 'dimension'),
    ({'labels': ['cat'] * _NUM}, 'cannot be read'),
    ({'data': np.zeros((_NUM, 3072))}, 'train images are float64'),
    ({'data': np.zeros((_NUM, 9), np.uint8)}, 'must match exactly'),
  ],
)
def test_batches_without_a_label_for_each_image_are_refused(
  batch, message, tmp_path
):
  batch = {
    'data': np.zeros((_NUM, 3072), np.uint8),
    'labels': [0] * _NUM,
  } | batch
  files = _replace('data_batch_2', pickle.dumps(batch, 2), _pickled('cifar10'))
  archive = _write_tar(tmp_path / 'cifar.tar.gz', files)
  with pytest.raises(data.DataError, match=f'cifar.tar.gz .*{message}'):
    _prepare('cifar10', tmp_path, archive)


def test_no_tar_is_said_in_one_line(tmp_path):
  archive = tmp_path / 'no.tar.gz'
  archive.write_bytes(b'not an archive')
  with pytest.raises(
    data.DataError, match=r'no\.tar\.gz cannot .*no tar archive'
  ) as error:
    _prepare('cifar10', tmp_path, archive)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('share', [0, 0.001, 0.5, 0.99])
def test_a_truncated_tar_is_named(share, tmp_path):
  archive = _write_tar(tmp_path / 'cut.tar.gz', _binary('cifar10'))
  os.truncate(archive, int(share * archive.stat().st_size))
  with pytest.raises(data.DataError, match=r'cut\.tar\.gz cannot be read'):
    _prepare('cifar10', tmp_path, archive)


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_a_pickle_that_runs_code_is_refused(protocol, tmp_path):
  trap = tmp_path / 'sprung'
  attack = pickle.dumps({'data': _Attack(trap)}, protocol)
  files = _replace('data_batch_1', attack, _pickled('cifar10'))
  archive = _write_tar(tmp_path / 'a', files)
  with pytest.raises(data.DataError, match='mkdir, .* not run'):
    _prepare('cifar10', tmp_path / 'data', archive)
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
  given = cifar._unpickle(_python2(raw))
  assert sorted(given) == ['data', 'labels']
  assert given['data'].shape == (1, 3072)
  assert given['data'].dtype == np.uint8
  assert given['data'].tobytes() == raw
  assert given['labels'] == [7]


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_pickled_arrays_are_read_in_every_protocol(protocol):
  array = np.arange(12, dtype=np.uint8).reshape(3, 4)
  original = {'c': array, 'f': np.asfortranarray(array), 'n': np.int64(-5)}
  given = cifar._unpickle(pickle.dumps(original, protocol))
  for key, value in original.items():
    np.testing.assert_array_equal(given[key], value)


# Tiny-ImageNet


_ROOT, _WNIDS = tiny_archive.ROOT, tiny_archive.WNIDS
_jpeg, _tiny = tiny_archive.jpeg, tiny_archive.files
_write_zip = tiny_archive.write


@pytest.fixture(scope='module')
def tiny_dir(tmp_path_factory):
  """A data_dir in which the archive above is prepared."""
  path = tmp_path_factory.mktemp('tiny')
  archive = _write_zip(path / 'tiny.zip', _tiny())
  _prepare('tiny_imagenet', path, archive)
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


def test_byte_order_marks_and_windows_lines_are_no_part_of_a_name(
  tiny_dir, tmp_path
):
  edited = {
    k: b'\xef\xbb\xbf' + v.replace(b'\n', b'\r\n') if k.endswith('txt') else v
    for k, v in _tiny().items()
  }
  archive = _write_zip(tmp_path / 'a.zip', edited)
  _prepare('tiny_imagenet', tmp_path, archive)
  one, two = (
    data.load('tiny_imagenet', data_dir=path) for path in (tiny_dir, tmp_path)
  )
  assert one.class_names == two.class_names
  np.testing.assert_array_equal(one.test['label'], two.test['label'])


def test_grayscale_images_become_rgb(tiny_dir):
  given = data.load('tiny_imagenet', data_dir=tiny_dir)
  image = given.train['image'][given.train['label'] == 3][0]
  gray = np.asarray(PIL.Image.open(io.BytesIO(_jpeg('L'))))
  np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=-1))
  other = given.train['image'][given.train['label'] == 4][0]
  expected = np.asarray(PIL.Image.open(io.BytesIO(_jpeg())))
  np.testing.assert_array_equal(other, expected)


_IMAGE = f'train/{_WNIDS[7]}/images/{_WNIDS[7]}_0.JPEG'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'val/val_annotations.txt': None}, 'val/val_annotations.txt'),
    ({'words.txt': None}, 'words.txt'),
    ({'wnids.txt': None}, 'holds no wnids.txt'),
    ({'wnids.txt': '\n'.join(_WNIDS[:-1]).encode()}, 'val_0.JPEG is not in'),
    (
      {'wnids.txt': '\n'.join([*_WNIDS, 'n99999999']).encode()},
      'no words for n99999999',
    ),
    ({'words.txt': b'n12345678\tx'}, f'no words for {_WNIDS[0]}'),
    ({'words.txt': b'\xff\xfe'}, "'utf-8' codec can't decode"),
    (
      {'val/val_annotations.txt': b'val_0.JPEG\tn99999999\t0'},
      'the class of .*val_0.JPEG is not in wnids.txt',
    ),
    (
      {'val/images/val_200.JPEG': _jpeg()},
      'the class of .*val_200.JPEG is not in wnids.txt',
    ),
    (
      {'train/n99999999/images/a_0.JPEG': _jpeg()},
      'the class of .*a_0.JPEG is not in wnids.txt',
    ),
    (
      {f'train/{_WNIDS[8]}/images/{_WNIDS[7]}_0.JPEG': _jpeg()},
      f'two train images are called {_WNIDS[7]}_0.JPEG',
    ),
    ({_IMAGE: _jpeg()[:-200]}, f'{_IMAGE} cannot be read: .*truncated'),
    ({_IMAGE: b'not a picture'}, f'{_IMAGE} cannot be read'),
    (
      {_IMAGE: _jpeg(size=(64, 63))},
      rf'{_IMAGE} .*\(64, 63\) pixels, expected \(64, 64\)',
    ),
  ],
)
def test_other_tiny_imagenet_archives_are_refused(changes, message, tmp_path):
  files = _tiny() | {_ROOT + name: content for name, content in changes.items()}
  files = {name: content for name, content in files.items() if content}
  archive = _write_zip(tmp_path / 'bad.zip', files)
  with pytest.raises(data.DataError, match=f'bad.zip.*{message}'):
    _prepare('tiny_imagenet', tmp_path / 'data', archive)
  assert not list((tmp_path / 'data').glob('*'))


def test_a_truncated_zip_is_named(tmp_path):
  archive = _write_zip(tmp_path / 'cut.zip', _tiny())
  os.truncate(archive, archive.stat().st_size // 2)
  with pytest.raises(data.DataError, match=r'cut\.zip cannot be read'):
    _prepare('tiny_imagenet', tmp_path, archive)


def test_damaged_bytes_in_a_zip_are_named(tmp_path):
  archive = _write_zip(tmp_path / 'a.zip', _tiny())
  content = archive.read_bytes()
  start = content.index(_jpeg()) + 300
  archive.write_bytes(content[:start] + b'damage' + content[start + 6 :])
  with pytest.raises(data.DataError, match=r'a.zip: .*n1.*_0.JPEG .*CRC'):
    _prepare('tiny_imagenet', tmp_path, archive)


# Checksums, downloads and the command line


@pytest.fixture
def official(tmp_path, monkeypatch):
  """Publishes a small archive as an official one; returns its path."""
  archive = _write_tar(tmp_path / 'official.tar.gz', _binary('cifar10'))
  published = dataset.Archive(
    archive.as_uri(), hashlib.sha256(archive.read_bytes()).hexdigest()
  )
  source = dataclasses.replace(cifar.CIFAR10, archives=(published,))
  monkeypatch.setitem(data.DATASETS, 'cifar10', source)
  return archive


def test_an_official_archive_needs_no_flag_under_any_name(official, tmp_path):
  renamed = official.rename(tmp_path / 'mine')
  data.prepare('cifar10', data_dir=tmp_path, archive=renamed)
  assert len(data.load('cifar10', data_dir=tmp_path).test['label']) == _NUM


def test_one_bit_more_needs_the_flag(official, tmp_path):
  content = bytearray(official.read_bytes())
  content[5] ^= 1  # Of the time in the header, which does not matter to gzip.
  official.write_bytes(content)
  with pytest.raises(
    data.DataError,
    match='official.tar.gz is not the official .*sha256 .*--unverified',
  ):
    data.prepare('cifar10', data_dir=tmp_path / 'data', archive=official)
  assert not (tmp_path / 'data').exists()
  _prepare('cifar10', tmp_path, official)


def test_what_is_downloaded_is_kept_and_prepared(official, tmp_path):
  data_dir = tmp_path / 'data'
  data.prepare('cifar10', data_dir=data_dir)
  assert len(data.load('cifar10', data_dir=data_dir).test['label']) == _NUM
  kept = data_dir / 'downloads' / 'official.tar.gz'
  assert [*kept.parent.iterdir()] == [kept]
  official.unlink()
  (published,) = data.DATASETS['cifar10'].archives
  assert archives.fetch(published, kept.parent, show_progress=False) == kept


@pytest.mark.parametrize(
  ('change_fn', 'message'),
  [
    (lambda path: path.unlink(), 'cannot download file:.*--archive='),
    (
      lambda path: os.truncate(path, 999),
      'gave 999 bytes of sha256 .*expected .*thrown away',
    ),
  ],
)
def test_another_file_than_the_published_one_is_thrown_away(
  change_fn, message, official, tmp_path
):
  change_fn(official)
  with pytest.raises(data.DataError, match=message):
    data.prepare('cifar10', data_dir=tmp_path / 'data')
  assert not list((tmp_path / 'data' / 'downloads').iterdir())


def test_the_command_prepares_once_checks_and_lists(tmp_path, capsys):
  archive = _write_tar(tmp_path / 'a.tar.gz', _binary('cifar10'))
  folder = f'--data_dir={tmp_path}'
  prepare = ['prepare', 'cifar10', f'--archive={archive}', folder]
  handled = (signal.SIGTERM, signal.SIGHUP)
  before = [signal.getsignal(number) for number in handled]
  try:
    assert cli.main(prepare) == 1
    assert '--unverified' in capsys.readouterr().err
    (tmp_path / 'incomplete.0_cifar10').mkdir()  # Of a killed process.
    assert cli.main([*prepare, '--unverified']) == 0
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


def test_of_many_at_once_one_prepares(monkeypatch, tmp_path):
  """The others wait for it, and find what it has made."""
  written, write = [], folders.write

  def slow(source, *args, **kwargs):
    written.append(source.name)
    time.sleep(0.5)  # So that all others come in the meantime.
    return write(source, *args, **kwargs)

  monkeypatch.setattr(folders, 'write', slow)
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    found = list(
      pool.map(lambda _: data.prepare('digits', data_dir=tmp_path), range(3))
    )
  assert written == ['digits']
  assert sorted(now for _, now in found) == [False, False, True]
  assert {path for path, _ in found} == {tmp_path / 'digits' / '1.0.0'}


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('cifar10', 'there is no file .*gone.tar.gz; cifar10 takes cifar-10-b'),
    ('digits', 'gone.tar.gz: digits takes no archive'),
  ],
)
def test_an_archive_that_is_no_use_is_named(name, message, tmp_path):
  with pytest.raises(data.DataError, match=message):
    data.prepare(name, data_dir=tmp_path, archive=tmp_path / 'gone.tar.gz')


def _own(monkeypatch, **changes):
  """Names a data set of arrays 'own'; returns them."""
  rng = np.random.default_rng(0)
  splits = {
    split: {
      'image': rng.integers(0, 256, (4, 9, 17, 1), np.uint8),
      'label': np.arange(4) % 2,
    }
    | changes
    for split in ('train', 'test')
  }
  source = dataclasses.replace(
    data.DATASETS['digits'],
    name='own',
    image_shape=(9, 17, 1),
    num_classes=2,
    num_examples={'train': 4, 'test': 4},
    read_fn=lambda _: dataset.from_arrays(
      splits, {'label': ['a', 'b']}, '{split}_{index}'
    ),
  )
  monkeypatch.setitem(data.DATASETS, 'own', source)
  return splits


def test_grey_arrays_with_a_channel_are_prepared(monkeypatch, tmp_path):
  splits = _own(monkeypatch)
  data.prepare('own', data_dir=tmp_path)
  found = data.load('own', data_dir=tmp_path).train['image']
  assert {image.tobytes() for image in found} == {
    image.tobytes() for image in splits['train']['image']
  }


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'image': np.full((4, 9, 17, 1), np.nan)}, r'images are float64\[4, 9'),
    ({'image': np.zeros((4, 9, 17, 4), np.uint8)}, r'grey \(C = 1\) or RGB'),
    ({'label': np.zeros(3, int)}, r'labels are int64\[3\]; expected int\[4\]'),
    ({'label': np.zeros(4)}, r'labels are float64\[4\]; expected int\[4\]'),
    ({'label': np.full(4, -1)}, 'labels are from -1 to -1; expected 0 to 1'),
    ({'label': np.full(4, 2)}, 'labels are from 2 to 2; expected 0 to 1'),
  ],
)
def test_other_arrays_are_refused(changes, message, monkeypatch, tmp_path):
  _own(monkeypatch, **changes)
  with pytest.raises(data.DataError, match=message):
    data.prepare('own', data_dir=tmp_path)
  assert not list(tmp_path.iterdir())


def test_an_embedded_data_set_has_as_many_images_as_it_says(
  monkeypatch, tmp_path
):
  _own(monkeypatch)
  more = {'train': 4, 'test': 5}
  source = dataclasses.replace(data.DATASETS['own'], num_examples=more)
  monkeypatch.setitem(data.DATASETS, 'own', source)
  with pytest.raises(data.DataError, match='4 test images; its source says 5'):
    data.prepare('own', data_dir=tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('ignored', [False, True])  # As under nohup.
def test_a_hangup_is_heeded_unless_it_is_ignored(ignored):
  before = 'SIG_IGN' if ignored else 'SIG_DFL'
  code = f"""
import argparse, signal, sys
from undistillable.data import __main__ as cli

signal.signal(signal.SIGHUP, signal.{before})
cli._parse = lambda _: argparse.Namespace(
  fn=lambda _: signal.raise_signal(signal.SIGHUP), config=None
)
sys.exit(cli.main([]))
"""
  done = subprocess.run([sys.executable, '-c', code], timeout=120)
  assert done.returncode == (0 if ignored else 128 + signal.SIGHUP)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_killed_preparation_leaves_nothing(number, tmp_path, shared):
  archive = shared / 'data' / 'tiny-imagenet-200-subset.zip'
  command = [sys.executable, '-m', 'undistillable.data', 'prepare']
  command += ['tiny_imagenet', f'--archive={archive}', '--unverified']
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
