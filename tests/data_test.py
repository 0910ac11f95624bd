"""Loading, checking and dividing data sets."""

import errno
import json
import multiprocessing
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import types

import numpy as np
import psutil
import pytest

from undistillable import data


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
  """A data_dir in which the digits are prepared; not to be changed."""
  path = tmp_path_factory.mktemp('data')
  data.load('digits', data_dir=path)
  return path


@pytest.fixture(scope='session')
def digits(digits_dir):
  return data.load('digits', data_dir=digits_dir)


@pytest.fixture
def copied_dir(digits_dir, tmp_path):
  """A copy that a test may damage."""
  shutil.copytree(digits_dir, tmp_path, dirs_exist_ok=True)
  return tmp_path


def test_importing_data_is_light():
  code = (
    'import sys; from undistillable import data; from undistillable.data '
    'import augment; heavy = {"tensorflow_datasets", "sklearn", "array_record",'
    ' "tensorflow", "orbax"} & set(sys.modules); assert not heavy, heavy'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_digits_are_those_of_scikit_learn(digits):
  from sklearn import datasets

  assert digits.name == 'digits'
  assert digits.num_classes == 10
  assert digits.class_names == tuple('0123456789')
  assert digits.image_shape == (8, 8, 1)
  assert len(digits.train['label']) == 1442
  assert len(digits.test['label']) == 355
  original = datasets.load_digits()
  given = sorted(
    (int(label), image.tobytes())
    for split in (digits.train, digits.test)
    for image, label in zip(split['image'], split['label'], strict=True)
  )
  scaled = np.round(original.images * 255 / 16).astype(np.uint8)
  expected = sorted(
    (int(label), image.tobytes())
    for image, label in zip(scaled, original.target, strict=True)
  )
  assert given == expected


def test_splits_have_the_promised_dtypes(digits):
  for split in (digits.train, digits.test):
    assert split['image'].dtype == np.uint8
    assert split['label'].dtype == np.int32
    assert split['image'].shape == (len(split['label']), 8, 8, 1)


def test_digits_test_set_is_stratified(digits):
  train = np.bincount(digits.train['label'])
  test = np.bincount(digits.test['label'])
  assert (abs(test / (train + test) - 0.2) < 0.01).all()


def test_digits_constants_are_those_of_the_training_set(digits):
  pixels = digits.train['image'] / 255
  np.testing.assert_allclose(pixels.mean(), digits.mean, atol=5e-5)
  np.testing.assert_allclose(pixels.std(), digits.std, atol=5e-5)


def test_digits_are_the_same_in_every_folder(digits, tmp_path):
  other = data.load('digits', data_dir=tmp_path)
  np.testing.assert_array_equal(other.train['image'], digits.train['image'])


def test_digits_are_a_data_set_of_tfds(digits_dir, digits):
  import tensorflow_datasets as tfds

  source = tfds.data_source(
    'digits',
    split='test',
    data_dir=digits_dir,
    builder_kwargs={'file_format': 'array_record'},
  )
  assert len(source) == len(digits.test['label'])
  np.testing.assert_array_equal(source[7]['image'], digits.test['image'][7])
  assert source[7]['label'] == digits.test['label'][7]


def test_digits_are_prepared_in_silence(tmp_path, capfd):
  data.load('digits', data_dir=tmp_path / 'new' / 'folder')
  assert capfd.readouterr() == ('', '')
  left = [path.name for path in (tmp_path / 'new' / 'folder').iterdir()]
  assert left == ['digits']


def _load_digits(data_dir):
  return len(data.load('digits', data_dir=data_dir).train['label'])


def test_digits_may_be_prepared_by_several_at_once(tmp_path):
  with multiprocessing.get_context('spawn').Pool(2) as pool:
    assert pool.map(_load_digits, [tmp_path] * 2) == [1442] * 2
  assert [path.name for path in tmp_path.iterdir()] == ['digits']


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr('PIL.Image.fromarray', interrupt)
  with pytest.raises(KeyboardInterrupt):
    data.load('digits', data_dir=tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', [errno.EACCES, errno.ENOTDIR])
def test_digits_need_no_folder_to_write_into(number, tmp_path, monkeypatch):
  make_dir = pathlib.Path.mkdir

  def refuse(path, *args, **kwargs):
    if path == tmp_path / 'locked':
      raise OSError(number, 'locked', str(path))
    make_dir(path, *args, **kwargs)

  monkeypatch.setattr(pathlib.Path, 'mkdir', refuse)
  assert _load_digits(tmp_path / 'locked') == 1442
  assert not list(tmp_path.iterdir())


def test_data_dir_defaults_to_that_of_tfds(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'here'))
  data.load('digits')
  assert (tmp_path / 'here' / 'digits' / '1.0.0').is_dir()


@pytest.mark.parametrize('fn', [data.load, data.check])
def test_an_unknown_name_lists_the_known_ones(fn):
  with pytest.raises(ValueError) as error:
    fn('cifar11')
  assert str(error.value) == (
    "unknown dataset 'cifar11'; known: cifar10, cifar100, digits, patches, "
    'tiny_imagenet'
  )


def test_a_file_is_no_data_dir(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(data.DataError, match='file is a file, expected a folder'):
    data.load('digits', data_dir=tmp_path / 'file')


@pytest.mark.parametrize('fn', [data.load, data.check])
def test_an_absent_data_set_names_the_command(fn, tmp_path):
  with pytest.raises(data.DataError) as error:
    fn('cifar10', data_dir=tmp_path)
  assert str(tmp_path) in str(error.value)
  assert (
    f'python -m undistillable.data prepare cifar10 --data_dir={tmp_path}'
    in str(error.value)
  )


def test_check_lets_the_digits_be_absent(tmp_path):
  data.check('digits', data_dir=tmp_path)


@pytest.mark.parametrize(
  'left', ['cifar10/incomplete.A1B2C3_3.0.2', 'incomplete.abc_cifar10']
)
def test_check_names_what_an_interrupted_preparation_left(left, tmp_path):
  (tmp_path / left).mkdir(parents=True)
  with pytest.raises(data.DataError, match=f'half: .*{left}.*prepare cifar10'):
    data.check('cifar10', data_dir=tmp_path)


@pytest.mark.parametrize(
  'given', ['data/cifar10/3.0.2', 'data/cifar10', 'data/downloads', '.']
)
def test_check_finds_what_lies_beside_the_folder_that_was_given(
  given, tmp_path
):
  (tmp_path / 'data' / 'cifar10' / '3.0.2').mkdir(parents=True)
  (tmp_path / 'data' / 'downloads').mkdir()
  with pytest.raises(data.DataError) as error:
    data.check('cifar10', data_dir=tmp_path / given)
  assert 'not prepared in' in str(error.value)
  assert str(error.value).endswith(f'; pass data_dir={tmp_path / "data"}')


def _edit(file, **changes):
  content = json.loads(file.read_text())
  content.update(changes)
  file.write_text(json.dumps(content))


_TRAIN = 'digits-train.array_record-00000-of-00001'


def _claim_more(path):
  content = json.loads((path / 'dataset_info.json').read_text())
  content['splits'][0]['shardLengths'] = ['50000']
  (path / 'dataset_info.json').write_text(json.dumps(content))


def _claim_none(path):
  content = json.loads((path / 'dataset_info.json').read_text())
  content['splits'][1]['shardLengths'] = []
  (path / 'dataset_info.json').write_text(json.dumps(content))


def _cut(path):
  size = (path / _TRAIN).stat().st_size
  os.truncate(path / _TRAIN, size - 70_000)


def _other_shape(path):
  text = (path / 'features.json').read_text().replace('"8"', '"9"')
  (path / 'features.json').write_text(text)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda p: (p / _TRAIN).unlink(), f'{_TRAIN} is missing'),
    (_cut, f'{_TRAIN} is truncated or damaged'),
    (lambda p: (p / _TRAIN).write_bytes(b''), f'{_TRAIN} is truncated'),
    (_claim_more, f'{_TRAIN} holds 1,442 records, .* says 50,000'),
    (_claim_none, 'dataset_info.json says .* is empty'),
    (lambda p: (p / 'dataset_info.json').unlink(), 'dataset_info.json is miss'),
    (lambda p: (p / 'features.json').unlink(), 'features.json is missing'),
    (
      lambda p: (p / 'dataset_info.json').write_text('{"name": "dig'),
      'dataset_info.json does not describe',
    ),
    (lambda p: (p / 'features.json').write_text('[]'), 'not describe'),
    (lambda p: _edit(p / 'dataset_info.json', splits=[]), 'does not describe'),
    (
      lambda p: _edit(p / 'dataset_info.json', fileFormat='parquet'),
      "'parquet' format; known: array_record, tfrecord",
    ),
    (_other_shape, r'images of \(9, 9, 1\).*expected \(8, 8, 1\)'),
  ],
)
@pytest.mark.parametrize('fn', [data.load, data.check])
def test_a_damaged_folder_is_named(fn, damage, message, copied_dir):
  damage(copied_dir / 'digits' / '1.0.0')
  with pytest.raises(data.DataError, match=message) as error:
    fn('digits', data_dir=copied_dir)
  assert 'prepare digits --data_dir=' in str(error.value)


