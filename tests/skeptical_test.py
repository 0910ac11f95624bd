"""Skeptical: where it listens in every network, and who hears what of whom."""

import dataclasses
import functools
import re

import config_files
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest

from undistillable import models, oracle
from undistillable.attacks import skeptical
from undistillable.graph import plan, runs

RNG = jax.random.key(1)
_RESNET = ('conv1|bn1|layer1', 'layer2', 'layer3', 'layer4')
_RESNETC = ('conv1|layer1', 'layer2', 'layer3')
_DENSENET = (
  r'conv1|features\.dense_block_layer_0',
  r'features\.transition_layer_0|features\.dense_block_layer_1',
  r'features\.transition_layer_1|features\.dense_block_layer_2',
  r'features\.transition_layer_2|features\.dense_block3',
)
# Of a family: the layers that each stage adds to those before.
LAYERS = {
  'airbench': (r'whiten|layers\.0', r'layers\.1', r'layers\.2'),
  'cnn': ('conv1|bn1', 'conv2|bn2', 'conv3|bn3'),
  'densenet': _DENSENET,
  'mlp': (),
  'mobilenetv': (
    r'pre|stage1\.|stage2\.',
    r'stage3\.|stage4\.',
    r'stage5\.|stage6\.',
    r'stage7\.',
  ),
  'resnet': _RESNET,
  'resnetc': _RESNETC,
  'resnext': (r'conv_1_|bn_1|stage_1\.', r'stage_2\.', r'stage_3\.'),
  'shufflenetv': (r'pre|stage2\.', r'stage3\.', r'stage4\.'),
}
# Of images of 32x32 pixels: pixels a side, and channels, at each stage's end.
_FOUR, _THREE = (32, 16, 8, 4), (32, 16, 8)
ENDS = {
  'airbench93': ((15, 7, 3), (64, 128, 128)),
  'airbench94': ((15, 7, 3), (64, 256, 256)),
  'cnn': (_THREE, (32, 64, 128)),
  'cnn16': (_THREE, (16, 32, 64)),
  'cnn4': (_THREE, (4, 8, 16)),
  'cnn8': (_THREE, (8, 16, 32)),
  'densenet121': (_FOUR, (256, 512, 1024, 1024)),
  'densenet161': (_FOUR, (384, 768, 2112, 2208)),
  'densenet169': (_FOUR, (256, 512, 1280, 1664)),
  'densenet201': (_FOUR, (256, 512, 1792, 1920)),
  'mlp': ((), ()),
  'mobilenetv2': ((17, 5, 5, 5), (24, 64, 160, 320)),
  'resnet18': (_FOUR, (64, 128, 256, 512)),
  'resnet34': (_FOUR, (64, 128, 256, 512)),
  'resnet50': (_FOUR, (256, 512, 1024, 2048)),
  'resnetc110': (_THREE, (64, 128, 256)),
  'resnetc14': (_THREE, (16, 32, 64)),
  'resnetc20': (_THREE, (16, 32, 64)),
  'resnetc32': (_THREE, (16, 32, 64)),
  'resnetc44': (_THREE, (64, 128, 256)),
  'resnetc56': (_THREE, (64, 128, 256)),
  'resnetc8': (_THREE, (16, 32, 64)),
  'resnext29': (_THREE, (256, 512, 1024)),
  'shufflenetv2': ((16, 8, 4), (116, 232, 464)),
}


def _layers_before(jaxpr, output, names):
  """Of a traced program, the names of the inputs that an output depends on.

  What is computed inside of an operation counts as a whole.
  """
  needed = {output}
  for equation in reversed(jaxpr.eqns):
    if needed.intersection(equation.outvars):
      # Numbers that are written into the program are no variables.
      needed |= {x for x in equation.invars if not hasattr(x, 'val')}
  return {
    name
    for name, variable in zip(names, jaxpr.invars, strict=True)
    if variable in needed
  }


def _gets_past(jaxpr, output, start, end):
  """Whether an input has a say in another output in any way but through one."""
  reached = {start}
  for equation in jaxpr.eqns:
    read = [x for x in equation.invars if not hasattr(x, 'val')]
    if reached.intersection(read):
      reached |= set(equation.outvars) - {output}
  return end in reached


@functools.cache
def _traced(name):
  """The feature maps of a network, the layers with a say in each, all layers.

  And whether anything of the images gets to the logits in another way.
  """
  model, images = models.get_model(name, 10), jnp.zeros((2, 32, 32, 3))
  variables = jax.eval_shape(model.init, RNG, images)

  def maps(params, images):
    logits, sown = model.apply(
      {'params': params, 'batch_stats': stats},
      images,
      mutable=['intermediates'],
      capture_intermediates=True,
    )
    return skeptical.feature_maps(sown['intermediates']), logits

  stats = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), variables.get('batch_stats', {})
  )
  params = variables['params']
  jaxpr = jax.make_jaxpr(maps)(params, images).jaxpr
  names = [path[0].key for path, _ in jax.tree.leaves_with_path(params)]
  *outputs, logits = jaxpr.outvars
  return (
    [x.aval.shape for x in outputs],
    [_layers_before(jaxpr, x, [*names, '']) - {''} for x in outputs],
    set(names),
    [_gets_past(jaxpr, x, jaxpr.invars[-1], logits) for x in outputs],
  )


