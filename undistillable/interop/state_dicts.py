"""From a PyTorch state dict to Flax variables and back.

There is no table of names: a Flax module carries the path of its PyTorch
counterpart as its name (`layer1.0.conv1`), so only the leaves are renamed, and
kernels transposed from OIHW to HWIO, or from (out, in) to (in, out).
"""

import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from undistillable import errors, models

_LEAVES = {
  'bias': 'bias',
  'kernel': 'weight',
  'mean': 'running_mean',
  'scale': 'weight',
  'var': 'running_var',
}
# Where training scripts put the weights, beside the epoch and the optimiser.
WRAPPERS = (
  'state_dict',
  'model_state_dict',
  'model_state',
  'model',
  'module',
  'net',
  'network',
  'weights',
)
# What DataParallel and torch.compile put into names, wherever they wrap.
_WRAPPED = re.compile(r'^(?:module\.)+|(?<![^.])_orig_mod\.')
# PyTorch's tensor names to (our path: collection, module, leaf; its shape).
_Template = dict[str, tuple[tuple[str, str, str], tuple[int, ...]]]
_SHOWN = 5  # Names listed for each kind of problem; the rest are counted.


def from_torch(
  name: str, state_dict: Mapping[str, Any], **overrides: Any
) -> dict[str, Any]:
  """Variables of the model `name` from a PyTorch state dict.

  The number of classes and of input channels are read off the tensors, as is
  the size of the images where it matters.

  Args:
    name: a key of `models.MODELS`.
    state_dict: tensor names to arrays (NumPy, JAX or PyTorch), or a checkpoint
      that holds them as 'state_dict', 'model', 'net' or the like. What
      DataParallel and `torch.compile` put into names is dropped, as are
      `num_batches_tracked` and the name of an attribute under which a larger
      module, as of Lightning, holds the network.
    **overrides: fields of the module, as for `models.get_model`.

  Returns:
    {'params': ..., 'batch_stats': ...} of float32 NumPy arrays; the latter is
    absent where the network has no BatchNorm.

  Raises:
    ValueError: naming the missing, unexpected and misshapen tensors.

  Example:
    >>> shapes = {'fc1': (512, 192), 'fc2': (512, 512), 'fc3': (10, 512)}
    >>> state_dict = {f'{k}.weight': np.ones(v) for k, v in shapes.items()}
    >>> state_dict |= {f'{k}.bias': np.ones(v[0]) for k, v in shapes.items()}
    >>> from_torch('mlp', state_dict)['params']['fc3']['kernel'].shape
    (512, 10)
  """
  tensors = _within(_clean(state_dict), _draft(name, overrides))
  expected = _fit(name, tensors, overrides)
  variables: dict[str, Any] = {}
  for tensor_name, (path, _) in expected.items():
    collection, module, leaf = path
    array = tensors[tensor_name]
    if leaf == 'kernel':
      array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    array = np.ascontiguousarray(array)
    variables.setdefault(collection, {}).setdefault(module, {})[leaf] = array
  return variables


def to_torch(
  name: str, variables: Mapping[str, Any], **overrides: Any
) -> dict[str, np.ndarray]:
  """The PyTorch state dict of `variables`, in PyTorch's order of tensors.

  The inverse of `from_torch`, bit for bit. Wrap every value in
  `torch.from_numpy` and give it to `load_state_dict(..., strict=False)`, which
  forgives the counters `num_batches_tracked` that we do not keep.

  Args:
    name: a key of `models.MODELS`.
    variables: {'params': ..., 'batch_stats': ...}.
    **overrides: as for `from_torch`.

  Returns:
    float32 arrays by tensor name.

  Raises:
    ValueError: naming the missing, unexpected and misshapen tensors.

  Example:
    >>> model = models.get_model('cnn8', 10)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> to_torch('cnn8', variables)['conv1.weight'].shape
    (8, 1, 3, 3)
  """
  tensors = {}
  _check_depth(name, variables)
  for collection in ('params', 'batch_stats'):
    for module, leaves in variables.get(collection, {}).items():
      for leaf, value in leaves.items():
        array = np.asarray(value, dtype=np.float32)
        if leaf == 'kernel':
          array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        tensors[_tensor_name(module, leaf)] = array
  expected = _fit(name, tensors, overrides)
  return {key: np.ascontiguousarray(tensors[key]) for key in expected}


def _check_depth(name: str, variables: Mapping[str, Any]) -> None:
  """Raises InputError where a network has modules in modules."""
  for collection in ('params', 'batch_stats'):
    for module, leaves in variables.get(collection, {}).items():
      inner = [k for k, v in leaves.items() if isinstance(v, Mapping)]
      if inner:
        raise errors.InputError(
          f'{name!r} has modules in modules, as {module}/{inner[0]}, whose '
          'PyTorch names no rule tells; a block of one level names its layers '
          f'with dots, as {module}.{inner[0]}'
        )


def unwrap(checkpoint: Any) -> Any:
  """The state dict in a checkpoint of a training script; others as they are."""
  while isinstance(checkpoint, Mapping):
    inner = [
      checkpoint[wrapper]
      for wrapper in WRAPPERS
      if isinstance(checkpoint.get(wrapper), Mapping)
    ]
    if not inner:
      break
    checkpoint = inner[0]
  return checkpoint


def _tensor_name(module: str, leaf: str) -> str:
  return f'{module}.{_LEAVES.get(leaf, leaf)}'


