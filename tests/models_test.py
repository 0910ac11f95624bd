"""Models against the numbers of the released networks, and their contract."""

import json
import pathlib

import fixtures_rule
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from undistillable import interop, models

# Parametrisation happens before fixtures exist, so the folder is looked up
# here; without it there are no cases, and pytest says that it skipped them.
FIXTURES = sorted(
  (pathlib.Path(__file__).parents[2] / 'shared' / 'fixtures').glob(
    '*_[0-9]*_[0-9]*.json'
  )
)


def _count(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem, scope='module')
def case(request):
  """A fixture, the model it is of, and the variables its rule gives."""
  fixture = json.loads(request.param.read_text())
  network = fixture['network']
  state_dict = fixtures_rule.state_dict(fixture['names'], fixture['shapes'])
  variables = interop.from_torch(network, state_dict)
  model = models.get_model(network, fixture['num_classes'])
  images = fixtures_rule.images(4, fixture['image_size'])
  return fixture, model, variables, images


def _assert_logits(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, atol=1e-4 * scale, rtol=0)


def test_parity_of_evaluation(case):
  fixture, model, variables, images = case
  assert _count(variables['params']) == fixture['num_parameters']
  logits = jax.jit(model.apply)(variables, images)
  assert logits.dtype == jnp.float32
  _assert_logits(logits, fixture['eval_logits'])


def test_parity_of_one_training_step(case):
  fixture, model, variables, images = case
  labels = jnp.arange(4) % fixture['num_classes']

  @jax.jit
  def step(params, rest):
    def loss_fn(params):
      logits, updates = model.apply(
        {'params': params, **rest}, images, train=True, mutable=['batch_stats']
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), (logits, updates)

    return jax.value_and_grad(loss_fn, has_aux=True)(params)

  rest = {k: v for k, v in variables.items() if k != 'params'}
  (loss, (logits, updates)), grads = step(variables['params'], rest)
  _assert_logits(logits, fixture['train_logits'])
  np.testing.assert_allclose(loss, fixture['train_loss'], rtol=1e-4)
  # As a state dict, the gradients have the names that the fixture uses.
  tensors = interop.to_torch(fixture['network'], {'params': grads, **updates})
  largest = max(fixture['grad_norms'].values())
  for name, norm in fixture['grad_norms'].items():
    # In float32 a few units fall on the other side of their ReLU: PyTorch's
    # float32 and float64 norms of mobilenetv2 differ by 2.5e-3, ours in
    # float64 and PyTorch's by 1e-7. And a bias before BatchNorm has no
    # gradient but rounding, hence the absolute part.
    np.testing.assert_allclose(
      np.linalg.norm(tensors[name]),
      norm,
      rtol=5e-3,
      atol=1e-5 * largest,
      err_msg=name,
    )
  for name, norm in fixture['running_stat_norms_after_one_step'].items():
    np.testing.assert_allclose(
      np.linalg.norm(tensors[name]), norm, rtol=1e-4, err_msg=name
    )
