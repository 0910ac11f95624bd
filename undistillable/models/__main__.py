"""Lists the networks: python -m undistillable.models [classes] [pixels]."""

import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from undistillable import models


class Size(NamedTuple):
  """What a network consists of; all but the parameters for one image."""

  parameters: int
  multiply_adds: int  # Of convolutions and matrix products, forward.
  outputs: int  # Numbers that these put out.
  depthwise_outputs: int  # Of those, by one channel's convolution each.


def size(name: str, num_classes: int = 10, image_size: int = 32) -> Size:
  """How large a network is, for square images of three channels.

  Nothing is computed or compiled: shapes are traced.

  Example:
    >>> size('mlp').parameters
    1841162
  """
  model = models.get_model(name, num_classes)
  image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)

  def init(key: jax.Array, image: jax.Array) -> Any:
    return model.init(key, image, train=False)

  variables = jax.eval_shape(init, jax.random.key(0), image)
  traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(
    variables, image
  )
  params = jax.tree.leaves(variables['params'])
  products = list(_products(traced.jaxpr))
  return Size(
    sum(math.prod(x.shape) for x in params),
    sum(outputs * terms for outputs, terms, _ in products),
    sum(outputs for outputs, _, _ in products),
    sum(outputs for outputs, _, depthwise in products if depthwise),
  )


def _products(jaxpr: Any) -> Iterator[tuple[int, int, bool]]:
  """(outputs, products that each sums, is depthwise) of all that multiplies."""
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    outputs = math.prod(equation.outvars[0].aval.shape)
    if name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      features, channels = (
        kernel[axis] for axis in params['dimension_numbers'].rhs_spec[:2]
      )
      yield outputs, math.prod(kernel) // features, channels == 1
    elif name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      yield outputs, math.prod(shape[axis] for axis in contracted), False
    elif name == 'cond':
      # One branch a platform; the last is the plain convolution.
      yield from _products(params['branches'][-1].jaxpr)
    else:
      for value in params.values():
        if inner := getattr(value, 'jaxpr', None):
          yield from _products(inner)


def main() -> None:
  """Prints a Markdown table of the registry."""
  given = sys.argv[1:]
  if given in (['-h'], ['--help']):
    print(__doc__)
    return
  if len(given) > 2 or not all(re.fullmatch('[1-9][0-9]*', g) for g in given):
    sys.exit(f'error: {given}; expected [classes] [pixels], two numbers')
  num_classes, image_size = (*map(int, given), *(10, 32)[len(given) :])
  try:
    sizes = {n: size(n, num_classes, image_size) for n in models.MODELS}
  except ValueError as error:
    sys.exit(f'error: {error}')
  print('| network | parameters | multiply-adds |\n|---|---|---|')
  for name, one in sizes.items():
    operations = f'{one.multiply_adds / 1e6:,.1f} M'
    print(f'| `{name}` | {one.parameters:,} | {operations} |')


if __name__ == '__main__':
  main()
