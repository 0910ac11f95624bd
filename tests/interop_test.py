"""State dicts and files: there and back, and what goes wrong on the way."""

import argparse
import collections
import json
import os
import pickle
import sys
import types
import zipfile

import fixtures_rule
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from undistillable import interop, models


def _variables(name, image_shape=(32, 32, 3), num_classes=7):
  """Variables of the right shapes with distinct values, without computing."""
  model = models.get_model(name, num_classes)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.random(x.shape, dtype=np.float32), shapes)


def _assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize(
  'name',
  [  # Of each family one.
    'airbench94',
    'cnn',
    'densenet121',
    'mlp',
    'mobilenetv2',
    'resnet18',
    'resnet50',
    'resnetc20',
    'resnetc44',
    'resnext29',
    'shufflenetv2',
  ],
)
def test_round_trip_is_bit_equal(name):
  variables = _variables(name)
  state_dict = interop.to_torch(name, variables)
  _assert_equal(interop.from_torch(name, state_dict), variables)
  for array in state_dict.values():
    assert array.flags.c_contiguous


@pytest.mark.parametrize(
  ('name', 'image_shape'),
  [
    ('cnn', (8, 8, 1)),
    ('cnn16', (28, 28, 1)),
    ('cnn8', (64, 64, 3)),
    ('cnn8', (9, 17, 1)),  # 1 x 2 positions behind the last pooling.
    ('cnn8', (16, 40, 3)),
    ('cnn8', (24, 40, 3)),
    ('mlp', (8, 8, 1)),
    ('mlp', (28, 31, 1)),
    ('resnetc8', (8, 8, 1)),
  ],
)
def test_image_size_and_channels_are_read_off_the_tensors(name, image_shape):
  variables = _variables(name, image_shape)
  state_dict = interop.to_torch(name, variables)
  _assert_equal(interop.from_torch(name, state_dict), variables)


def test_fields_of_the_module_can_be_given():
  model = models.get_model('cnn', 5, width=4)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  state_dict = interop.to_torch('cnn', variables, width=4)
  _assert_equal(interop.from_torch('cnn', state_dict, width=4), variables)


def test_tensors_are_those_of_the_fixtures_in_their_order(shared):
  paths = sorted((shared / 'fixtures').glob('*_[0-9]*_[0-9]*.json'))
  for path in paths:
    fixture = json.loads(path.read_text())
    size = fixture['image_size']
    variables = _variables(
      fixture['network'], (size, size, 3), fixture['num_classes']
    )
    state_dict = interop.to_torch(fixture['network'], variables)
    assert list(state_dict) == fixture['names']
    shapes = [list(array.shape) for array in state_dict.values()]
    assert shapes == fixture['shapes']


def test_modules_in_modules_have_no_names(monkeypatch):
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Conv(4, (3, 3), name='conv')(x)

  class Net(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train=False):
      return nn.Dense(self.num_classes)(Block(name='block')(x).mean((1, 2)))

  monkeypatch.setitem(models.MODELS, 'nested', Net)
  variables = Net().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  state_dict = {'block.conv.weight': np.zeros((4, 3, 3, 3))}
  for call, given in (
    (interop.to_torch, variables),
    (interop.from_torch, state_dict),
  ):
    with pytest.raises(ValueError, match='as block/conv, whose PyTorch names'):
      call('nested', given)


def test_layout_is_transposed_and_not_reshaped():
  state_dict = interop.to_torch('cnn8', _variables('cnn8', (8, 8, 3)))
  variables = interop.from_torch('cnn8', state_dict)
  params, stats = variables['params'], variables['batch_stats']
  assert (
    state_dict['conv2.weight'][5, 3, 0, 2]
    == params['conv2']['kernel'][0, 2, 3, 5]
  )
  assert state_dict['fc2.weight'][1, 4] == params['fc2']['kernel'][4, 1]
  assert state_dict['bn1.weight'][3] == params['bn1']['scale'][3]
  assert state_dict['bn1.running_var'][3] == stats['bn1']['var'][3]