def test_load_names_the_file_with_damaged_bytes(copied_dir):
  file = copied_dir / 'digits' / '1.0.0' / _TRAIN
  content = bytearray(file.read_bytes())
  content[70_000:70_500] = bytes(500)
  file.write_bytes(content)
  data.check('digits', data_dir=copied_dir)
  with pytest.raises(data.DataError, match=f'{_TRAIN}, cannot be read'):
    data.load('digits', data_dir=copied_dir)


@pytest.mark.parametrize('older', [False, True])
def test_tfrecord_files_are_read_without_tensorflow(older, copied_dir, digits):
  from array_record.python import array_record_module

  path = copied_dir / 'digits' / '1.0.0'
  for file in path.glob('*.array_record-*'):
    reader = array_record_module.ArrayRecordReader(str(file), '')
    renamed = path / file.name.replace('array_record', 'tfrecord')
    with renamed.open('wb') as stream:
      for record in reader.read_all():
        stream.write(struct.pack('<QI', len(record), 0) + record + bytes(4))
    reader.close()
    file.unlink()
  info = json.loads((path / 'dataset_info.json').read_text())
  if older:  # Than the fields that say so; tfds assumes the same.
    del info['fileFormat']
    for split in info['splits']:
      del split['filepathTemplate']
  else:
    info['fileFormat'] = 'tfrecord'
  (path / 'dataset_info.json').write_text(json.dumps(info))
  data.check('digits', data_dir=copied_dir)
  given = data.load('digits', data_dir=copied_dir)
  np.testing.assert_array_equal(given.train['image'], digits.train['image'])
  np.testing.assert_array_equal(given.test['label'], digits.test['label'])
  os.truncate(renamed, renamed.stat().st_size - 1)
  with pytest.raises(data.DataError, match='truncated'):
    data.check('digits', data_dir=copied_dir)


