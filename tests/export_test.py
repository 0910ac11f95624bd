"""Exports: used where this package is not, and refused in one sentence."""

import json
import pathlib
import shutil
import subprocess
import sys

import config_files
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from undistillable import (
  data,
  defenses,
  errors,
  export,
  interop,
  losses,
  method,
  models,
)
from undistillable.graph import plan, programs, runs as runs_lib
from undistillable.storage import disk
from undistillable.training import checkpoints

SERVED = [
  name for name, one in defenses.DEFENSES.items() if hasattr(one, 'serve')
]


def _planned(**changes):
  """The runs of a small study, none of them trained."""
  config = config_files.load('digits')
  small = {'teacher.model': 'cnn4', 'students': ('cnn4',), 'seeds': (0,)}
  config.update_from_flattened_dict(small | changes)
  return plan.make(config)


def _random(run, seed):
  """Variables of a run, as if it had been trained."""
  frozen = {role: _random(one, 0) for role, one in run.parents.items()}
  batch = {
    'image': jax.ShapeDtypeStruct((64, 8, 8, 1), jnp.float32),
    'label': jax.ShapeDtypeStruct((64,), jnp.int32),
  }
  init = programs.build(run, 64).method.init
  shapes = jax.eval_shape(init, jax.random.key(0), batch, frozen).variables
  rng = np.random.default_rng(seed)

  def fill(path, x):
    low = 0.3 * ('var' not in jax.tree_util.keystr(path))
    return (rng.random(x.shape, np.float32) - low + 0.1).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def _finish(workdir, planned):
  """Writes what is left of finished runs, and returns their variables."""
  variables = {}
  for seed, run in enumerate(planned):
    folder = workdir / 'runs' / run.id
    folder.mkdir(parents=True)
    disk.write_json(folder / 'config.json', run.config)
    result = {
      'id': run.id,
      'status': 'finished',
      'role': run.role,
      'model': run.model,
      'method': run.shown_method,
      'parents': {role: one.id for role, one in run.parents.items()},
      'dataset': 'digits',
      'seed': run.seed,
      'config': run.config,
      'test_accuracy': 90.0 - seed,
      'test_nll': 0.5,
      'test_examples': 355,
    }
    disk.write_json(folder / 'result.json', result)
    if not run.only_serves and run.role == 'teacher':
      found = _random(run, seed)
      checkpoints.save_variables(folder, found)
      variables[run.id] = found
  return variables


def _entries(workdir, planned):
  """Of results.json."""
  return [
    disk.read_json(workdir / 'runs' / run.id / 'result.json')
    | {
      'teacher': one.id
      if run.role == 'student' and (one := run.parents.get('teacher'))
      else None,
      'control': (one := run.compared_with.get('control')) and one.id,
      'normal': (one := run.compared_with.get('normal')) and one.id,
    }
    for run in planned
  ]


def _teacher(planned, name):
  return next(
    run for run in planned if run.role == 'teacher' and run.method == name
  )


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """A workdir with two protected teachers, its runs and their variables."""
  workdir = tmp_path_factory.mktemp('work')
  planned = _planned(defenses=('nasty', 'stingy'))
  variables = _finish(workdir, planned)
  results = {'runs': _entries(workdir, planned)}
  disk.write_json(workdir / 'results.json', results)
  return workdir, planned, variables


@pytest.fixture(scope='module')
def exported(study, tmp_path_factory):
  """A folder with the folders of both, and what a client has found there."""
  workdir, planned, _ = study
  home = tmp_path_factory.mktemp('client')
  for name in ('nasty', 'stingy'):
    run = _teacher(planned, name)
    export.export(workdir, home / name, run=run.id, command='typed')
  rng = np.random.default_rng(0)
  np.save(home / 'images.npy', rng.integers(0, 256, (7, 8, 8, 1), np.uint8))
  client = pathlib.Path(__file__).with_name('export_client.py')
  done = subprocess.run(
    [sys.executable, client, 'nasty', 'stingy'],
    cwd=home,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return home, {name: np.load(home / f'{name}.npz') for name in done.args[2:]}


@pytest.mark.parametrize('name', ['nasty', 'stingy'])
def test_a_client_without_the_package_gets_the_same_answers(
  name, study, exported
):
  _, planned, known = study
  home, found = exported
  network = 'nasty' if name == 'nasty' else 'none'  # Of which weights.
  variables = known[_teacher(planned, network).id]
  images = np.load(home / 'images.npy')
  mean, std = (np.float32(x) for x in data.NORMALIZATIONS['digits'])
  model = models.get_model('cnn4', 10)
  normalised = (np.float32(images) / 255 - mean) / std
  logits = jax.jit(method.frozen_fn(model))(variables, normalised)
  for form in ('variables', 'safetensors', 'torch'):
    np.testing.assert_allclose(found[name][form], logits, rtol=1e-4, atol=1e-4)

  served = losses.log_scores(logits)
  if name == 'stingy':  # The two largest of ten.
    shown = logits >= np.sort(logits)[:, -2:-1]
    served = losses.log_scores(jnp.where(shown, logits, losses.WITHHELD))
  for number in (1, 7):
    answers = {
      key: found[name][f'{key} {number}']
      for key in ('labels', 'probabilities', 'log_scores')
    }
    np.testing.assert_array_equal(answers['labels'], logits.argmax(-1)[:number])
    np.testing.assert_allclose(
      answers['log_scores'], served[:number], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
      answers['probabilities'], np.exp(served)[:number], atol=1e-4
    )
  assert found[name]['example'].shape == (7,)


def test_no_other_network_leaves(study, exported):
  workdir, planned, variables = study
  home, _ = exported
  protected = _teacher(planned, 'nasty')
  adversary = protected.parents['adversary']
  contents = [
    path.read_bytes() for path in (home / 'nasty').glob('*') if path.is_file()
  ]
  assert len(contents) == 5
  whole = b''.join(contents)
  for run, leaves in ((protected, True), (adversary, False)):
    kernel = variables[run.id]['params']['fc1']['kernel']
    for form in (kernel, kernel.T):
      assert (form.tobytes() in whole) == leaves
  with ocp.StandardCheckpointer() as checkpointer:
    kept = checkpointer.restore(home / 'nasty' / 'variables')
  expected = variables[protected.id]
  assert jax.tree.structure(kept) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, kept, expected)


