"""Networks of which the answers alone are known, and their audit."""

import pathlib
import sys
import types

import chex
import config_files
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax import export as jax_export

import undistillable
from undistillable import (
  arena,
  audit,
  data,
  errors,
  export,
  interop,
  method,
  models,
  oracle,
  study,
)
from undistillable.data import augment
from undistillable.graph import plan
from undistillable.models import black_box
from undistillable.report import draw
from undistillable.training import evaluate, parallel

CSS = next(pathlib.Path(undistillable.__file__).parent.glob('report/*.css'))
PLAIN = data.NORMALIZATIONS['digits']
WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)) / 100

MODULE = """
import numpy as np

W = np.random.default_rng(0).normal(size=(64, 10)) / 100
asked = []


def answer(images):
  asked.append((type(images), images.dtype))
  return np.reshape(images, (len(images), -1)) @ W
"""


def _images(number=5):
  return np.random.default_rng(1).integers(0, 256, (number, 8, 8, 1), np.uint8)


def _linear(images):
  return images.reshape(len(images), -1).astype(np.float32) @ WEIGHTS


def _box(answer, normalization='digits'):
  mean, std = data.NORMALIZATIONS[normalization]
  return black_box.BlackBox(10, answer, tuple(mean), tuple(std))


def _asked(network, images, normalization='digits', dtype=jnp.float32):
  """What it answers when it is asked as every network is."""
  prepared = augment.normalize(
    images, *data.NORMALIZATIONS[normalization], dtype
  )
  variables = network.asked([images], 2)
  return np.asarray(method.frozen_fn(network)(variables, prepared))


@pytest.fixture
def module(tmp_path, monkeypatch):
  """The name of a module of one's own, with a function of NumPy."""
  monkeypatch.setattr(black_box, 'KNOWN', {})
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'my_boxes').mkdir()
  (tmp_path / 'my_boxes' / 'linear.py').write_text(MODULE)
  return 'my_boxes.linear'


@pytest.fixture
def file(tmp_path, monkeypatch):
  """A file of jax.export, and its function."""
  monkeypatch.setattr(black_box, 'KNOWN', {})

  def predict(images):
    flat = images.reshape(images.shape[0], -1).astype(jnp.float32)
    return {'log_scores': jax.nn.log_softmax(flat @ WEIGHTS)}

  path = tmp_path / 'predict.jaxexport'
  path.write_bytes(export.serialize(predict, (8, 8, 1)))
  return path, predict


@pytest.mark.parametrize('name', sorted(data.NORMALIZATIONS))
def test_it_is_asked_about_the_bytes_that_the_images_were(name):
  """Of every value that a byte can have, with every normalization."""
  mean, std = data.NORMALIZATIONS[name]
  levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  levels = np.repeat(levels, len(mean), -1)
  prepared = augment.normalize(levels, mean, std, jnp.float32)
  network = _box(jax.jit(lambda images: images.reshape(1, -1)), name)
  variables = {'params': {'nothing': jnp.zeros(())}}
  found = method.frozen_fn(network)(variables, prepared)
  np.testing.assert_array_equal(found, levels.reshape(1, -1))


@pytest.mark.parametrize(
  'answer', [_linear, jax.jit(_linear)], ids=['NumPy', 'jit']
)
def test_its_answers_are_what_the_function_says(answer):
  images = _images()
  found = _asked(_box(answer), images)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, _linear(images), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
  'answer', [_linear, jax.jit(_linear)], ids=['NumPy', 'jit']
)
def test_devices_share_its_batches(answer):
  """An uneven last one, too."""
  assert parallel.num_devices() == 2
  images = _images(11)
  network = _box(answer)
  arrays = {'image': images, 'label': np.zeros(11, np.int32)}
  found = evaluate.predict(
    method.frozen_fn(network),
    network.asked([images], 4),
    arrays,
    data.prepare_fn(*PLAIN),
    batch_size=4,
  )
  np.testing.assert_allclose(found, _linear(images), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
  'answer', [_linear, jax.jit(_linear)], ids=['NumPy', 'jit']
)
def test_no_gradient_is_asked_of_it(answer):
  """As by a thief who makes up his images, and learns to."""
  network = _box(answer)
  ask = oracle.as_oracle(network).scores
  variables = network.asked([_images()], 4)
  prepared = augment.normalize(_images(), *PLAIN, jnp.float32)

  @jax.jit
  def loss(scale):
    # Of the same bytes: the difference rounds away.
    scores = ask(variables, (1 + (scale - 1) / 1e6) * prepared)
    return (scale * scores).sum()

  value, gradient = jax.value_and_grad(loss)(1.0)
  np.testing.assert_allclose(gradient, value, rtol=1e-6)
  # A loss of a batch for each of several.
  assert jax.vmap(loss)(jnp.ones(3)).shape == (3,)