def test_prefix_and_counters_are_dropped_and_types_cast():
  plain = interop.to_torch('cnn8', _variables('cnn8'))
  wrapped = {
    f'module.{key}': jnp.asarray(x, jnp.bfloat16) for key, x in plain.items()
  }
  wrapped['module.bn1.num_batches_tracked'] = np.int64(3)
  variables = interop.from_torch('cnn8', wrapped)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype('float32')}
  np.testing.assert_allclose(
    variables['params']['fc2']['bias'], plain['fc2.bias'], rtol=1e-2
  )


def test_pytorch_tensors_need_no_pytorch_here():
  class Tensor:
    """Like a parameter on a GPU: no array before three calls."""

    def __init__(self, array, left=('detach', 'cpu', 'float')):
      self._array, self._left = array, left

    def __getattr__(self, name):
      if self._left[:1] != (name,):
        raise AttributeError(name)
      rest = self._left[1:]
      return lambda: Tensor(self._array, rest) if rest else self._array

  plain = interop.to_torch('cnn8', _variables('cnn8'))
  tensors = {key: Tensor(x) for key, x in plain.items()}
  _assert_equal(
    interop.from_torch('cnn8', tensors), interop.from_torch('cnn8', plain)
  )


def test_all_problems_are_in_one_error():
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  del state_dict['bn2.running_mean']
  state_dict['extra.weight'] = np.zeros(3)
  state_dict['conv3.weight'] = np.zeros((32, 16, 5, 5))
  with pytest.raises(ValueError) as error:
    interop.from_torch('cnn8', state_dict)
  message = str(error.value)
  assert "not those of 'cnn8' (26 tensors)" in message
  assert '1 missing: bn2.running_mean' in message
  assert '1 unexpected: extra.weight' in message
  assert (
    '1 of another shape: conv3.weight '
    '(expected (32, 16, 3, 3), found (32, 16, 5, 5))' in message
  )


def test_another_network_s_tensors_are_counted():
  state_dict = interop.to_torch('resnetc8', _variables('resnetc8'))
  with pytest.raises(ValueError, match=r'missing: .*, and \d+ more; \d+ unex'):
    interop.from_torch('resnet18', state_dict)
  with pytest.raises(ValueError, match='102 missing'):
    interop.from_torch('resnet18', {})


def test_variables_without_statistics_are_refused():
  params = {'params': _variables('cnn8')['params']}
  with pytest.raises(ValueError, match='8 missing: bn1.running_mean'):
    interop.to_torch('cnn8', params)


def test_unknown_network_is_refused():
  with pytest.raises(ValueError, match="unknown model 'vgg'"):
    interop.from_torch('vgg', {})


def test_safetensors_round_trip_keeps_transposed_arrays(tmp_path):
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  # A view whose buffer lies the other way round.
  state_dict['fc2.weight'] = np.asfortranarray(state_dict['fc2.weight'])
  path = tmp_path / 'cnn.safetensors'
  interop.save(path, state_dict)
  _assert_equal(interop.load(path), state_dict)


def test_files_that_cannot_be_read_say_why(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match='no checkpoint file'):
    interop.load(tmp_path / 'absent.safetensors')
  (tmp_path / 'weights.npz').touch()
  with pytest.raises(ValueError, match=r"unknown suffix '.npz'; known: .bin"):
    interop.load(tmp_path / 'weights.npz')
  with pytest.raises(ValueError, match='must be .safetensors or .pt'):
    interop.save(tmp_path / 'weights.pth', {})
  (tmp_path / 'weights.pt').touch()
  monkeypatch.setitem(sys.modules, 'torch', None)  # As if not installed.
  with pytest.raises(ImportError, match='pip install torch'):
    interop.load(tmp_path / 'weights.pt')