def _clean(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """float32 arrays by name, without DataParallel's prefix and counters."""
  tensors: dict[str, np.ndarray] = {}
  for key, value in unwrap(state_dict).items():
    name = str(key)
    while (shorter := _WRAPPED.sub('', name)) != name:
      name = shorter
    if name.endswith('num_batches_tracked'):
      continue
    if name in tensors:
      raise ValueError(
        f'{name} is there twice, with and without "module." or "_orig_mod."'
      )
    if hasattr(value, 'detach'):  # A PyTorch tensor, perhaps bfloat16.
      value = value.detach().cpu().float()
    if np.iscomplexobj(value):
      raise ValueError(f'{key} is complex; expected real numbers')
    try:
      tensors[name] = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'{key} is no tensor but a {type(value).__name__}; pass the state dict '
        'alone'
      ) from error
  return tensors


def _within(
  tensors: dict[str, np.ndarray], expected: Collection[str]
) -> dict[str, np.ndarray]:
  """The tensors of a network that is an attribute of a larger module.

  Where all names that are expected stand behind one prefix, as in
  'model.conv1.weight', those behind it, without it; otherwise all.
  """
  first, *_ = expected
  prefixes = [
    prefix
    for name in tensors
    if name.endswith(f'.{first}')
    and all(
      (prefix := name.removesuffix(first)) + k in tensors for k in expected
    )
  ]
  if len(prefixes) != 1 or first in tensors:
    return tensors
  return {
    name.removeprefix(prefixes[0]): array
    for name, array in tensors.items()
    if name.startswith(prefixes[0])
  }


@functools.lru_cache(maxsize=64)
def _template(
  name: str,
  num_classes: int,
  image_shape: tuple[int, int, int],
  overrides: tuple[tuple[str, Any], ...],
) -> _Template:
  """PyTorch's tensor names, in its order, to (our path, PyTorch's shape)."""
  model = models.get_model(name, num_classes, **dict(overrides))
  order: list[str] = []

  def init() -> Any:
    variables = model.init(
      jax.random.key(0), jnp.zeros((1, *image_shape), jnp.float32)
    )
    # A tree that leaves a traced function comes back sorted, so look inside.
    order.extend(variables['params'])
    return variables

  variables = jax.eval_shape(init)
  _check_depth(name, variables)
  template: _Template = {}
  for module in order:
    for collection, leaf in (
      ('params', 'kernel'),
      ('batch_stats', 'kernel'),  # Of what is not trained.
      ('params', 'scale'),
      ('params', 'bias'),
      ('batch_stats', 'mean'),
      ('batch_stats', 'var'),
    ):
      value = variables.get(collection, {}).get(module, {}).get(leaf)
      if value is not None:
        shape = value.shape
        if leaf == 'kernel':
          shape = shape[:1:-1] + shape[:2] if len(shape) == 4 else shape[::-1]
        path = (collection, module, leaf)
        template[_tensor_name(module, leaf)] = (path, shape)
  return template


def _fit(
  name: str, tensors: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> _Template:
  """The template of `name` whose shapes `tensors` have, or a ValueError."""
  draft = _draft(name, overrides)
  last = next(reversed(draft))
  known = _has_rank(tensors, last, len(draft[last][1]))
  num_classes = len(tensors[last]) if known else 10
  image_shape = _image_shape(draft, tensors)
  fields = tuple(sorted(overrides.items()))
  expected = _template(name, max(num_classes, 2), image_shape, fields)
  _check(name, expected, tensors)
  return expected


def _draft(name: str, overrides: Mapping[str, Any]) -> _Template:
  """One before classes, channels and pixels are known: right but for shapes."""
  return _template(name, 10, (32, 32, 3), tuple(sorted(overrides.items())))


def _has_rank(tensors: Mapping[str, np.ndarray], name: str, rank: int) -> bool:
  return name in tensors and tensors[name].ndim == rank


def _image_shape(
  draft: _Template, tensors: Mapping[str, np.ndarray]
) -> tuple[int, int, int]:
  """(H, W, C) of images that lead to the shapes found, as far as they tell."""
  first, (_, shape) = next(iter(draft.items()))
  if _has_rank(tensors, first, len(shape)):  # Or `_check` will name it.
    shape = tensors[first].shape
  inputs = max(shape[1], 1)
  if len(shape) == 2:  # A network that flattens its images.
    return 1, inputs, 1
  for key, (_, shape) in draft.items():
    # The inputs of a dense layer behind flattened maps grow with the area.
    if len(shape) == 2 and _has_rank(tensors, key, 2):
      area = 32 * 32 * tensors[key].shape[1] // shape[1]
      side = max(8, math.isqrt(area))
      if side * side == area:
        return side, side, inputs
      # Of images that are no square, any of their area will do.
      return 8, max(8, area // 8), inputs
  return 32, 32, inputs


def _check(
  name: str, expected: _Template, tensors: Mapping[str, np.ndarray]
) -> None:
  """Raises one ValueError for all that does not fit."""
  problems = {
    'missing': [key for key in expected if key not in tensors],
    'unexpected': [key for key in tensors if key not in expected],
    'of another shape': [
      f'{key} (expected {shape}, found {tensors[key].shape})'
      for key, (_, shape) in expected.items()
      if key in tensors and tensors[key].shape != shape
    ],
  }
  lines = []
  for kind, found in problems.items():
    if found:
      more = f', and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
      lines.append(f'{len(found)} {kind}: {", ".join(found[:_SHOWN])}{more}')
  if lines:
    raise ValueError(
      f'these tensors are not those of {name!r} ({len(expected)} tensors); '
      + '; '.join(lines)
    )