def test_an_image_that_it_was_not_asked_about_is_not_answered():
  network, images = _box(_linear), _images()
  variables = network.asked([images[:2], images[2:4]], 256)
  prepared = augment.normalize(images, *PLAIN, jnp.float32)
  found = method.frozen_fn(network)(variables, prepared)
  np.testing.assert_allclose(found[:4], _linear(images[:4]), atol=1e-5)
  assert np.isnan(found[4]).all()


@hypothesis.given(
  words=strategies.lists(
    strategies.tuples(*[strategies.integers(0, 2)] * 4), min_size=1, max_size=9
  ),
  asked=strategies.lists(
    strategies.tuples(*[strategies.integers(0, 2)] * 4), min_size=1, max_size=9
  ),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_keys_that_begin_alike_are_told_apart(words, asked):
  known = sorted(set(words))
  firsts = [key[0] for key in known]
  hypothesis.assume(max(map(firsts.count, firsts)) <= 5)
  answers = np.arange(len(known), dtype=np.float32)[:, None]
  found = black_box._looked_up(
    jnp.array(asked, jnp.uint32), jnp.array(known, jnp.uint32), answers
  )
  for key, (answer,) in zip(asked, np.asarray(found), strict=True):
    if key in known:
      assert answer == known.index(key)
    else:
      assert np.isnan(answer)


def test_images_of_one_byte_s_difference_have_other_keys():
  images = np.zeros((2 * 192 + 1, 8, 8, 3), np.uint8)
  flat = images.reshape(len(images), -1)
  flat[np.arange(192), np.arange(192)] = 1
  flat[192 + np.arange(192), np.arange(192)] = 255
  keys = np.asarray(black_box._keys(images))
  for word in range(keys.shape[1]):
    assert len(set(keys[:, word].tolist())) == len(images)
  np.testing.assert_array_equal(jax.jit(black_box._keys)(images), keys)


def test_a_class_that_is_withheld_has_a_finite_log_score():
  def answer(images):
    return np.where(np.arange(10) < 3, 0.0, -np.inf) * np.ones((len(images), 1))

  network = _box(answer)
  prepared = augment.normalize(_images(), *PLAIN, jnp.float32)
  variables = network.asked([_images()], 5)
  scores = oracle.as_oracle(network).scores(variables, prepared)
  assert np.isfinite(scores).all()
  np.testing.assert_array_equal(scores[:, :3], 0.0)


def test_a_module_answers_in_numpy(module):
  name, path = black_box.know(module, *PLAIN)
  assert path.name == 'linear.py'
  assert name in black_box.KNOWN
  assert black_box.is_recorded(name)
  network = models.get_model(name, 10)
  images = _images()
  np.testing.assert_allclose(
    _asked(network, images), _linear(images), rtol=1e-6, atol=1e-5
  )
  import my_boxes.linear as own

  # Once about each image, in batches of two.
  assert set(own.asked) == {(np.ndarray, np.dtype(np.uint8))}
  assert len(own.asked) == 3


def test_a_file_answers_as_its_function(file):
  path, predict = file
  name, found = black_box.know(str(path.parent), *PLAIN)
  assert found == path
  assert black_box.know(str(path), *PLAIN) == (name, path)
  assert not black_box.is_recorded(name)
  network = models.get_model(name, 10)
  images = _images()
  np.testing.assert_allclose(
    _asked(network, images), predict(images)['log_scores'], atol=1e-5
  )


def test_its_name_follows_from_what_is_in_the_file(file):
  path, _ = file
  name, _ = black_box.know(str(path), *PLAIN)
  other = path.with_name('other')
  other.write_bytes(path.read_bytes())
  assert black_box.know(str(other), *PLAIN)[0] == name
  predict = jax.jit(lambda images: jnp.zeros((images.shape[0], 10)))
  other.write_bytes(export.serialize(predict, (8, 8, 1)))
  assert black_box.know(str(other), *PLAIN)[0] != name


def test_a_function_of_one_size_of_batch_is_refused(tmp_path):
  images = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.uint8)
  one = jax_export.export(jax.jit(lambda x: x.reshape(4, -1)))(images)
  path = tmp_path / 'one'
  path.write_bytes(one.serialize())
  with pytest.raises(errors.InputError, match=r'uint8\[4,8,8,1\].*any number'):
    black_box.know(str(path), *PLAIN)


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('no/such', 'neither a file .* nor a folder .* nor a module'),
    ('', 'neither a file'),
    ('no_such_module', 'is no file, and cannot be imported as a module'),
    ('tests/black_box_test.py', 'is a file of Python; name the module, as bla'),
    ('tests', 'a folder without predict.jaxexport, and no module'),
    ('json', r'json has no function answer; expected answer\(images\)'),
    (str(CSS), 'is no file of jax.export'),
  ],
)
def test_what_does_not_answer_is_one_sentence(source, message):
  with pytest.raises(errors.InputError, match=f'^--answers: .*{message}'):
    audit.changed(config_files.load('digits'), 'small', answers=source)


