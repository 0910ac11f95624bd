"""The command line, in this process: every mistake is one sentence."""

import io
import re
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from undistillable import command, config as config_lib, errors, terminal

DIGITS = '--config=configs/digits.py'
BASE = """
from undistillable import config as config_lib


def get_config():
  config = config_lib.base()
  {}
  return config
"""


@pytest.fixture
def parse(monkeypatch):
  """Reads a command line, and forgets its flags afterwards."""

  def read(*args):
    argv = ['main', *args]
    monkeypatch.setattr(sys, 'argv', argv)  # Which ml_collections looks at.
    command.parse(argv)
    return command.CONFIG.value

  with flagsaver.flagsaver():
    yield read
  flags.FLAGS['config'].unparse()


@pytest.fixture
def refused(parse):
  """The sentence with which a command line is refused."""

  def read(*args):
    with pytest.raises(SystemExit) as ended:
      parse(*args)
    said = ended.value.code
    assert said.startswith('error: ')
    assert len(said.splitlines()) == 1
    return said

  return read


def test_a_config_of_the_package_has_a_name(
  parse, refused, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  config = parse('--config=cifar10:released', '--config.limit=200')
  assert (config.nasty.omega, config.limit) == (0.04, 200)
  assert refused('--config=cifar11') == (
    "error: unknown config 'cifar11'; known: cifar10, cifar100, digits, "
    'tiny_imagenet, or a file'
  )


def test_what_is_right_is_taken(parse):
  config = parse(DIGITS, '--config.seeds=3', '--config.limit=200')
  assert config.seeds == (3,)
  assert config.limit == 200
  assert config.is_locked


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--config.recipe.epochs=abc'], "invalid literal for int.*'abc'"),
    (['--config.recipe.epochs=1.5'], "invalid literal for int.*'1.5'"),
    (['--config.recipe.learning_rate=nan'], 'rate=nan; expected a finite num'),
    (['--config.seeds=(0'], r"seeds=\('\(0',\); expected a whole number each"),
    (['--config.seeds=("a",)'], "seeds=.'a',.; expected a whole number each"),
    (['--config.seeds=(0.5,)'], 'seeds=.0.5,.; expected a whole number each'),
    (['--config.students=(1,)'], 'students=.1,.; expected a text each'),
    (['--config.recipe.milestones=("a",)'], 'recipe.milestones=.*whole number'),
    (['--config.recipe=3'], 'is not a dict'),
    (['--config.recipe={}'], "no field 'recipe.augment'; start from"),
    (['--config.recipe.foo=3'], "no field 'foo'"),
    (['--config.foo=3'], "no field 'foo'"),
    (['--config.defense.omega=1'], 'defense of the first edition is now'),
    (['--config.foo.bar=3'], "no field 'foo'"),
    (['--config.seeds.foo=3'], 'no field'),
    (['--config.seeds[7]=3'], 'no field'),
    (['--config.teacher.model.x=3'], 'no field'),
    (['--config.=3'], 'no field'),
    (['--config.progress=maybe'], 'Non-boolean'),
    (['--config.data_dir=gs://bucket/data'], 'data_dir=gs.*no local path'),
    (['--config.data_dir='], 'data_dir is empty'),
    (['--config.teacher.init_from=s3://x/y.pt'], 'init_from=s3.*no local path'),
    (['--nothing=3'], 'Unknown command line flag'),
    (['--config.defenses=("no.where",)'], "'no.where' cannot be imported"),
  ],
)
def test_a_mistake_is_one_sentence(args, message, refused):
  said = refused(DIGITS, *args)
  assert re.search(message, said), said


def test_changes_before_the_config_are_refused(refused):
  assert 'before a value for --config' in refused('--config.limit=3', DIGITS)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'there is no config file'),
    ('def get_config(:\n', 'own.py, line 1: SyntaxError: invalid syntax'),
    ('import nothing_here', 'line 1: ModuleNotFoundError: No module named'),
    ('x = 1', 'own.py: it has no function get_config'),
    ('def get_config():\n  return {}["x"]', "own.py, line 2: KeyError: 'x'"),
    ('def get_config():\n  1 / 0', 'own.py, line 2: ZeroDivisionError: div'),
    ('def get_config():\n  open("/x/y")', 'line 2: FileNotFoundError'),
    ('def get_config():\n  pass', 'get_config returns NoneType, expected the'),
    ('def get_config(name):\n  pass', 'it needs a preset, as .*own.py:name'),
    ('\x00', 'own.py: '),
    (BASE.format('config.recipe.epochs = 1.5'), 'line 7: TypeError'),
    (BASE.format('config.recipe.epoch = 1'), "no field 'recipe.epoch'.*epochs"),
    (BASE.format('config.sedes = (1,)'), "no field 'sedes'.*mean 'seeds'"),
    (BASE.format('del config.recipe["gamma"]'), "no field 'recipe.gamma'"),
    (BASE.format('del config["progress"]'), "no field 'progress'"),
    (BASE.format('config.recipe.epochs = None'), 'epochs=None; expected a who'),
    (BASE.format('config["grid"] = 3'), "line 7: TypeError: .*field 'grid'"),
    (
      BASE.format('del config["grid"]; config.grid = 3'),
      'grid=3; expected the fields adversaries',
    ),
    (
      BASE.format("config_lib.change_recipe(config, 'cnn', epochs='3')"),
      "recipes.cnn.epochs='3'; expected a whole number",
    ),
    (
      BASE.format("config_lib.change_recipe(config, 'cnn', epoch=3)"),
      "no field 'recipes.cnn.epoch'.*mean 'epochs'",
    ),
  ],
)
def test_a_config_file_that_is_no_use_is_one_sentence(
  content, message, refused, tmp_path
):
  file = tmp_path / 'own.py'
  if content is not None:
    file.write_text(content)
  said = refused(f'--config={file}', '--config.limit=16')
  assert re.search(message, said), said