@pytest.mark.parametrize('content', [b'', b'\x08\0\0\0\0\0\0\0{}      '])
@pytest.mark.parametrize('name', ['cut.safetensors', 'CUT.SAFETENSORS'])
def test_a_damaged_file_is_named(name, content, tmp_path):
  whole = tmp_path / 'whole.safetensors'
  interop.save(whole, interop.to_torch('cnn8', _variables('cnn8')))
  path = tmp_path / name
  path.write_bytes(content or whole.read_bytes()[:-100])
  if content:  # A file without tensors is whole, but of no network.
    assert interop.load(path) == {}
  else:
    with pytest.raises(ValueError, match=f'{name} is truncated, damaged'):
      interop.load(path)


def test_a_checkpoint_is_unwrapped_and_its_other_parts_named():
  plain = interop.to_torch('cnn8', _variables('cnn8'))
  expected = interop.from_torch('cnn8', plain)
  for checkpoint in ({'state_dict': plain}, {'model': plain, 'epoch': 3}):
    _assert_equal(interop.from_torch('cnn8', checkpoint), expected)
  for extra, message in (
    ({'arch': 'cnn'}, 'arch is no tensor but a str'),
    ({'module.fc2.bias': np.zeros(10)}, 'fc2.bias is there twice'),
    ({'conv1.weight': np.zeros((8, 3, 3, 3), complex)}, 'conv1.weight is comp'),
  ):
    with pytest.raises(ValueError, match=message):
      interop.from_torch('cnn8', plain | extra)


@pytest.mark.parametrize('shape', [(8, 3), (8, 0, 3, 3), (), (8, 3, 3)])
def test_a_misshapen_first_kernel_is_named(shape):
  plain = interop.to_torch('cnn8', _variables('cnn8'))
  first = next(iter(plain))
  with pytest.raises(ValueError, match=f'{first} .expected .* found'):
    interop.from_torch('cnn8', plain | {first: np.zeros(shape)})


def test_a_pytorch_file_is_written_without_pytorch(tmp_path, monkeypatch):
  path = tmp_path / 'weights.pt'
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  state_dict['fc1.weight'] = np.asfortranarray(state_dict['fc1.weight'])
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, 'torch', None)  # As if not installed.
    interop.save(path, state_dict)
    loaded = interop.load(path)
  assert list(loaded) == list(state_dict)
  _assert_equal(loaded, state_dict)
  _assert_equal(_as_pytorch_reads(path, monkeypatch), state_dict)


def _as_pytorch_reads(path, monkeypatch):
  """Arrays of a file, by Python's own unpickler and what it imports."""

  def rebuild(storage, offset, shape, strides, requires_grad, hooks):
    assert (offset, requires_grad, hooks) == (0, False, {})
    array = np.frombuffer(storage, '<f4').reshape(shape)
    assert [4 * step for step in strides] == list(array.strides)
    return array

  utils = types.ModuleType('torch._utils')
  utils._rebuild_tensor_v2 = rebuild
  torch = types.ModuleType('torch')
  torch.FloatStorage = 'float32'
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)

  class Unpickler(pickle.Unpickler):
    def persistent_load(self, pid):
      word, kind, key, place, number = pid
      assert (word, kind, place) == ('storage', 'float32', 'cpu')
      numbers = archive.read(f'{root}/data/{key}')
      assert len(numbers) == 4 * number
      return numbers

  with zipfile.ZipFile(path) as archive:
    # One folder, and nothing compressed: what torch insists on.
    (root,) = {name.split('/')[0] for name in archive.namelist()}
    assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.read(f'{root}/byteorder') == b'little'
    with archive.open(f'{root}/data.pkl') as file:
      return Unpickler(file).load()


