"""Arrays and modules of one's own: what does not fit is said at the door."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from undistillable import (
  attacks,
  data,
  defenses,
  errors,
  losses,
  method as method_lib,
  oracle,
)
from undistillable.training import evaluate, train

PREPARE = data.prepare_fn((0.5,), (0.25,))


class Linear(nn.Module):
  """The least that is a network."""

  noise: bool = False
  noise_in_test: bool = False
  stores: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    if self.noise_in_test or (self.noise and train):
      x += jax.random.normal(self.make_rng('noise'), x.shape)
    if self.stores:
      self.variable('memory', 'count', jnp.zeros, ())
    return nn.Dense(10)(x)


def _arrays(number=16, **changes):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (number, 4, 4, 1), np.uint8),
    'label': np.arange(number) % 10,
  } | changes


def _fit(arrays, model=None, prepare=PREPARE, **kwargs):
  method = defenses.none.make(model or Linear(), optax.sgd(0.1))
  kwargs = {'epochs': 1, 'batch_size': 8} | kwargs
  return train.fit(method, arrays, prepare, **kwargs)


def _predict(arrays, prepare=PREPARE, **kwargs):
  model = Linear()
  variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
  apply_fn = method_lib.frozen_fn(model)
  return evaluate.predict(apply_fn, variables, arrays, prepare, **kwargs)


def _hold_out(arrays):
  return data.hold_out(arrays, 0.5, 0)


def _take(arrays):
  return data.take_fraction(arrays, 0.5, 0)


GREY = np.zeros((16, 4, 4), np.uint8)
COLOURED = np.zeros((16, 4, 4, 3), np.uint8)
FLOAT = np.zeros((16, 4, 4, 1), np.float32)


@pytest.mark.parametrize('door', [_fit, _predict, _hold_out, _take])
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'image': GREY[:15]}, r'16 labels, and image of shape \(15, 4, 4\)'),
    ({'label': np.zeros((16, 10), int)}, r'int64\[16, 10\].*label.argmax'),
    ({'label': np.zeros(16)}, r'labels are float64\[16\]; expected int\[N\]'),
    ({'label': np.zeros(0, int), 'image': GREY[:0]}, 'there are no examples'),
  ],
)
def test_what_are_no_examples_is_refused(door, changes, message):
  with pytest.raises(errors.InputError, match=message):
    door(_arrays() | changes)


@pytest.mark.parametrize('door', [_fit, _predict])
@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (
      FLOAT,
      r'images are float32\[16, 4, 4, 1\]; expected uint8.*255 \* image',
    ),
    (GREY, r'images are uint8\[16, 4, 4\]; .*image\[..., None\]'),
  ],
)
def test_other_images_than_bytes_are_refused(door, image, message):
  with pytest.raises(errors.InputError, match=message):
    door(_arrays(image=image))


def test_as_many_means_as_channels_are_wanted():
  prepare = data.prepare_fn((0.5,) * 3, (0.25,) * 3)
  with pytest.raises(errors.InputError, match='mean and std are of 3 channels'):
    _fit(_arrays(), prepare=prepare)
  assert _fit(_arrays(image=COLOURED), prepare=PREPARE)  # One for all is well.


@pytest.mark.parametrize('mean', [(125.3,), (-0.1,), (float('nan'),)])
@pytest.mark.parametrize('std', [(0.0,), (0.2, 0.2)])
def test_impossible_means_and_deviations_are_refused(mean, std):
  for values in ((mean, (0.25,)), ((0.5,), std)):
    with pytest.raises(errors.InputError, match='expected one of each a chan'):
      data.prepare_fn(*values)


def test_labels_that_no_class_has_are_refused_before_training():
  with pytest.raises(errors.InputError, match='from 1 to 10; .*subtract 1'):
    _fit(_arrays(label=np.arange(16) % 10 + 1))
  with pytest.raises(errors.InputError, match='from -1 to 9; expected 0 to 9'):
    _fit(_arrays(label=np.append(-1, np.arange(15) % 10)))


def test_a_method_that_reads_no_labels_needs_none():
  method = attacks.hard_label.make(
    Linear(),
    optax.sgd(0.1),
    attacks.hard_label.Settings(),
    {'teacher': Linear()},
  )
  arrays = _arrays(label=np.full(16, -1))
  with pytest.raises(errors.InputError, match="frozen={'teacher': variables}"):
    train.fit(method, arrays, PREPARE, epochs=1, batch_size=8)
  variables = Linear().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
  frozen = {'teacher': variables}
  state = train.fit(
    method, arrays, PREPARE, epochs=1, batch_size=8, frozen=frozen
  )
  assert int(state.step) == 2


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ([1, 2], 'given <class'),
    ({'image': FLOAT}, r"'label': int\[N\]}; given \['image'\]"),
  ],
)
def test_what_has_no_labels_is_refused(given, message):
  with pytest.raises(errors.InputError, match=message):
    _fit(given)


def test_what_prepare_reads_must_be_there():
  with pytest.raises(errors.InputError, match="prepare reads 'image'"):
    _fit({'label': np.zeros(16, int)})


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'epochs': 1.5}, 'epochs=1.5; expected a whole number'),
    ({'epochs': '3'}, "epochs='3'; expected a whole number"),
    ({'batch_size': 8.0}, 'batch_size=8.0; expected a whole number'),
    ({'seed': 0.5}, 'seed=0.5; expected a whole number'),
    (
      {'evaluate_every_epochs': 0},
      'evaluate_every_epochs=0; expected at least',
    ),
    ({'folder': 'gs://x'}, 'folder=gs://x is no local path'),
  ],
)
def test_numbers_and_folders_that_are_none_are_refused(changes, message):
  with pytest.raises(errors.InputError, match=message):
    _fit(_arrays(), **changes)


def test_numbers_of_numpy_lists_and_texts_do(tmp_path):
  one, other = (
    _fit(arrays, **kwargs).params
    for arrays, kwargs in (
      (_arrays(), {'seed': 3}),
      (
        {k: v.tolist() for k, v in _arrays().items()}
        | {'image': _arrays()['image']},
        {
          'epochs': np.int64(1),
          'batch_size': np.int32(8),
          'seed': np.int64(3),
          'folder': str(tmp_path / 'run'),
        },
      ),
    )
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert (tmp_path / 'run' / 'metrics.jsonl').is_file()
  np.testing.assert_array_equal(
    *(_predict(_arrays(), batch_size=size) for size in (5, np.int64(5)))
  )
  parts = [data.hold_out(_arrays(), 0.5, seed) for seed in (3, np.int64(3))]
  jax.tree.map(np.testing.assert_array_equal, *parts)


@pytest.mark.parametrize(
  ('logits', 'labels', 'message'),
  [
    (np.zeros((3, 2)), np.zeros(2, int), r'\(3, 2\) and labels of shape \(2,'),
    (np.zeros((3, 2)), np.arange(3), 'labels are from 0 to 2; expected 0 to 1'),
    (np.zeros((3, 2)), np.zeros(3), 'labels are float64'),
    (np.zeros((0, 2)), np.zeros(0, int), 'at least one'),
    (np.zeros(3), np.zeros(3, int), r'expected \[N, K\] and \[N\]'),
  ],
)
def test_scores_of_what_does_not_fit_are_refused(logits, labels, message):
  with pytest.raises(errors.InputError, match=message):
    evaluate.scores(logits, labels)


def test_fidelity_of_what_does_not_fit_is_refused():
  with pytest.raises(errors.InputError, match=r'\(3, 2\) and \(3, 4\); exp'):
    evaluate.fidelity(np.zeros((3, 2)), np.zeros((3, 4)))


@pytest.mark.parametrize('labels', [np.array([0, 3]), jnp.array([-1, 2])])
def test_a_loss_knows_which_labels_there_are(labels):
  logits = jnp.zeros((2, 3))
  with pytest.raises(
    ValueError, match='; expected 0 to 2, for logits of shape'
  ):
    losses.cross_entropy(logits, labels)
  # Known or not, what is compiled is not looked at.
  jax.jit(losses.cross_entropy)(logits, labels)
  for known in (np.array([0, 2]), jnp.array([0, 2])):
    jax.jit(lambda z, y=known: losses.cross_entropy(z, y))(logits)


# Modules of one's own.


class Recent(nnx.Module):
  """A module of the other interface."""

  def __init__(self, rngs):
    self.layer = nnx.Linear(16, 10, rngs=rngs)
    self.norm = nnx.BatchNorm(10, rngs=rngs)

  def __call__(self, images, train=False):
    x = self.layer(images.reshape(len(images), -1))
    return self.norm(x, use_running_average=not train)


class Untold(nn.Module):
  """A module that is not told whether it is trained."""

  @nn.compact
  def __call__(self, images):
    return nn.Dense(10)(images.reshape(len(images), -1))


class Talkative(nn.Module):
  """A module that answers with more than logits."""

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    return nn.Dense(10)(x), x


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Recent(nnx.Rngs(0)), 'Recent is a module of flax.nnx; .*to_linen'),
    (lambda: Untold(), 'Untold.__call__ takes images; expected images and tra'),
    (
      lambda: Talkative(),
      'Talkative answers 1 images with tuple; expected log',
    ),
    (lambda: Linear(stores=True), r"in \['memory', 'params'\]; expected 'par"),
    (lambda: Linear(noise_in_test=True), 'random numbers with train=False'),
    (lambda: 3, 'the network is of type int; expected a flax.linen module'),
  ],
)
def test_a_module_that_is_not_supported_says_why(make, message):
  with pytest.raises(errors.InputError, match=message):
    _fit(_arrays(), model=make())


def test_a_teacher_of_another_library_is_no_function():
  with pytest.raises(errors.InputError, match='Recent is a module of flax.nnx'):
    oracle.as_oracle(Recent(nnx.Rngs(0)))


@pytest.mark.parametrize(
  'model', [Linear(noise=True), nnx.bridge.to_linen(Recent)]
)
def test_any_other_module_is_trained(model):
  losses_seen = []
  state = _fit(
    _arrays(),
    model=model,
    epochs=20,
    on_step=lambda n, x, _: losses_seen.append(x),
  )
  assert np.mean(losses_seen[-2:]) < 0.8 * np.mean(losses_seen[:2])
  logits = evaluate.predict(
    method_lib.frozen_fn(model), state.variables, _arrays(), PREPARE
  )
  assert logits.shape == (16, 10)
