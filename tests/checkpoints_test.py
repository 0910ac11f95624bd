"""Checkpoints: what is written comes back, and damage is named."""

import functools
import logging
import random
import shutil

import chex
import damage
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from undistillable import errors, models
from undistillable.storage import disk
from undistillable.training import checkpoints

STATE = {'a': np.ones((2, 3), np.float32), 'b': np.zeros(4, np.float32)}


@functools.cache
def _variables(name='cnn4'):
  """Of a network with statistics of its own, on the devices."""
  model = models.get_model(name, 10)
  init = jax.jit(functools.partial(model.init, train=False))
  found = init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  return {'batch_stats': {}, **jax.tree.map(lambda x: x + 0.5, found)}


def _save(folder, state, epoch=1):
  with checkpoints.Checkpoints(folder) as written:
    written.save(epoch, state)


def _restore(folder, template):
  with checkpoints.Checkpoints(folder) as written:
    return written.restore(template)


# Of a training.


def test_every_dtype_comes_back(tmp_path):
  state = {
    'step': jnp.asarray(7, jnp.int32),
    'weights': [jnp.arange(6.0).reshape(2, 3), jnp.ones((), jnp.float32)],
    'half': jnp.asarray([0.1, 3.0], jnp.bfloat16),
    'empty': jnp.zeros((0, 3)),
    'none': None,
    'mask': jnp.asarray([True, False]),
  }
  _save(tmp_path, state, epoch=3)
  epoch, again = _restore(tmp_path, jax.eval_shape(lambda: state))
  assert epoch == 3
  chex.assert_trees_all_equal(again, state)
  chex.assert_trees_all_equal_shapes_and_dtypes(again, state)


def test_the_latest_state_is_kept_and_the_one_before(tmp_path):
  for epoch in (8, 9, 10):
    _save(tmp_path, {'a': np.full(3, epoch)}, epoch)
  epoch, state = _restore(tmp_path, {'a': np.zeros(3, int)})
  assert epoch == 10
  np.testing.assert_array_equal(state['a'], 10)
  assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {'9', '10'}


def test_metrics_are_kept_with_the_state(tmp_path):
  lines = [{'epoch': 1, 'loss': 0.1 + 0.2, 'val_accuracy': None}]
  with checkpoints.Checkpoints(tmp_path) as written:
    assert written.metrics() is None
    written.save(1, STATE, lines)
    assert written.metrics() == lines


def test_where_nothing_was_written_there_is_no_state(tmp_path):
  assert _restore(tmp_path, STATE) == (0, None)


@pytest.mark.parametrize(
  'other',
  [
    {'a': np.zeros(4, np.float32), 'b': np.zeros((2, 3), np.float32)},
    {'a': np.zeros((3, 2), np.float32), 'b': np.zeros(4, np.float32)},
    {'a': np.zeros((2, 3), np.float32), 'c': np.zeros(4, np.float32)},
    {'a': np.zeros((2, 3), np.int32), 'b': np.zeros(4, np.float32)},
    {'a': np.zeros((2, 3), np.float32)},
  ],
)
def test_as_many_numbers_elsewhere_are_refused(tmp_path, other):
  _save(tmp_path, other)
  with pytest.raises(errors.InputError, match='another architecture.*delete'):
    _restore(tmp_path, STATE)


@pytest.fixture(scope='module')
def two_states(tmp_path_factory):
  """Checkpoints after two epochs."""
  folder = tmp_path_factory.mktemp('two')
  for epoch in (1, 2):
    _save(folder, {**STATE, 'epoch': np.full(1, epoch)}, epoch)
  return folder


@pytest.mark.parametrize('change', list(damage.CHANGES))
def test_instead_of_a_damaged_state_the_one_before_is_used(
  two_states, tmp_path, change, caplog
):
  names = [
    path.relative_to(two_states)
    for path in sorted((two_states / '2').rglob('*'))
    if path.is_file()
  ]
  assert len(names) > 5
  template = {**STATE, 'epoch': np.zeros(1, int)}
  for index, name in enumerate(names):
    folder = tmp_path / str(index)
    shutil.copytree(two_states, folder)
    damage.CHANGES[change](folder / name, random.Random(index))
    caplog.clear()
    epoch, state = _restore(folder, template)
    assert (epoch, int(state['epoch'][0])) == (1, 1), name
    (said,) = caplog.messages
    assert 'damaged: the state before it is used' in said
    assert not (folder / '2').exists()