def _matching(patterns, names):
  whole = re.compile('|'.join(f'(?:{p})' for p in patterns) or '(?!)')
  return {name for name in names if whole.match(f'{name}.')}


def test_no_network_is_forgotten():
  assert list(ENDS) == sorted(models.MODELS)


@pytest.mark.parametrize('name', networks.NAMES)
def test_heads_listen_at_the_ends_of_stages(name):
  """To all that the next stage is told, and to no later layer."""
  shapes, heard, names, past = _traced(name)
  sides, channels = ENDS[name]
  assert [shape[1:3] for shape in shapes] == [(side, side) for side in sides]
  assert [shape[3] for shape in shapes] == list(channels)
  stages = LAYERS[name.rstrip('0123456789')]
  assert len(heard) == len(stages)
  for i, layers in enumerate(heard, start=1):
    assert layers == _matching(stages[:i], names)
  assert not any(past)


# Who hears what, in a network of three stages.

MODEL = models.get_model('resnetc8', 10)
WEIGHTS = {
  'delay_steps': 0,
  'alpha': 0.9,
  'self_weight': 0.3,
  'label_weight': 0.7,
}


def _batch(answers=5):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(8, 8, 8, 1)).astype(np.float32)
  said = 3.0 * np.random.default_rng(answers).normal(size=(8, 10))
  return {
    'image': images,
    'label': np.arange(8) % 3,
    'index': np.arange(8),
    'answers': {'teacher': said.astype(np.float32)},
  }


def _method(weights):
  settings = skeptical.Settings(loc=2, **weights)
  teacher = oracle.Oracle(functools.partial(MODEL.apply, train=False))
  return skeptical.make(MODEL, optax.sgd(0.1), settings, {'teacher': teacher})


@functools.cache
def _step():
  """Compiled once for all weights, which are arguments of it."""

  def step(weights, state, batch):
    return _method(weights).step(state, {}, batch, RNG)[0]

  return jax.jit(step)


@functools.cache
def _start():
  method = _method(WEIGHTS)
  return jax.jit(method.init)(jax.random.key(0), _batch(), {})


@functools.cache
def _update(answers=5, **changes):
  """The layers of the network, and its heads, after a step."""
  state = _step()({**WEIGHTS, **changes}, _start(), _batch(answers))
  return jax.device_get((state.params, state.extra))


def _changed(one, two):
  """The parts in which two trees differ, in any bit."""
  return {
    name
    for name in one
    if any(
      (x != y).any()
      for x, y in zip(
        *map(jax.tree.leaves, (one[name], two[name])), strict=True
      )
    )
  }


def _stages(number):
  return _matching(_RESNETC[:number], _start().params)


@pytest.mark.parametrize(
  ('changes', 'stages', 'head'),
  [
    ({'answers': 6}, 1, '2'),
    ({'self_weight': 3.0}, 2, '1'),
    ({'label_weight': 3.0}, 2, '1'),
  ],
)
def test_no_term_reaches_layers_behind_its_head(changes, stages, head):
  """Of those before it each one moves: all others, in no bit."""
  pairs = zip(_update(), _update(**changes), strict=True)
  layers, heads = (_changed(*pair) for pair in pairs)
  assert layers == _stages(stages)
  assert heads == {head}


def test_labels_alone_reach_the_whole_network_and_no_head():
  layers, heads = _update(delay_steps=1)
  assert _changed(layers, jax.device_get(_start().params)) == set(layers)
  assert not _changed(heads, jax.device_get(_start().extra))


def test_without_self_and_labels_the_deepest_head_stays():
  _, heads = _update(self_weight=0.0, label_weight=0.0)
  assert _changed(heads, jax.device_get(_start().extra)) == {'2'}


def test_runs_that_listen_elsewhere_than_before_have_other_names():
  """And no others: what was recorded of the CNNs holds."""
  config = config_files.load('digits')
  config.students, config.seeds = ('cnn8',), (0,)
  config.attacks = ('kd', 'skeptical')
  versions = {
    (method, name): dataclasses.replace(run, model=name).config['version']
    for method in ('kd', 'skeptical')
    for run in plan.make(config)[-4:]
    if run.method == method
    for name in models.MODELS
  }
  anew = {one for one, version in versions.items() if version != runs.VERSION}
  as_before = ('cnn', 'cnn16', 'cnn4', 'cnn8', 'mlp')
  assert anew == {('skeptical', one) for one in {*ENDS} - {*as_before}}
  # One's own may be made of what listens elsewhere now.
  run = next(r for r in plan.make(config) if r.method == 'skeptical')
  own = dataclasses.replace(run, model='wide18')
  assert own.config['version'] != runs.VERSION
