"""The networks of the article and its released code, by name."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from undistillable import errors
from undistillable.models import (
  airbench,
  black_box,
  cnn,
  densenet,
  mlp,
  mobilenetv2,
  resnet,
  resnetc,
  resnext,
  shufflenetv2,
)

MODELS: dict[str, Callable[..., nn.Module]] = {
  'airbench93': functools.partial(airbench.Airbench, widths=(64, 128, 128)),
  'airbench94': airbench.Airbench,
  'cnn': cnn.CNN,
  'cnn16': functools.partial(cnn.CNN, width=16),
  'cnn4': functools.partial(cnn.CNN, width=4),
  'cnn8': functools.partial(cnn.CNN, width=8),
  'densenet121': densenet.DenseNet,
  'densenet161': functools.partial(
    densenet.DenseNet, block_sizes=(6, 12, 36, 24), growth=48
  ),
  'densenet169': functools.partial(
    densenet.DenseNet, block_sizes=(6, 12, 32, 32)
  ),
  'densenet201': functools.partial(
    densenet.DenseNet, block_sizes=(6, 12, 48, 32)
  ),
  'mlp': mlp.MLP,
  'mobilenetv2': mobilenetv2.MobileNetV2,
  'resnet18': functools.partial(resnet.ResNet, stage_sizes=(2, 2, 2, 2)),
  'resnet34': functools.partial(resnet.ResNet, stage_sizes=(3, 4, 6, 3)),
  'resnet50': functools.partial(
    resnet.ResNet, block=resnet.bottleneck, stage_sizes=(3, 4, 6, 3)
  ),
  'resnetc110': functools.partial(resnetc.ResNetC, depth=110),
  'resnetc14': functools.partial(resnetc.ResNetC, depth=14),
  'resnetc20': functools.partial(resnetc.ResNetC, depth=20),
  'resnetc32': functools.partial(resnetc.ResNetC, depth=32),
  'resnetc44': functools.partial(resnetc.ResNetC, depth=44),
  'resnetc56': functools.partial(resnetc.ResNetC, depth=56),
  'resnetc8': functools.partial(resnetc.ResNetC, depth=8),
  'resnext29': resnext.ResNeXt29,
  'shufflenetv2': shufflenetv2.ShuffleNetV2,
}


def get_model(name: str, num_classes: int, **overrides: Any) -> nn.Module:
  """The network `name` with `num_classes` outputs.

  Args:
    name: a key of `MODELS`, or of what `black_box.know` has made known.
    num_classes: K >= 2.
    **overrides: fields of the module; all have those of `layers.Network`.

  Returns:
    A module: images float[B, H, W, C] -> logits float32[B, K]. It sows its
    penultimate features as float32[B, F] under ('intermediates', 'features'),
    and what its stages put out, float[B, H, W, C] each, in order of depth
    under ('intermediates', 'stages'); the MLP has none.

  Raises:
    ValueError: for an unknown name, or fewer than two classes.

  Example:
    >>> model = get_model('resnetc20', 10)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> model.apply(variables, jnp.zeros((5, 32, 32, 3))).shape
    (5, 10)
  """
  make = MODELS.get(name) or black_box.KNOWN.get(name)
  if make is None:
    close = difflib.get_close_matches(name, MODELS, n=1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    known = ', '.join(sorted(MODELS))
    raise errors.InputError(f'unknown model {name!r}; known: {known}{hint}')
  if num_classes < 2:
    raise errors.InputError(
      f'num_classes must be at least 2; got {num_classes}'
    )
  return make(num_classes=num_classes, **overrides)
