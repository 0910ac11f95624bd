"""A training set that stays on the host: the same numbers, a part at a time."""

import functools
import threading
import types

import flax.linen as nn
import jax
import networks
import numpy as np
import optax
import pytest

from undistillable import attacks, defenses, models, oracle
from undistillable.data import batches
from undistillable.training import parallel, streaming, train

MODEL = networks.Small(width=4)
MLP = models.get_model('mlp', 10)
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
PLAIN = batches.prepare_fn((0.5,), (0.25,))
SHIFTED = batches.prepare_fn((0.5,), (0.25,), augment='pad_crop_flip')
BATCH = 8


class _Foreign(nn.Module):
  """A module of a user, which a CPU does not run in a loop."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(10)(nn.Conv(4, (3, 3))(images).mean((1, 2)))


def _student():
  teacher = oracle.as_oracle(MLP)
  return attacks.kd.make(
    MLP, OPTIMIZER, attacks.kd.Settings(), {'teacher': teacher}
  )


METHODS = {
  'teacher': defenses.none.make(MODEL, OPTIMIZER),
  'foreign': defenses.none.make(_Foreign(), OPTIMIZER),
  'kd': _student(),
}


def _arrays(number=43):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (number, 8, 8, 1), np.uint8)
  return {'image': image, 'label': rng.integers(0, 10, number, np.int32)}


@functools.cache
def _frozen():
  image = np.zeros((1, 8, 8, 1), np.float32)
  return {'teacher': jax.jit(MLP.init)(jax.random.key(8), image)}


def _fit(method, arrays, *, resident, prepare=SHIFTED, **kwargs):
  """The state of a short training, and what it said on its way."""
  metrics = []
  state = train.fit(
    method,
    arrays,
    prepare,
    epochs=2,
    batch_size=BATCH,
    seed=3,
    frozen=jax.device_get(_frozen()) if method.answer_fns else {},
    resident=resident,
    **{'on_step': lambda *one: metrics.append(one)} | kwargs,
  )
  return jax.device_get(state), metrics


@pytest.fixture
def taken(monkeypatch):
  """How many examples each part has, of at most three steps."""
  numbers, split = [], parallel.split

  def spy(arrays):
    numbers.append(arrays['label'].size)
    return split(arrays)

  monkeypatch.setattr(parallel, 'split', spy)
  of_an_example = 8 * 8 + 4 + 10 * 4  # Image, label, an answer.
  monkeypatch.setattr(streaming, '_PART_BYTES', 3 * BATCH * of_an_example)
  return numbers


@pytest.fixture
def all_devices_again():
  yield
  parallel.use(None)


@pytest.mark.usefixtures('all_devices_again')
@pytest.mark.parametrize(
  ('name', 'num_devices', 'ask_with', 'parts'),
  [
    ('teacher', 2, None, 4),
    ('teacher', 1, None, 4),
    ('foreign', 2, None, 4),
    ('kd', 2, None, 8),  # It asks about all that it sees.
    ('kd', 2, PLAIN, 6),  # And once.
  ],
)
def test_every_number_is_that_of_a_set_on_the_devices(
  name, num_devices, ask_with, parts, taken
):
  """Three examples are left over in an epoch, whose last part is shorter."""
  parallel.use(num_devices)
  arrays, method = _arrays(), METHODS[name]
  expected, told = _fit(method, arrays, resident=True, ask_with=ask_with)
  assert not taken
  found, of_parts = _fit(method, arrays, resident=False, ask_with=ask_with)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert len(taken) == parts
  assert max(taken) == 3 * BATCH
  # Of single steps each is told; of loops the last, of which each comes last.
  assert sum(number for number, *_ in of_parts) == 10
  assert of_parts[-1][1:] == told[-1][1:]
  assert of_parts == told or name != 'foreign'


def test_a_file_that_is_mapped_is_not_read_as_a_whole(tmp_path, taken):
  arrays = _arrays()
  path = tmp_path / 'images.npy'
  np.save(path, arrays['image'])
  mapped = {**arrays, 'image': np.load(path, mmap_mode='r')}
  found, expected = (
    _fit(METHODS['teacher'], one, resident=None)[0] for one in (mapped, arrays)
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert len(taken) == 4  # Of the mapped one; the other lay on the devices.
  assert max(taken) == 3 * BATCH


def test_numbers_without_images_stay_what_they_are(taken):
  """From them an attack without data makes its images."""

  def prepare(arrays, indices, rng):
    blank = batches.blank_fn((8, 8, 1))(arrays, indices, rng)
    image = blank['image'] + blank['index'][:, None, None, None] / 43
    return {**blank, 'image': image, 'label': blank['index'] % 10}

  method = defenses.none.make(MLP, OPTIMIZER)
  numbers = {'label': np.zeros(43, np.int32)}
  found, expected = (
    _fit(method, numbers, resident=resident, prepare=prepare)
    for resident in (False, True)
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert not taken


@pytest.mark.parametrize(
  ('limits', 'is_needed'),
  [
    ([], False),  # A CPU.
    ([6_000], False),
    ([5_000], True),
    ([6_000, 5_000], True),  # It lies on each.
  ],
)
def test_what_fits_into_half_of_the_free_memory_is_not_streamed(
  limits, is_needed, monkeypatch
):
  arrays = _arrays(40)  # 2,720 bytes.
  stats = [{'bytes_limit': x + 100, 'bytes_in_use': 100} for x in limits]
  devices = [
    types.SimpleNamespace(memory_stats=lambda one=one: one)
    for one in stats or [None]
  ]
  monkeypatch.setattr(parallel, 'local_devices', lambda: devices)
  assert streaming.is_needed(arrays) == is_needed
  assert not streaming.is_needed({'label': arrays['label']})


def test_no_more_than_one_part_is_sent_ahead():
  made = []

  def make(item):
    made.append(item)
    if item == 5:
      raise OSError('the disk is gone')
    return item

  parts = streaming._ahead(make, range(10))
  with pytest.raises(OSError, match='the disk is gone'):
    for part in parts:
      assert max(made) <= part + 1
  assert part == 4
  assert made == list(range(6)) or made == list(range(7))


def test_an_answer_of_any_shape_lies_where_its_example_does(taken):
  arrays = _arrays()
  order = parallel.epoch_order(jax.random.key(0), 43, BATCH)

  def answer(scale, images):
    return scale * images.reshape(len(images), 4, -1)

  scales = {'teacher': np.float32(2.0)}
  lesson = parallel.Lesson(scales, arrays, order, jax.random.key(1), 7)
  expected, found = (
    parallel.answers({'teacher': answer}, SHIFTED, lesson, parts)['teacher']
    for parts in (None, streaming.parts(lesson))
  )
  np.testing.assert_array_equal(found, expected)
  assert found.shape == (43, 4, 16)
  assert len(taken) == 2


def test_who_stops_in_an_epoch_leaves_no_thread_behind(taken):
  def stop(*metrics):
    raise KeyboardInterrupt

  before = threading.active_count()
  with pytest.raises(KeyboardInterrupt):
    _fit(METHODS['teacher'], _arrays(), resident=False, on_step=stop)
  assert threading.active_count() <= before
  assert len(taken) <= 2
