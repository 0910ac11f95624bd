"""What the README shows runs as it stands there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from experiments import claims, scorecard
from undistillable import models
from undistillable.report import table

README = pathlib.Path(__file__).parents[1] / 'README.md'
COLUMNS = 'digits', 'cifar10', 'cifar100'  # Of its table of claims.


def _block(containing):
  blocks = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
  return next(block for block in blocks if containing in block)


def test_the_loss_enters_a_training_loop_of_ones_own():
  names = {'model': models.get_model('mlp', 10)}
  exec(_block('losses.self_undermining'), names)
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.normal(size=(16, 8, 8, 1)).astype(np.float32),
    'adversary_logits': rng.normal(size=(16, 10)).astype(np.float32),
    'label': np.arange(16) % 10,
  }
  params = names['model'].init(jax.random.key(0), batch['image'])
  optimizer = optax.sgd(0.01)
  opt_state = optimizer.init(params)
  step = jax.jit(jax.value_and_grad(names['loss_fn']))
  losses = []
  for _ in range(10):
    loss, grads = step(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  assert losses[-1] < losses[0]


@pytest.mark.whole
def test_ones_own_model_is_protected_in_a_dozen_lines(
  capsys, monkeypatch, tmp_path
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  block = _block('defenses.nasty.make')
  lines = [line for line in block.splitlines() if line and 'import' not in line]
  assert len(lines) <= 12
  quick = {'epochs=20': 'epochs=2', 'resnetc8': 'mlp'}
  for shown, instead in quick.items():
    assert shown in block
    block = block.replace(shown, instead)
  exec(block, {})
  printed = re.search(r"'accuracy': ([\d.]+)", capsys.readouterr().out)
  assert float(printed.group(1)) > 50


@pytest.mark.whole
def test_ones_own_defense_is_twenty_lines(tmp_path):
  block = _block('class Settings')
  code = [line for line in block.splitlines() if line.strip()]
  assert len(code) <= 22
  (tmp_path / 'my_package').mkdir()
  (tmp_path / 'my_package' / 'flatter.py').write_text(block)
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'undistillable.main',
      '--config=configs/digits.py',
      f'--workdir={tmp_path}/work',
      f'--config.data_dir={tmp_path}/data',
      '--config.defenses=("my_package.flatter",)',
      '--config.flatter.weight=0.3',
      '--config.teacher.model=mlp',
      '--config.students=("mlp",)',
      '--config.seeds=(0,)',
      '--config.recipe.epochs=1',
      '--config.limit=200',
      '--config.max_accuracy_drop=100.0',
    ],
    cwd=README.parent,
    env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  assert 'kd from flatter mlp' in done.stdout
  (teacher,) = [
    run
    for run in json.loads((tmp_path / 'work/results.json').read_text())['runs']
    if run['method'] == 'flatter'
  ]
  assert teacher['config']['settings'] == {'weight': 0.3}


def test_the_files_that_it_names_are_there():
  targets = re.findall(r'\]\(((?!http)[^)]+)\)', README.read_text())
  assert targets
  for target in targets:
    assert (README.parent / target).exists(), target


@pytest.mark.parametrize('dataset', COLUMNS)
def test_its_claims_are_those_of_the_recorded_results(dataset):
  recorded = scorecard.read(README.parent / 'experiments/results' / dataset)
  place = COLUMNS.index(dataset)
  rows = re.findall(
    r'^\| (\d+) \| ([^|]+)' + 3 * r' \| (\w[\w ]*)' + r' \|$',
    README.read_text(),
    re.M,
  )
  verdicts = claims.judge(recorded)
  assert len(rows) == len(verdicts) == len(claims.CLAIMS)
  for (number, text, *statuses), verdict in zip(rows, verdicts, strict=True):
    assert (int(number), text) == (verdict.number, verdict.text)
    assert statuses[place] == verdict.status


def test_its_table_of_cifar10_is_that_of_the_recorded_report():
  folder = README.parent / 'experiments/results/cifar10'
  results = json.loads((folder / 'results.json').read_text())
  *shown, sentence = table.text(results['summary']).split('\n')
  text = README.read_text()
  assert '\n'.join(shown) in text
  assert sentence in ' '.join(text.split())  # Its lines are shorter.