@pytest.mark.parametrize(
  ('answer', 'message'),
  [
    (lambda x: np.zeros((len(x), 3)), r'shape \(2, 3\); expected .* \(2, 10\)'),
    (lambda x: np.zeros(10), r'shape \(10,\)'),
    (lambda x: np.full((len(x), 10), np.nan), 'NaN'),
    (lambda x: np.full((len(x), 10), np.inf), 'infinite'),
    (lambda x: np.full((len(x), 10), 1e39), 'infinite'),
    (lambda x: np.full((len(x), 10), -np.inf), 'minus infinity alone'),
    (lambda x: np.full((len(x), 10), 0.1), 'look like probabilities'),
    (lambda x: np.full((len(x), 10), 'a'), 'expected numbers'),
    (lambda x: {'logits': x}, "KeyError: 'log_scores'"),
    (lambda x: 1 / 0, 'were not answered .ZeroDivisionError'),
    (lambda x: sys.exit('no key'), 'were not answered .SystemExit: no key'),
    (lambda: None, 'were not answered .TypeError'),
    (jax.jit(lambda x: jnp.full((2, 10), jnp.nan)), 'NaN'),
  ],
)
def test_wrong_answers_are_found_before_anything_is_trained(answer, message):
  with pytest.raises(errors.InputError, match=message):
    _box(answer).asked([_images(2)], 2)


def test_an_answer_may_change_what_it_is_given_and_what_it_gave():
  """As a buffer that is used again, or images that are divided in place."""
  images, buffer = _images(11), np.zeros((4, 10), np.float32)

  def answer(given):
    buffer[: len(given)] = _linear(given)
    given //= 2
    return buffer[: len(given)]

  before = images.copy()
  found = _asked(_box(answer), images)
  np.testing.assert_array_equal(images, before)
  np.testing.assert_allclose(found, _linear(images), rtol=1e-6, atol=1e-5)


def test_images_that_thieves_make_up_are_tried_too():
  """Of a program of JAX, which knows more than data sets."""
  images = np.zeros((5, 8, 8, 1), np.uint8)
  broken = jax.jit(lambda x: jnp.log(9.0 - x.reshape(len(x), -1)[:, :10]))
  with pytest.raises(errors.InputError, match='of random pixels: .*NaN'):
    _box(broken).asked([images], 2)


