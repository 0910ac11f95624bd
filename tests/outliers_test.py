"""Outliers: images unlike the owner's, of which a network is made unsure."""

import functools

import config_files
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import scipy.special

from undistillable import data, errors, method as method_lib
from undistillable.defenses import adaptive_misinformation
from undistillable.graph import execute, plan, store as store_lib
from undistillable.training import evaluate, parallel, train

NAME = 'adaptive_misinformation'


class _Net(nn.Module):
  """A layer, BatchNorm over images and devices, and a last layer."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(8)(images.reshape(len(images), -1))
    x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)
    return nn.Dense(4)(nn.relu(x))


def _batch():
  rng = np.random.default_rng(0)
  image, outlier = rng.normal(size=(2, 12, 2, 2, 1))
  return {
    'image': np.float32(image),
    'label': np.arange(12) % 4,
    'outlier': np.float32(3 * outlier),
  }


@functools.cache
def _started():
  """The method, its state before the first step, and the step."""
  method = adaptive_misinformation.make(
    _Net(), optax.sgd(0.1), adaptive_misinformation.Settings(), {}
  )
  init = jax.jit(method.init)
  return method, init(jax.random.key(0), _batch(), {}), jax.jit(method.step)


_apply = jax.jit(
  functools.partial(_Net().apply, train=True, mutable=['batch_stats'])
)


def _logits(variables, images):
  """As in a training, of all images together: float64, and of each half."""
  logits, _ = _apply(variables, images)
  return np.split(scipy.special.log_softmax(np.float64(logits), axis=-1), 2)


def test_a_step_trains_both_networks_by_their_equations():
  _, state, step = _started()
  batch = _batch()
  after, metrics = step(state, {}, batch, jax.random.key(1))
  images = np.concatenate([batch['image'], batch['outlier']])
  rows, labels = np.arange(12), np.asarray(batch['label'])
  log_p, of_outliers = _logits(state.network.variables, images)
  kl = -np.log(4) - of_outliers.mean(-1)
  np.testing.assert_allclose(metrics['outlier_kl'], kl.mean(), rtol=1e-4)
  loss = -log_p[rows, labels] + kl  # Lambda is 1.
  np.testing.assert_allclose(metrics['loss'], loss.mean(), rtol=1e-4)
  # The second learns to say anything but what is true, or what the first says.
  ask = jax.jit(method_lib.frozen_fn(_Net()))
  said = np.asarray(ask(state.network.variables, batch['outlier'])).argmax(-1)
  assert len(set(said)) > 1
  wrong = [
    -np.log1p(-np.exp(log_q[rows, of]))
    for log_q, of in zip(
      _logits(state.other.variables, images), (labels, said), strict=True
    )
  ]
  np.testing.assert_allclose(
    metrics['misinformation_loss'], np.mean(wrong), rtol=1e-4
  )
  for name in ('network', 'other'):
    changed = jax.tree.map(
      lambda x, y: np.not_equal(x, y).any(),
      getattr(state, name),
      getattr(after, name),
    )
    assert any(jax.tree.leaves(changed.params))
  assert after.step == 1
  served = after.variables
  assert served['params'] is after.network.params
  assert served['misinformation']['params'] is after.other.params


def test_two_devices_learn_from_outliers_as_one_does():
  method, state, step = _started()
  one, metrics = step(state, {}, _batch(), jax.random.key(1))
  halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), _batch())
  two, both = jax.pmap(
    functools.partial(method.step, axis_name=parallel.AXIS),
    axis_name=parallel.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
  )(state, {}, halves, jax.random.key(1))
  for name, value in metrics.items():
    np.testing.assert_allclose(value, both[name], rtol=1e-4)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
    one.variables,
    two.variables,
  )


def test_a_training_with_outliers_is_resumed_and_streamed_bit_for_bit(tmp_path):
  rng = np.random.default_rng(0)
  image, outlier = rng.integers(0, 256, (2, 24, 2, 2, 1), np.uint8)
  arrays = {'image': image, 'label': np.arange(24) % 4, 'outlier': outlier}
  fit = functools.partial(
    train.fit,
    _started()[0],
    arrays,
    data.prepare_fn((0.5,), (0.25,), augment='pad_crop_flip'),
    batch_size=12,
    frozen={'normal': {}},
  )
  fit(epochs=1, folder=tmp_path)
  resumed = fit(epochs=2, folder=tmp_path, resident=False)
  whole = fit(epochs=2)
  assert int(whole.step) == 4
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_outliers_are_prepared_like_images_and_change_none():
  rng = np.random.default_rng(0)
  image, outlier = rng.integers(0, 256, (2, 6, 8, 8, 1), np.uint8)
  arrays = {'image': image, 'label': np.arange(6)}
  both = {**arrays, 'outlier': outlier}
  prepare = data.prepare_fn((0.5,), (0.25,), augment='pad_crop_flip')
  order, key = np.array([4, 1]), jax.random.key(0)
  plain, found = (jax.jit(prepare)(x, order, key) for x in (arrays, both))
  assert set(found) == {*plain, 'outlier'}
  for name in plain:
    np.testing.assert_array_equal(found[name], plain[name])
  prepare = jax.jit(data.prepare_fn((0.5,), (0.25,)))
  unaugmented = np.asarray(prepare(both, order, key)['outlier'])
  np.testing.assert_allclose(unaugmented, outlier[order] / 63.75 - 2, atol=1e-6)
  assert np.not_equal(found['outlier'], unaugmented).any()


def _config(**changes):
  """The config of digits, shrunk to seconds."""
  small = {
    'teacher.model': 'mlp',
    'students': ('mlp',),
    'seeds': (0,),
    'recipe.epochs': 20,
    'limit': 200,
    'defenses': (NAME, 'nasty', 'grad2'),
  }
  return plan.vary(config_files.load('digits'), small | changes)


def _runs(**changes):
  """{label: run} of what is planned."""
  return {run.label: run for run in plan.make(_config(**changes))}


def test_only_a_defense_that_learns_from_outliers_gets_another_name():
  without, found = _runs(), _runs(outliers='patches')
  assert without.keys() == found.keys()
  renamed = {name for name in found if found[name] != without[name]}
  assert renamed == {name for name in found if NAME in name}
  run = found[f'teacher mlp {NAME} seed 0']
  assert run.config['learns_from']['outliers'] == 'patches'
  assert run.settings == without[run.label].settings


@pytest.mark.parametrize(
  ('name', 'told'),
  [
    ('cifar10', 'outliers: images of cifar10 are (32, 32, 3), those of digits'),
    ('digits', "outliers='digits' is what is learned; expected images unlike"),
    ('nowhere', "unknown dataset 'nowhere'"),
  ],
)
def test_outliers_that_do_not_fit_are_named(name, told):
  with pytest.raises(errors.InputError, match='config: ') as error:
    _runs(outliers=name)
  assert told in str(error.value)


def test_every_image_has_an_outlier_and_none_comes_twice_before_all(tmp_path):
  store = store_lib.Store(tmp_path)
  run = _runs(outliers='patches', limit=None)[f'teacher mlp {NAME} seed 0']
  found = store.examples(run)
  others = store.task({**run.learns_from, 'name': 'patches'}).train['image']
  number = len(found['label'])
  assert found['outlier'].shape == found['image'].shape
  assert len(others) > number > len(others) / 2
  rows = {image.tobytes() for image in others}
  taken = [image.tobytes() for image in found['outlier']]
  assert rows.issuperset(taken)
  assert len(set(taken)) == number
  few = _runs(outliers='patches')[run.label]
  again = store.examples(few)['outlier']
  assert len(again) == 180  # 200 less a tenth.


def test_a_network_that_has_seen_outliers_is_unsure_of_others(tmp_path):
  store = store_lib.Store(tmp_path)
  runs = _runs(outliers='patches')
  task = store.task({**runs[f'teacher mlp {NAME} seed 0'].judged_on})
  foreign = store.task(
    {**runs[f'teacher mlp {NAME} seed 0'].judged_on, 'name': 'patches'}
  ).test
  tops = {}
  for name in ('none', NAME):
    run = runs[f'teacher mlp {name} seed 0']
    (result,) = execute.run_group([run], store)
    assert result['status'] == 'finished'
    (material,) = store.open([run])
    own = {'params': store.variables(run)['params']}
    tops[name] = [
      np.exp(
        scipy.special.log_softmax(
          evaluate.predict(
            method_lib.frozen_fn(material.program.network),
            own,
            arrays,
            material.program.prepare_test,
          ),
          axis=-1,
        )
      )
      .max(-1)
      .mean()
      for arrays in (task.test, foreign)
    ]
  assert tops[NAME][1] < 0.7 * tops['none'][1]
  assert tops[NAME][0] > tops[NAME][1] + 0.1
  assert 'misinformation_loss' in result['training']