def test_a_data_set_larger_than_the_memory_is_refused(digits_dir, monkeypatch):
  memory = types.SimpleNamespace(available=115_007)
  monkeypatch.setattr(psutil, 'virtual_memory', lambda: memory)
  with pytest.raises(data.DataError, match='GiB of memory.*read as a whole'):
    data.load('digits', data_dir=digits_dir)
  memory.available += 1
  data.load('digits', data_dir=digits_dir)


@pytest.mark.whole
def test_cifar10_of_the_shared_folder_is_read(shared):
  data_dir = shared / 'data' / 'tfds'
  data.check('cifar10', data_dir=data_dir)
  cifar10 = data.load('cifar10', data_dir=data_dir)
  assert cifar10.image_shape == (32, 32, 3)
  assert cifar10.class_names[0] == 'airplane'
  assert cifar10.class_names[9] == 'truck'
  assert (np.bincount(cifar10.train['label']) == 5000).all()
  assert (np.bincount(cifar10.test['label']) == 1000).all()
  value = np.arange(256) / 255
  for channel in range(3):
    share = np.bincount(cifar10.train['image'][..., channel].ravel()) / 51.2e6
    mean = share @ value
    assert abs(mean - cifar10.mean[channel]) < 2e-4
    assert (
      abs(np.sqrt(share @ value**2 - mean**2) - cifar10.std[channel]) < 1e-3
    )