def test_nobody_pays_twice_for_an_answer_who_was_interrupted(tmp_path):
  """A service that stops after five images, and is asked in other pieces then.

  Of what it has answered one file is damaged: those images are asked again.
  """
  images, paid = _images(11), []

  def answer(given):
    if len(paid) == 5:
      raise ConnectionError('come back tomorrow')
    paid.extend(given)
    return _linear(given)

  network, kept = _box(answer), tmp_path / 'kept'
  for _ in range(2):
    with pytest.raises(errors.InputError, match='come back tomorrow'):
      network.asked([images[:5], images[5:]], 3, kept)
    np.testing.assert_array_equal(paid, images[:5])
  paid.clear()
  with pytest.raises(errors.InputError, match='come back tomorrow'):
    network.asked([images], 1, kept)
  np.testing.assert_array_equal(paid, images[5:10])
  paid.clear()
  largest = max(kept.iterdir(), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:100])
  found = network.asked([images], 2, kept)
  np.testing.assert_array_equal(paid, [*images[:3], images[10]])
  chex.assert_trees_all_equal(found, network.asked([images], 3))


def _audit(source, **given):
  return audit.changed(config_files.load('digits'), answers=source, **given)


def test_its_audit_is_of_one_network_that_nobody_trains(module):
  planned = arena.plan_fn(_audit(module, budget='small'))
  (owner,) = (run for run in planned if run.role == 'teacher')
  assert (owner.epochs, owner.seed) == (0, 0)
  assert owner.init_from.endswith('linear.py')
  assert {run.parents['teacher'] for run in planned if run.parents} == {owner}


@pytest.mark.parametrize(
  ('source', 'kinds'),
  [('module', {'own', 'foreign'}), ('file', {'own', 'foreign', 'none'})],
)
def test_a_full_one_asks_and_reads_no_weights(source, kinds, request):
  given = request.getfixturevalue(source)
  given = given if source == 'module' else str(given[0])
  config = _audit(given, budget='full')
  config.students = ('cnn4',)
  planned = arena.plan_fn(config)
  assert {run.access for run in planned if run.parents} == {'labels', 'scores'}
  thieves = [run for run in planned if not run.is_owners and run.parents]
  assert {run.access_to_data for run in thieves} == kinds
  owners = {run.method: run for run in planned if run.role == 'teacher'}
  assert {'none', 'stingy', 'mad', 'top_k'} <= owners.keys()
  # Of foreign images, too, where it is asked beforehand.
  asked = owners['none'].learns_from.get('transfer')
  assert asked == (config.transfer if source == 'module' else None)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'arena.attacks': ('fast',)}, 'fast: it reads the weights, and of black'),
    ({'arena.attacks': ('dafl',)}, 'dafl: it reads the weights, and of black'),
    ({'arena.attacks': ('maze',)}, 'maze: it makes up its images, and the an'),
    ({'queries': 'fresh'}, "expected 'cached' and 'float32', since"),
    ({'dtype': 'bfloat16'}, "dtype='bfloat16'; expected 'cached' and"),
    ({'arena.defenses': ('nasty',)}, "defense 'nasty' trains, and of black"),
    ({'arena.defenses': ('decoy',)}, "defense 'decoy' trains, and of black"),
  ],
)
def test_what_its_weights_would_be_needed_for_is_said(changes, message, module):
  config = plan.vary(_audit(module, budget='small'), changes)
  with pytest.raises(errors.InputError, match=message):
    arena.plan_fn(config)


@pytest.mark.parametrize(
  'more',
  [
    {'model': 'mlp'},
    {'weights': 'w'},
    {'fixed': frozenset({'teacher.model'})},
  ],
)
def test_it_has_neither_weights_nor_a_model(more, module):
  with pytest.raises(errors.InputError, match='nothing else is known; leave'):
    _audit(module, budget='small', **more)


TINY = {
  'students': ('mlp',),
  'limit': 200,
  'progress': False,
  'recipe.epochs': 1,
  'arena.attacks': ('kd',),
  'arena.epsilons': (),
  'arena.fresh_seeds': (1,),
}


def _audited(tmp_path, changes=None, **given):
  """What a small audit comes to, and its page."""
  changes = TINY | {'data_dir': str(tmp_path / 'data')} | (changes or {})
  config = audit.changed(
    plan.vary(config_files.load('digits'), changes),
    'small',
    fixed=frozenset(changes),
    **given,
  )
  work = tmp_path / 'audit'
  results = study.run(config, work, study=audit.STUDY, command='typed')
  return results, (work / 'audit' / 'report.md').read_text()


