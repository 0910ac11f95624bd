"""What XLA and the system are told about CPUs, and whom it leaves alone."""

import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from undistillable import cpu

BOTH = cpu._ONEDNN, cpu._NO_YNN
ROOT = pathlib.Path(__file__).parents[1]
HAS_IT = cpu._ONEDNN in cpu._FLAGS
# Writes outputs and gradients; of three programs prints how many convolutions
# are oneDNN's, and how many are not.
PROGRAM = """
import itertools, sys
import jax, numpy as np
from undistillable import cpu
from undistillable.models import convolution

cpu.use_fast_convolutions()

def both(x, kernel, groups, strides, padding):
  def fn(x, kernel):
    return convolution.conv(
      x, kernel, groups=groups, strides=strides, padding=padding)
  y, vjp = jax.vjp(fn, x, kernel)
  return y, *vjp(np.cos(np.arange(y.size)).reshape(y.shape).astype('float32'))

def count(compiled):
  text = compiled.as_text()
  print(text.count('custom_call_target="__onednn$convolution"'),
        text.count(' convolution('))

found = {}
for given in itertools.product((1, 8), (1, 2, 3), (1, 2), (0, 1, 4)):
  groups, side, *rest = given
  x = np.sin(np.arange(4 * 9 * 8 * 8)).reshape(4, 9, 8, 8).astype('float32')
  kernel = np.sin(np.arange(side * side * 8 * 8 // groups).astype('float32'))
  kernel = kernel.reshape(side, side, -1, 8)
  jitted = jax.jit(both, static_argnums=(2, 3, 4))
  compiled = jitted.lower(x, kernel, groups, *rest).compile()
  for i, array in enumerate(compiled(x, kernel)):
    found[f'{given} {i}'] = array
  if given[1:] == (3, 1, 1):
    count(compiled)
x, kernel = np.ones((8, 16, 16, 32), 'f'), np.ones((3, 3, 32, 32), 'f')
count(jax.jit(convolution.conv).lower(x, kernel).compile())
np.savez(sys.argv[1], **found)
"""