def test_cifar100_of_the_shared_folder_is_whole(shared):
  data.check('cifar100', data_dir=shared / 'data' / 'tfds')


def test_registries_are_alphabetical():
  assert list(data.DATASETS) == sorted(data.DATASETS)
  assert list(data.NORMALIZATIONS) == list(data.DATASETS)
  assert data.NORMALIZATIONS['cifar10'] == (
    (0.4914, 0.4822, 0.4465),
    (0.247, 0.243, 0.261),
  )


def _split(counts):
  """A split whose images are their own index."""
  label = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
  label = np.random.default_rng(0).permutation(label)
  index = np.arange(len(label), dtype=np.int32)
  return {'image': index.reshape(-1, 1, 1, 1), 'label': label}


def _index(split):
  return split['image'].ravel().tolist()


@pytest.mark.parametrize('fraction', [0.02, 0.1, 0.5, 0.9])
def test_hold_out_parts_every_class_in_proportion(fraction):
  split = _split([100, 50, 200])
  train, held_out = data.hold_out(split, fraction, seed=3)
  assert len(held_out['label']) == round(350 * fraction)
  assert sorted(_index(train) + _index(held_out)) == list(range(350))
  assert (held_out['label'] == split['label'][_index(held_out)]).all()
  counts = np.bincount(held_out['label'], minlength=3)
  assert (abs(counts - fraction * np.array([100, 50, 200])) <= 1).all()


def test_hold_out_depends_on_the_seed_alone():
  split = _split([100] * 3)
  held_out = [data.hold_out(split, 0.1, seed)[1] for seed in (0, 0, 1)]
  assert _index(held_out[0]) == _index(held_out[1])
  assert _index(held_out[0]) != _index(held_out[2])


def test_hold_out_of_nothing_keeps_everything():
  split = _split([10, 10])
  train, held_out = data.hold_out(split, 0, seed=0)
  assert _index(train) == _index(split)
  assert held_out['image'].shape == (0, 1, 1, 1)


def test_smaller_shares_are_part_of_larger_ones():
  split = _split([40, 60, 11])
  smaller = set()
  for fraction in (0.05, 0.1, 0.3, 0.31, 0.9, 1.0):
    taken = data.take_fraction(split, fraction, seed=5)
    assert smaller < set(_index(taken))
    assert len(taken['label']) == round(111 * fraction)
    counts = np.bincount(taken['label'], minlength=3)
    assert (abs(counts - fraction * np.array([40, 60, 11])) <= 1).all()
    smaller = set(_index(taken))
  assert _index(taken) == _index(split)


def test_take_fraction_draws_anew_for_each_seed():
  split = _split([100] * 3)
  taken = [data.take_fraction(split, 0.1, seed) for seed in (0, 1)]
  assert _index(taken[0]) != _index(taken[1])


@pytest.mark.parametrize('fraction', [-0.1, 1, 1.5, 0.001, 0.999, float('nan')])
def test_hold_out_refuses_bad_fractions(fraction):
  with pytest.raises(ValueError, match='fraction'):
    data.hold_out(_split([10, 10]), fraction, seed=0)


@pytest.mark.parametrize('fraction', [-0.1, 0, 1.1, 0.001, float('nan')])
def test_take_fraction_refuses_bad_fractions(fraction):
  with pytest.raises(ValueError, match='fraction'):
    data.take_fraction(_split([10, 10]), fraction, seed=0)
