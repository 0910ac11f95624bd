"""What the documentation shows runs as it stands there, on tiny data."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import ml_collections
import pytest

from experiments import claims, scorecard
from undistillable import attacks, config as config_lib, defenses
from undistillable.models import __main__ as models_table

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.glob('*.md')) + sorted((DOCS / 'api').glob('*.md'))
# A fenced block, and the words before it.
_BLOCK = re.compile(
  r'([^\n]*)\n\n( *)```(python|sh|text)\n(.*?)^ *```', re.DOTALL | re.MULTILINE
)
_FILE = re.compile(r'`(my_package/\w+\.py)`:$')
_WORKDIRS = '/tmp/undistillable'
_MODULES = {'undistillable.export', 'undistillable.main'}
# What makes a command of a page small, where the page does not set it.
_TINY = {
  'seeds': '(0,)',
  'limit': '200',
  'recipe.epochs': '1',
  'max_accuracy_drop': '100.0',
  'progress': 'False',
}
_TINY_NETWORKS = {'teacher.model': 'cnn8', 'students': '("cnn8",)'}


def _names(paths):
  return [str(path.relative_to(DOCS)) for path in paths]


def _blocks(page):
  return [
    (before, kind, textwrap.dedent(text))
    for before, _, kind, text in _BLOCK.findall(page.read_text())
  ]


def _commands(text):
  """Those of modules, each in words, without what the shell reads."""
  lines = text.replace('\\\n', ' ').splitlines()
  split = [shlex.split(line, comments=True) for line in lines]
  return [words for words in split if _MODULES & set(words)]


RUN = [
  page
  for page in PAGES
  if any(kind == 'python' for _, kind, _ in _blocks(page))
  or page.name == 'scale.md'
]


def _of_report(words):
  """What a command left in its workdir."""
  (workdir,) = [w[10:] for w in words if w.startswith('--workdir=')]
  return json.loads(pathlib.Path(workdir, 'results.json').read_text())


def _protected(results):
  """The id of the first protected teacher, as a reader finds it in a table."""
  teachers = [run for run in results['runs'] if run['role'] == 'teacher']
  return next(run['id'] for run in teachers if run['method'] != 'none')


def _run(words, folder):
  """A command of a page, small, in a folder of its own."""
  if '--run=ID' in words:
    words[words.index('--run=ID')] = f'--run={_protected(_of_report(words))}'
  start = words.index('python')
  given = dict(word.split('=', 1) for word in words[:start])
  tiny = dict(_TINY, data_dir=f'{folder}/data')
  if any(word == '--config=configs/digits.py' for word in words):
    tiny |= _TINY_NETWORKS
  is_main = bool({'undistillable.main', 'undistillable.audit'} & set(words))
  flags = [
    f'--config.{name}={value}'
    for name, value in tiny.items()
    if is_main
    and not any(word.startswith(f'--config.{name}=') for word in words)
  ]
  done = subprocess.run(
    [sys.executable, *words[start + 1 :], *flags],
    cwd=folder,
    env={**os.environ, **given, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert not is_main or 'Report:' in done.stdout
  if devices := given.get('JAX_NUM_CPU_DEVICES'):
    assert _of_report(words)['environment']['devices'] == devices
  return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN, ids=_names(RUN))
def test_the_examples_of_a_page(page, tmp_path, monkeypatch, capsys):
  """Its blocks in their order: files are written, code and commands run."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  (tmp_path / 'my_package').mkdir()
  names, printed = {'__name__': 'page'}, ''
  for before, kind, text in _blocks(page):
    text = text.replace(_WORKDIRS, str(tmp_path / 'work'))
    file = _FILE.search(before)
    if kind == 'python' and file:
      (tmp_path / file[1]).write_text(text)
    elif kind == 'python':
      code = compile(text.replace('epochs=20', 'epochs=2'), page.name, 'exec')
      exec(code, names)
      printed = capsys.readouterr().out
    elif kind == 'sh':
      for words in _commands(text):
        said = _run(words, tmp_path)
        for own in re.findall(r'my_package\.(\w+)', ' '.join(words)):
          assert own in said
    elif before == 'prints':
      assert printed == text


@pytest.mark.parametrize('page', PAGES, ids=_names(PAGES))
def test_its_commands_name_fields_that_there_are(page):
  base = config_lib.base()
  own = set(re.findall(r'`my_package/(\w+)\.py`', page.read_text()))
  for name in re.findall(r'--config\.([\w.]+)=', page.read_text()):
    if name.partition('.')[0] in own:
      continue
    field = base
    for part in name.split('.'):
      assert isinstance(field, ml_collections.ConfigDict), name
      assert part in field, name
      field = field[part]


@pytest.mark.parametrize('page', PAGES, ids=_names(PAGES))
def test_the_files_that_it_links_are_there(page):
  for target in re.findall(r'\]\((?!http)([^)#]+)[^)]*\)', page.read_text()):
    assert (page.parent / target).exists(), target


@pytest.mark.parametrize('dataset', ['digits', 'cifar10', 'cifar100'])
def test_the_claims_are_those_of_the_recorded_results(dataset):
  text = (DOCS / 'article.md').read_text()
  column = ('digits', 'cifar10', 'cifar100').index(dataset) + 2
  rows = {
    cells[0]: cells
    for line in text.splitlines()
    if line.startswith('|')
    for cells in [[cell.strip() for cell in line.strip('|').split('|')]]
    if len(cells) == 6
  }
  recorded = scorecard.read(ROOT / 'experiments' / 'results' / dataset)
  verdicts = claims.judge(recorded)
  assert len(verdicts) == len(claims.CLAIMS)
  for verdict in verdicts:
    row = rows[str(verdict.number)]
    assert row[1] == verdict.text
    assert row[column] == verdict.status
    assert verdict.evidence in text


def test_the_claims_of_a_full_size_network_are_those_recorded():
  text = (DOCS / 'article.md').read_text()
  _, found = text.split('\n### CIFAR-10, a ResNet-18\n')
  found, _ = found.split('\n## ', 1)
  recorded = scorecard.read(ROOT / 'experiments/results/cifar10_released')
  expected = [
    f'| {verdict.number} | {verdict.status} | {verdict.evidence} |'
    for verdict in claims.judge(recorded)
    if verdict.status != 'not run'
  ]
  rows = [line for line in found.splitlines() if line.startswith('|')]
  assert rows[2:] == expected


@pytest.mark.whole
def test_the_table_of_networks_is_what_the_command_prints():
  rows = re.findall(
    r'^\| `(\w+)` \| ([\d,]+) \| ([\d,.]+) M \|',
    (DOCS / 'networks.md').read_text(),
    re.M,
  )
  assert len(rows) >= 10
  for name, *counts in rows:
    size = models_table.size(name)
    expected = [f'{size.parameters:,}', f'{size.multiply_adds / 1e6:,.1f}']
    assert counts == expected, name


@pytest.mark.parametrize(
  'known', [attacks.ATTACKS, defenses.DEFENSES], ids=['attacks', 'defenses']
)
def test_every_method_has_its_row(known):
  rows = re.findall(r'^\| `(\w+)` \|', (DOCS / 'methods.md').read_text(), re.M)
  assert set(known) <= set(rows)