def test_the_files_say_what_they_are(study, exported):
  workdir, planned, _ = study
  home, _ = exported
  run = _teacher(planned, 'nasty')
  config = json.loads((home / 'nasty' / 'config.json').read_text())
  assert config['run'] == run.id
  assert (config['model'], config['num_classes']) == ('cnn4', 10)
  assert (config['image_shape'], config['dtype']) == ([8, 8, 1], 'float32')
  assert (tuple(config['mean']), tuple(config['std'])) == (
    data.NORMALIZATIONS['digits']
  )
  assert not config['serves']
  card = (home / 'nasty' / 'README.md').read_text()
  result = disk.read_json(workdir / 'runs' / run.id / 'result.json')
  for told in (
    '# cnn4 for digits, protected by nasty',
    f'{result["test_accuracy"]:.2f} % of 355 test images',
    '1,797 handwritten digits',
    f'{run.id}, 0 |',
    'The protection',
    'kd from nasty cnn4',
    '    typed\n',
    'for months after it was written, not for years',
  ):
    assert told in card
  # What others came to is not about this one.
  assert 'stingy' not in card


def test_a_card_says_that_weights_have_no_defense_that_serves(exported):
  home, _ = exported
  card = (home / 'stingy' / 'README.md').read_text()
  assert 'Only `predict.jaxexport` has it' in card
  assert json.loads((home / 'stingy' / 'config.json').read_text())['serves']


@pytest.mark.parametrize('name', SERVED)
def test_what_every_defense_serves_can_be_exported(name, tmp_path):
  planned = [r for r in _planned(defenses=(name,)) if r.role == 'teacher']
  _finish(tmp_path, planned)
  export.export(tmp_path, tmp_path / 'to')
  assert (tmp_path / 'to' / 'predict.jaxexport').stat().st_size > 10_000


OWN = """
import dataclasses
from undistillable.defenses import none

PARENTS = ('adversary', 'normal')
make = none.make


@dataclasses.dataclass(frozen=True)
class Settings:
  asks: str = 'normal'


def serve(query, settings):
  return query.logits + query.parents[settings.asks](query.images)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A study with a defense whose answers are made of another network's."""
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_export').mkdir()
  (tmp_path / 'own_export' / 'asking.py').write_text(OWN)
  yield lambda **changes: _planned(defenses=('own_export.asking',), **changes)
  for name in [n for n in sys.modules if n.startswith('own_export')]:
    del sys.modules[name]


def test_a_network_that_answers_depend_on_leaves_in_the_program_alone(
  own, tmp_path
):
  planned = own(**{'adversary.model': 'cnn8'})
  planned = [run for run in planned if run.role == 'teacher']
  variables = _finish(tmp_path, planned)
  to = tmp_path / 'to'
  run = export.export(tmp_path, to)
  assert json.loads((to / 'config.json').read_text())['asks'] == ['normal']
  for role, expected in (('normal', True), ('adversary', False)):
    kernel = variables[run.parents[role].id]['params']['fc1']['kernel']
    assert (kernel.tobytes() in (to / 'predict.jaxexport').read_bytes()) == (
      expected
    )
    assert kernel.T.tobytes() not in (to / 'model.safetensors').read_bytes()