def test_a_config_file_without_presets_takes_none(refused, tmp_path):
  file = tmp_path / 'own.py'
  file.write_text('def get_config():\n  pass')
  said = refused(f'--config={file}:paper')
  assert "own.py: it has no presets; given 'paper'" in said


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('configs/cifar10.py:paper', "unknown preset 'paper'; known: article"),
    ('configs/digits.py:paper', "unknown preset 'paper'; known: all, tenth"),
    ('gs://bucket/x.py', 'config file=gs://bucket/x.py is no local path'),
    ('configs', 'there is no config file configs'),
    ('no/configs/digits.py', 'from any folder, --config=digits is that of'),
    ('', 'the config file is empty'),
  ],
)
def test_a_config_that_is_not_there_is_one_sentence(path, message, refused):
  assert message in refused(f'--config={path}')


def test_a_config_file_may_lie_at_home(parse, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.py').write_text(BASE.format('config.limit = 3'))
  assert parse('--config=~/own.py').limit == 3


def test_a_command_may_have_a_config_of_its_own(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['main'])
  with flagsaver.flagsaver():
    command.parse(['main'], default='configs/digits.py')
    assert command.CONFIG.value.dataset == 'digits'
    flags.FLAGS['config'].unparse()
    with pytest.raises(SystemExit, match='error: .*no config file nope.py'):
      command.parse(['main'], default='nope.py')


def test_without_a_config_one_is_asked_for(parse):
  parse()
  with pytest.raises(errors.InputError, match='there is no --config; name a f'):
    command.config()


@pytest.mark.parametrize(
  'named',
  [
    "config.defenses = ('nasty', 'own_folder.bent')",
    "config.arena.defenses = ('nasty', 'own_folder.bent:weight=3.0')",
  ],
)
def test_a_file_may_name_a_method_of_ones_own(
  named, parse, tmp_path, monkeypatch
):
  """Whose settings the command line then sets."""
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_folder').mkdir()
  (tmp_path / 'own_folder' / 'bent.py').write_text(
    'import dataclasses\n'
    "PARENTS, make = ('normal',), None\n"
    '@dataclasses.dataclass(frozen=True)\n'
    'class Settings:\n'
    '  weight: float = 1.0\n'
    'def serve(query, settings): pass\n'
  )
  file = tmp_path / 'named.py'
  file.write_text(BASE.format(named))
  found = parse(f'--config={file}', '--config.bent.weight=2.0')
  assert found.bent.weight == 2.0


def test_what_a_file_names_wrongly_is_one_sentence(refused, tmp_path):
  file = tmp_path / 'named.py'
  file.write_text(BASE.format("config.attacks = ('own_folder.nobody',)"))
  assert "'own_folder.nobody' cannot be imported" in refused(f'--config={file}')


def test_a_module_of_ones_own_that_fails_is_one_sentence(
  refused, tmp_path, monkeypatch
):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_broken.py').write_text('1 / 0')
  (tmp_path / 'own_package').mkdir()
  for name, content, message in (
    ('raises', '1 / 0', 'cannot be imported .ZeroDivisionError: division'),
    ('syntax', 'def f(:', 'cannot be imported .SyntaxError: invalid'),
    ('empty', '', 'has no make'),
    (
      'bare',
      'make, PARENTS, Settings = lambda *_: None, (), 2',
      'its Settings are no data',
    ),
    (
      'number',
      'make, PARENTS, Settings = 1, (), 2',
      r'cannot be called as make\(model, optimizer, settings, parents\)',
    ),
    (
      'served',
      'make, PARENTS, Settings = None, (), 2\ndef serve(logits): pass',
      r'its serve cannot be called as serve\(query, settings\): too many',
    ),
    ('orphan', 'make, Settings = 1, 2', 'has no PARENTS'),
    ('idle', 'make, PARENTS, Settings = None, (), 2', 'neither trains .* nor'),
  ):
    (tmp_path / 'own_package' / f'{name}.py').write_text(content)
    said = refused(DIGITS, f'--config.defenses=("own_package.{name}",)')
    assert re.search(message, said), said


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_what_a_terminal_cannot_show_is_replaced(encoding, monkeypatch):
  written = io.BytesIO()
  stream = io.TextIOWrapper(written, encoding=encoding, write_through=True)
  monkeypatch.setattr(sys, 'stdout', stream)
  terminal.be_printable()
  print('98.5 ± 0.2 · ── 数')
  expected = {
    'ascii': b'98.5 +- 0.2 . -- ?\n',
    'latin-1': '98.5 ± 0.2 · -- ?\n'.encode('latin-1'),
    'utf-8': '98.5 ± 0.2 · ── 数\n'.encode(),
  }
  assert written.getvalue() == expected[encoding]


def test_a_config_for_every_field_is_right_as_it_is():
  config_lib.check(config_lib.base())