@pytest.mark.whole
def test_what_was_exported_is_audited_as_its_clients_meet_it(
  tmp_path, monkeypatch
):
  """With a gate that was trained beside the network, and is in no weights."""
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  monkeypatch.setattr(black_box, 'KNOWN', {})
  config = config_files.load('digits')
  tiny = {name: TINY[name] for name in ('students', 'limit', 'progress')}
  config.update_from_flattened_dict(
    tiny
    | {
      'data_dir': str(tmp_path / 'data'),
      'teacher.model': 'mlp',
      'seeds': (0,),
      'defenses': ('decoy',),
      'recipe.epochs': 2,
      'max_accuracy_drop': 100.0,
    }
  )
  trained = study.run(config, tmp_path / 'main', command='typed')
  served = next(one for one in trained['runs'] if one['method'] == 'decoy')
  export.export(tmp_path / 'main', tmp_path / 'protected')
  results, text = _audited(tmp_path, answers=str(tmp_path / 'protected'))
  (owner,) = (one for one in results['runs'] if one['role'] == 'teacher')
  assert owner['test_accuracy'] == served['test_accuracy']
  np.testing.assert_allclose(owner['test_nll'], served['test_nll'], rtol=1e-4)
  assert results['measurements']['serving']['none']['bytes'] is None
  assert text.startswith('# Can this network be stolen by distillation?')
  assert '| Networks |' in text
  assert '| State |' not in text
  # Who hears answers learns from them; the run says how many he asked for.
  kinds = {(one['method'], one['queries']) for one in results['runs']}
  assert ('kd', 180) in kinds


@pytest.mark.whole
def test_thieves_learn_from_what_was_recorded_as_from_the_network(
  tmp_path, monkeypatch
):
  """Whoever asks once an image: the same students, with foreign images too.

  And behind a defense. The network is one of NumPy to who audits it, which
  once fails, and is not asked again about what it has answered.
  """
  monkeypatch.setattr(draw, 'render', lambda shown, folder: [])
  monkeypatch.setattr(black_box, 'KNOWN', {})
  network = models.get_model('mlp', 10)
  variables = network.init(jax.random.key(3), jnp.zeros((1, 8, 8, 1)))
  weights = tmp_path / 'mine.safetensors'
  interop.save(weights, interop.to_torch('mlp', variables))

  paid = []

  def answer(images):
    if len(paid) == 3:  # One is a trial.
      paid.append(0)
      raise ConnectionError
    paid.append(len(images))
    prepared = augment.normalize(images, *PLAIN, jnp.float32)
    return np.asarray(method.frozen_fn(network)(variables, prepared))

  own = types.ModuleType('my_network')
  own.answer, own.__file__ = answer, str(weights)
  monkeypatch.setitem(sys.modules, 'my_network', own)
  changes = {
    'arena.attacks': ('kd', 'knockoff'),
    'queries': 'cached',
    'dtype': 'float32',
  }
  with pytest.raises(errors.InputError, match='ConnectionError'):
    _audited(tmp_path / '1', changes, served='top_k:k=3', answers='my_network')
  found = []
  for given in (
    {'model': 'mlp', 'weights': str(weights)},
    {'answers': 'my_network'},
  ):
    results, text = _audited(
      tmp_path / str(len(found)), changes, served='top_k:k=3', **given
    )
    assert 'served behind top\\_k (k=3)' in text
    found.append({_place(run): run for run in results['runs']})
  assert len(found[0]) > 8
  assert found[0].keys() == found[1].keys()
  for place, run in found[0].items():
    other = found[1][place]
    for name in ('status', 'queries', 'test_accuracy'):
      assert run[name] == other[name], place
    np.testing.assert_allclose(run['test_nll'], other['test_nll'], rtol=1e-3)
  # A trial; training and validation; failure. A trial; test; foreign images.
  assert paid == [2, 180, 20, 0, 2, 200, 180]
  # What is no network is not left as if it were one.
  left = {path.name for path in tmp_path.glob('1/audit/runs/teacher-*/*')}
  assert 'result.json' in left
  assert not left & {'model.safetensors', 'checkpoints'}


def _place(run):
  """What a run is, whatever the name of the network that it robs."""
  settings = sorted(run['config']['settings'].items())
  robbed = bool(run['teacher']), bool(run['normal'])
  return run['method'], run['seed'], *robbed, str(settings)