def _run(*command, **variables):
  environ = {k: v for k, v in os.environ.items() if k not in variables}
  environ |= {k: v for k, v in variables.items() if v is not None}
  return subprocess.run(
    [sys.executable, *command],
    env=environ,
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.skipif(not HAS_IT, reason='this jaxlib has no oneDNN')
def test_convolutions_are_left_to_onednn_and_answer_the_same(tmp_path):
  given = {
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': None,
  }
  printed, found = [], []
  for flags in (None, '--xla_cpu_experimental_onednn_custom_call=false'):
    file = tmp_path / f'{len(found)}.npz'
    done = _run('-c', PROGRAM, str(file), XLA_FLAGS=flags, **given)
    assert done.returncode == 0, done.stderr
    printed.append(done.stdout.splitlines())
    found.append(dict(np.load(file)))
  # Outputs and both gradients; that of a depthwise kernel is no convolution.
  # The last has as many channels as YNNPACK would take.
  assert printed[0] == ['3 0', '2 0', '1 0']
  assert [line[:2] for line in printed[1]] == ['0 '] * 3
  assert found[0].keys() == found[1].keys()
  for name, actual in found[0].items():
    np.testing.assert_allclose(actual, found[1][name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
  ('flags', 'cache', 'knows', 'expected'),
  [
    ('', None, BOTH, True),
    ('--xla_dump_to=there', None, BOTH, True),
    ('', 'folder', BOTH, False),  # Its programs cannot be kept.
    ('', None, (cpu._NO_YNN,), False),
    ('', None, (), False),
    ('--xla_cpu_experimental_onednn_custom_call=false', None, BOTH, False),
    ('--xla_cpu_experimental_ynn_fusion_type=', None, BOTH, False),
  ],
)
def test_onednn_is_used_where_it_can_be_and_nothing_else_is_said(
  flags, cache, knows, expected, monkeypatch
):
  monkeypatch.setenv('XLA_FLAGS', flags)
  monkeypatch.setattr(cpu, '_FLAGS', knows)
  config = types.SimpleNamespace(
    jax_enable_compilation_cache=True, jax_compilation_cache_dir=cache
  )
  monkeypatch.setattr(cpu.jax, 'config', config)
  cpu.use_fast_convolutions()
  once = os.environ['XLA_FLAGS']
  cpu.use_fast_convolutions()
  assert os.environ['XLA_FLAGS'] == once
  assert cpu.has_onednn() == expected
  keeps = cache is not None or 'nn' in flags
  assert once.split() == [*flags.split(), *(() if keeps else knows)]


def _starts_again(
  monkeypatch,
  argv=('python', '-m', 'undistillable.main', '--config=digits'),
  runs='undistillable.main',
  tunables=None,
  setting='always [madvise] never',
  library='glibc',
  plugins=False,
):
  """What the process would start again as, or None."""
  monkeypatch.setattr(sys, 'orig_argv', list(argv))
  spec = None if runs is None else types.SimpleNamespace(name=runs)
  main = types.SimpleNamespace(__spec__=spec)
  monkeypatch.setitem(sys.modules, '__main__', main)
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  if tunables is not None:
    monkeypatch.setenv('GLIBC_TUNABLES', tunables)
  monkeypatch.setattr(cpu, '_HAS_PLUGINS', plugins)
  monkeypatch.setattr(cpu.platform, 'libc_ver', lambda: (library, '2.36'))
  monkeypatch.setattr(pathlib.Path, 'read_text', lambda self: setting)
  started = []
  monkeypatch.setattr(os, 'execv', lambda *given: started.append(given))
  cpu.use_huge_pages()
  return started[0] if started else None


@pytest.mark.parametrize(
  ('given', 'tunables'),
  [
    ({}, 'glibc.malloc.hugetlb=1'),
    (
      {'tunables': 'glibc.malloc.arena_max=1'},
      'glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1',
    ),
    (
      {'argv': ('python', '/venv/bin/undistillable', 'run', '--config=a')},
      'glibc.malloc.hugetlb=1',
    ),
    (
      {
        'argv': ('python', '-X', 'dev', '-m', 'experiments.arena', '-m'),
        'runs': 'experiments.arena',
      },
      'glibc.malloc.hugetlb=1',
    ),
  ],
)
def test_a_command_starts_again_with_its_whole_line(
  given, tunables, monkeypatch
):
  program, line = _starts_again(monkeypatch, **given)
  default = ('python', '-m', 'undistillable.main', '--config=digits')
  assert program == line[0] == sys.executable
  assert line[1:] == list(given.get('argv', default)[1:])
  assert os.environ['GLIBC_TUNABLES'] == tunables


@pytest.mark.parametrize(
  'given',
  [
    {'tunables': 'glibc.malloc.hugetlb=0'},
    {'tunables': 'glibc.malloc.hugetlb=1'},  # It has started again.
    {'setting': '[always] madvise never'},
    {'setting': 'always madvise [never]'},
    {'library': ''},
    {'plugins': True},
    {'argv': ('python', 'mine.py'), 'runs': None},
    {'argv': ('python', 'mine.py'), 'runs': 'undistillable.main'},
    {'argv': ('python', '-m', 'pdb', '-m', 'undistillable.main')},
    {'argv': ('pytest', 'tests/cpu_test.py'), 'runs': 'pytest'},
    {'argv': ('python', '-m', 'mine', '--x'), 'runs': 'mine'},
    {'argv': ('python',), 'runs': None},
  ],
)
def test_whoever_else_runs_is_left_alone(given, monkeypatch):
  assert _starts_again(monkeypatch, **given) is None
  assert os.environ.get('GLIBC_TUNABLES') == given.get('tunables')


def test_a_command_that_starts_again_says_what_it_says_once():
  command = '-m', 'undistillable.main', '--config=there/is/none.py'
  again = _run(*command, GLIBC_TUNABLES=None)
  plain = _run(*command, GLIBC_TUNABLES='glibc.malloc.hugetlb=0')
  assert again.stderr == plain.stderr
  assert again.stderr.count('there is no config file') == 1
  assert again.returncode == plain.returncode == 1