@pytest.mark.parametrize('left', [0, 1, None])
def test_a_state_whose_writing_or_copying_was_cut_off_is_passed_over(
  two_states, tmp_path, left, caplog
):
  """What is written down last, its sums, is not there."""
  shutil.copytree(two_states, tmp_path, dirs_exist_ok=True)
  (tmp_path / '2' / disk.SUMS).unlink()
  files = sorted(p for p in (tmp_path / '2').rglob('*') if p.is_file())
  for path in [] if left is None else files[left:]:
    path.unlink()
  template = {**STATE, 'epoch': np.zeros(1, int)}
  epoch, state = _restore(tmp_path, template)
  assert (epoch, int(state['epoch'][0])) == (1, 1)
  assert f'{disk.SUMS} is damaged: the state before it' in caplog.text


def test_where_all_states_are_damaged_there_is_none(
  two_states, tmp_path, caplog
):
  shutil.copytree(two_states, tmp_path, dirs_exist_ok=True)
  for epoch in ('1', '2'):
    damage.cut(tmp_path / epoch / '_CHECKPOINT_METADATA')
  assert _restore(tmp_path, STATE) == (0, None)
  assert len(caplog.messages) == 2


def test_a_damaged_checkpoint_without_checksums_is_named(tmp_path):
  """As earlier versions wrote them."""
  folder = tmp_path / 'checkpoints'
  _save(folder, STATE)
  (folder / '1' / disk.SUMS).unlink()
  # Not the arrays: Orbax's threads then complain after the test has ended.
  (metadata,) = folder.rglob('_METADATA')
  metadata.write_bytes(metadata.read_bytes()[:100])
  with pytest.raises(errors.InputError, match='it is damaged') as error:
    _restore(folder, STATE)
  assert f'delete the folder {tmp_path} to train' in str(error.value)


# Of a finished network.


@pytest.mark.parametrize('name', ['cnn4', 'mlp'])
def test_the_variables_come_back_on_every_device(tmp_path, name):
  checkpoints.save_variables(tmp_path, _variables(name))
  again = checkpoints.load_variables(tmp_path)
  assert list(again) == ['batch_stats', 'params']
  chex.assert_trees_all_equal(again, _variables(name))
  chex.assert_trees_all_equal_dtypes(again, _variables(name))
  for leaf in jax.tree.leaves(again):
    assert leaf.sharding.device_set == set(jax.devices())


@pytest.mark.parametrize(
  'reader', ['StandardCheckpointer', 'PyTreeCheckpointer']
)
def test_others_read_them_with_orbax_alone(tmp_path, reader):
  checkpoints.save_variables(tmp_path, _variables())
  with getattr(ocp, reader)() as checkpointer:
    found = checkpointer.restore(tmp_path / 'variables')
  assert jax.tree.structure(found) == jax.tree.structure(_variables())
  chex.assert_trees_all_equal(found, _variables())
  # And they are what flax takes.
  model, images = models.get_model('cnn4', 10), jnp.zeros((1, 8, 8, 1))
  apply = jax.jit(functools.partial(model.apply, train=False))
  np.testing.assert_array_equal(
    apply(found, images), apply(_variables(), images)
  )


def test_variables_replace_those_of_before(tmp_path):
  for value in (1.0, 2.0):
    checkpoints.save_variables(tmp_path, {'params': {'a': np.full(2, value)}})
  found = checkpoints.load_variables(tmp_path)
  np.testing.assert_array_equal(found['params']['a'], 2.0)


def test_other_collections_are_kept(tmp_path):
  """As of an attack whose result are images."""
  images = {'image': np.ones((2, 8, 8, 3), np.float32), 'label': np.arange(2)}
  checkpoints.save_variables(tmp_path, {'images': images})
  found = checkpoints.load_variables(tmp_path)
  chex.assert_trees_all_equal(found, {'images': images})


def test_missing_variables_are_named(tmp_path):
  with pytest.raises(errors.InputError, match='there is no') as error:
    checkpoints.load_variables(tmp_path / 'run')
  assert f'delete {tmp_path / "run"} to train that network' in str(error.value)
  assert not list(tmp_path.iterdir())  # Nor is a folder made for them.


@pytest.mark.parametrize('keep', [None, 20])
def test_damaged_variables_are_named(tmp_path, keep):
  checkpoints.save_variables(tmp_path, _variables())
  metadata = tmp_path / 'variables' / '_METADATA'
  if keep:
    metadata.write_bytes(metadata.read_bytes()[:keep])
  else:
    metadata.unlink()
  with pytest.raises(errors.InputError, match='it is damaged') as error:
    checkpoints.load_variables(tmp_path)
  assert f'delete {tmp_path} to train that network' in str(error.value)


def test_orbax_tells_nobody_what_cannot_be_mended(tmp_path, caplog):
  checkpoints.save_variables(tmp_path, _variables())
  checkpoints.load_variables(tmp_path)
  _save(tmp_path / 'checkpoints', STATE)
  _restore(tmp_path / 'checkpoints', STATE)
  warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
  assert not warnings