def test_pytorch_reads_what_was_written_without_it(tmp_path):
  torch = pytest.importorskip('torch')
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  interop.save(tmp_path / 'weights.pt', state_dict)
  loaded = torch.load(tmp_path / 'weights.pt', weights_only=True)
  _assert_equal({k: x.numpy() for k, x in loaded.items()}, state_dict)


def test_pytorch_files_are_unwrapped(tmp_path):
  torch = pytest.importorskip('torch')
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  tensors = collections.OrderedDict(
    (key, torch.from_numpy(x)) for key, x in state_dict.items()
  )
  for name, content in (
    ('plain.pt', tensors),
    ('last.pth.tar', {'epoch': 3, 'state_dict': tensors}),
  ):
    torch.save(content, tmp_path / name)
    _assert_equal(interop.load(tmp_path / name), state_dict)
  torch.save({'epoch': 3}, tmp_path / 'no.pt')
  with pytest.raises(ValueError, match='holds no state dict'):
    interop.load(tmp_path / 'no.pt')


class _Storage:
  """The numbers of a tensor, apart from it."""

  def __init__(self, numbers):
    self.numbers = numbers


@pytest.fixture
def save_torch(tmp_path, monkeypatch):
  """`(name, content) -> path`, a file as torch.save writes it, without torch.

  A zip archive of a pickle, which names functions and types of torch, and of
  the numbers of each tensor.
  """
  named = {
    'torch': ('FloatStorage', 'HalfStorage', 'LongStorage'),
    'torch._utils': ('_rebuild_parameter', '_rebuild_tensor_v2'),
  }
  for module, names in named.items():
    fake = types.ModuleType(module)
    for name in names:
      setattr(fake, name, type(name, (), {'__module__': module}))
    monkeypatch.setitem(sys.modules, module, fake)
  kinds = {'float32': 'Float', 'float16': 'Half', 'int64': 'Long'}
  torch, utils = (sys.modules[name] for name in named)

  def save(name, content):
    storages = []

    class Pickler(pickle.Pickler):
      def persistent_id(self, value):
        if not isinstance(value, _Storage):
          return None
        storages.append(value.numbers)
        kind = getattr(torch, f'{kinds[value.numbers.dtype.name]}Storage')
        key = str(len(storages) - 1)
        return 'storage', kind, key, 'cpu', len(value.numbers)

      def reducer_override(self, value):
        if not isinstance(value, np.ndarray):
          return NotImplemented
        # As it lies: a transposed array has the strides of a view.
        numbers = _Storage(np.append(7, value.ravel('K')).astype(value.dtype))
        strides = tuple(stride // value.itemsize for stride in value.strides)
        args = numbers, 1, value.shape, strides, False, None
        return utils._rebuild_tensor_v2, args

    path = tmp_path / name
    with zipfile.ZipFile(path, 'w') as archive:
      with archive.open('archive/data.pkl', 'w') as file:
        Pickler(file, protocol=2).dump(content)
      archive.writestr('archive/byteorder', 'little')
      for key, numbers in enumerate(storages):
        archive.writestr(f'archive/data/{key}', numbers.tobytes())
    return path

  return save


def _prefixed(prefix, state_dict):
  return {prefix + key: value for key, value in state_dict.items()}


@pytest.mark.parametrize(
  ('name', 'wrap'),
  [
    ('plain.pt', lambda tensors: tensors),
    ('last.pth.tar', lambda t: {'epoch': 3, 'state_dict': t}),
    ('acc.pth', lambda t: {'net': t, 'acc': np.float64(93.1), 'epoch': 3}),
    ('best.pt', lambda t: {'model_state_dict': t, 'loss': np.float32(0.1)}),
    (
      'args.pt',
      lambda t: {'model': t, 'args': argparse.Namespace(lr=0.1, out=['x'])},
    ),
    ('fast.pt', lambda t: _prefixed('_orig_mod.', t)),
    ('both.pt', lambda t: _prefixed('module._orig_mod.', t)),
    ('swapped.pt', lambda t: _prefixed('_orig_mod.module.', t)),
    (
      'part.pt',
      lambda t: {
        k.replace('conv2.', 'conv2._orig_mod.'): v for k, v in t.items()
      },
    ),
    (
      'lightning.ckpt',
      lambda t: {
        'state_dict': _prefixed('model.', t)
        | {'loss.weight': np.ones(3, '<f4')},
        'hyper_parameters': argparse.Namespace(),
      },
    ),
    ('deep.pt', lambda t: {'model': {'state_dict': _prefixed('a.net.', t)}}),
    ('backbone.pt', lambda t: _prefixed('backbone.', t)),
  ],
)
def test_common_forms_of_checkpoints_are_read(name, wrap, save_torch):
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  state_dict['conv1.weight'] = np.asfortranarray(state_dict['conv1.weight'])
  counted = state_dict | {'bn1.num_batches_tracked': np.array([3])}
  loaded = interop.load(save_torch(name, wrap(counted)))
  _assert_equal(
    interop.from_torch('cnn8', loaded), interop.from_torch('cnn8', state_dict)
  )


def test_two_networks_in_one_file_are_not_mistaken_for_one():
  state_dict = interop.to_torch('cnn8', _variables('cnn8'))
  two = _prefixed('teacher.', state_dict) | _prefixed('student.', state_dict)
  with pytest.raises(ValueError, match='26 missing: .*; 52 unexpected'):
    interop.from_torch('cnn8', two)


class _Evil:
  """What would run a command where a pickle is trusted."""

  def __init__(self, command):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


def test_code_in_a_file_is_not_run(save_torch, tmp_path):
  command = f'touch {tmp_path}/was_run'
  weights = {'fc.bias': np.ones(3, np.float32)}
  path = save_torch('evil.pt', {'state_dict': weights, 'x': _Evil(command)})
  assert list(interop.load(path)) == ['fc.bias']
  path = save_torch('evil.pt', _Evil(command))
  with pytest.raises(ValueError, match='holds a whole module'):
    interop.load(path)
  assert not (tmp_path / 'was_run').exists()


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (argparse.Namespace(lr=0.1), 'holds a whole module, whose code is not run'),
    ({'epoch': 3}, 'holds no state dict'),
    ([np.ones(3, np.float32)], 'holds no state dict'),
    (
      {'x': np.ones(3, '<f4'), 'arch': 'cnn'},
      'arch beside the tensors is none',
    ),
  ],
)
def test_a_pytorch_file_of_something_else_says_so(content, message, save_torch):
  with pytest.raises(ValueError, match=message) as error:
    interop.load(save_torch('x.pt', content))
  assert len(str(error.value).splitlines()) == 1


def test_a_damaged_pytorch_file_says_so(save_torch, monkeypatch):
  whole = save_torch('x.pt', {'x': np.ones(3, np.float32)})
  content = whole.read_bytes()
  whole.write_bytes(content[:-50])
  with pytest.raises(ValueError, match='x.pt is truncated, damaged'):
    interop.load(whole)
  whole.write_bytes(b'no file of torch.save')
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ImportError, match='of PyTorch before 1.6, or none of it'):
    interop.load(whole)


def test_a_tensor_lies_within_its_storage(save_torch):
  class Larger(np.ndarray):
    strides = (400,)

  tensor = np.ones(3, np.float32).view(Larger)
  with pytest.raises(ValueError, match='lies outside its storage'):
    interop.load(save_torch('x.pt', {'x': tensor}))


def test_a_loaded_network_computes_as_before():
  model = models.get_model('cnn8', 7)
  images = fixtures_rule.images(2, 8)
  variables = jax.jit(model.init)(jax.random.key(0), images)
  loaded = interop.from_torch('cnn8', interop.to_torch('cnn8', variables))
  apply = jax.jit(model.apply)
  np.testing.assert_array_equal(apply(loaded, images), apply(variables, images))
