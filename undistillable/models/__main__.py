"""Lists the networks: python -m undistillable.models [classes] [pixels]."""

import math
import sys
from typing import Any

import jax
import jax.numpy as jnp

from undistillable import models


def size(
  name: str, num_classes: int = 10, image_size: int = 32
) -> tuple[int, int]:
  """Parameters of a network, and multiply-adds of one image's forward pass.

  Nothing is computed or compiled: shapes are traced.

  Args:
    name: a key of `models.MODELS`.
    num_classes: K.
    image_size: pixels of a side, of three channels.

  Returns:
    Two counts; of the operations those of convolutions and matrix products.

  Example:
    >>> size('mlp')
    (1841162, 1840128)
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
  return sum(math.prod(x.shape) for x in params), _multiply_adds(traced.jaxpr)


def _multiply_adds(jaxpr: Any) -> int:
  """Of all convolutions and matrix products, also in functions called."""
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    output = math.prod(equation.outvars[0].aval.shape)
    if name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      features = kernel[params['dimension_numbers'].rhs_spec[0]]
      total += output * math.prod(kernel) // features
    elif name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      total += output * math.prod(shape[axis] for axis in contracted)
    elif name == 'cond':
      # One branch a platform; the last is the plain convolution.
      total += _multiply_adds(params['branches'][-1].jaxpr)
    else:
      for value in params.values():
        if inner := getattr(value, 'jaxpr', None):
          total += _multiply_adds(inner)
  return total


def main() -> None:
  """Prints a Markdown table of the registry."""
  num_classes, image_size = (*map(int, sys.argv[1:]), *(10, 32))[:2]
  print('| network | parameters | multiply-adds |\n|---|---|---|')
  for name in models.MODELS:
    parameters, operations = size(name, num_classes, image_size)
    print(f'| `{name}` | {parameters:,} | {operations / 1e6:,.1f} M |')


if __name__ == '__main__':
  main()