@pytest.mark.parametrize('another', [True, False])
def test_an_adversary_that_answers_depend_on_stays(another, own, tmp_path):
  # Where it is no other network, the normal teacher is the adversary.
  changes = {}
  if another:
    text = OWN.replace("= 'normal'", "= 'adversary'")
    (tmp_path / 'own_export' / 'asking.py').write_text(text)
    changes = {'adversary.model': 'cnn8'}
  planned = own(**changes)
  _finish(tmp_path, [run for run in planned if run.role == 'teacher'])
  with pytest.raises(errors.InputError, match='the adversary must not leave'):
    export.export(tmp_path, tmp_path / 'to')
  assert not (tmp_path / 'to').exists()


def _refused(capsys, *args):
  """The sentence with which a command line is refused."""
  try:
    assert export.main(args) == 1
  except SystemExit as ended:
    assert ended.code == 1
  said = capsys.readouterr().err
  assert said.startswith('error: ')
  assert len(said.splitlines()) == 1
  return said


def test_a_run_that_cannot_leave_is_refused(study, tmp_path, capsys):
  workdir, planned, _ = study
  to = f'--to={tmp_path}/to'
  names = {
    run.id: word
    for run in planned
    for word in ['is of the thief (a student)']
    if run.role == 'student'
  }
  names |= {
    _teacher(planned, 'none').id: 'is not protected, and the adversary of',
    'teacher-cnn4-0123456789': 'there is no finished run',
  }
  both = [_teacher(planned, name).id for name in ('nasty', 'stingy')]
  for name, reason in names.items():
    said = _refused(capsys, f'--workdir={workdir}', f'--run={name}', to)
    assert reason in said
    assert f'{both[0]} (nasty, seed 0), {both[1]} (stingy, seed 0)' in said
  said = _refused(capsys, f'--workdir={workdir}', to)
  assert 'has 2 finished protected teachers, expected one; choose' in said
  assert all(name in said for name in both)
  assert not (tmp_path / 'to').exists()


def test_other_mistakes_are_refused(study, tmp_path, capsys):
  workdir, planned, _ = study
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').touch()
  given = f'--workdir={workdir}', f'--run={_teacher(planned, "nasty").id}'
  for args, reason in (
    ([*given], 'arguments are required: --to'),
    ([*given, '--to=gs://bucket/x'], 'to=gs://bucket/x is no local path'),
    ([*given, f'--to={tmp_path}/full'], 'full is not empty; choose another'),
    ([*given, f'--to={tmp_path}/full/file'], 'file is a file, expected a fold'),
    ([f'--workdir={tmp_path}', '--to=x'], 'holds no runs'),
    ([*given, '--to=x', 'more'], 'unrecognized arguments: more'),
  ):
    assert reason in _refused(capsys, *args)


def test_numbers_that_are_damaged_enter_no_card(tmp_path):
  teachers = [run for run in _planned() if run.role == 'teacher']
  _finish(tmp_path, teachers)
  run = _teacher(teachers, 'nasty')
  disk.write_json(tmp_path / 'results.json', {'runs': []})
  for path in (
    tmp_path / 'results.json',
    tmp_path / 'runs' / run.id / 'result.json',
  ):
    disk.sign(path.parent, [path.name])
    path.write_text(path.read_text() + ' ')
    with pytest.raises(errors.InputError, match=f'{path.name} is damaged'):
      export.export(tmp_path, tmp_path / 'to', run=run.id)
    assert not (tmp_path / 'to').exists()


def test_a_run_is_what_its_folder_is_named_after(study, tmp_path):
  workdir, planned, _ = study
  run = _teacher(planned, 'stingy')
  found = runs_lib.read(workdir / 'runs' / run.id)
  assert found == run
  assert found.parents == run.parents
  folder = tmp_path / run.id
  shutil.copytree(workdir / 'runs' / run.id, folder)
  with pytest.raises(errors.InputError, match='is no folder of a run'):
    runs_lib.read(folder)  # Its parent is elsewhere.
  config = run.config | {'parents': {}, 'seed': 7}
  for changes, message in (
    ({}, 'is not the config that its folder is named after'),
    ({'parents': {'normal': '../..'}}, 'is no config of a run'),
    ({'settings': None, 'parents': 3}, 'is no config of a run'),
  ):
    disk.write_json(folder / 'config.json', config | changes)
    with pytest.raises(errors.InputError, match=message):
      runs_lib.read(folder)


def test_weights_of_a_file_need_not_be_there_any_more(tmp_path):
  weights = tmp_path / 'weights.safetensors'
  interop.save(weights, interop.to_torch('cnn4', _random(_planned()[0], 0)))
  planned = _planned(
    defenses=('stingy',), **{'teacher.init_from': str(weights)}
  )
  run = _teacher(planned, 'stingy')
  _finish(tmp_path, [run.parents['normal'], run])
  weights.unlink()
  assert export.export(tmp_path, tmp_path / 'to').id == run.id
  card = (tmp_path / 'to' / 'README.md').read_text()
  assert '| Weights | a file with the sha256:' in card
  assert 'Held out' not in card
