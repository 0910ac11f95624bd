"""The loss of an attack, bare: a network whose images are its logits.

It compiles in no time, and its only parameter is a bias, whose gradient is the
mean gradient of the loss with respect to the logits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

# The example of all known answers, with label 0.
TEACHER, STUDENT = (3.0, 1.0, -1.0), (1.0, 0.0, 0.5)


class Bias(nn.Module):
  """Images float[B, 1, 1, K] -> logits float[B, K]."""

  @nn.compact
  def __call__(self, images, train=False):
    bias = self.param('bias', nn.initializers.zeros, images.shape[-1:])
    return images[:, 0, 0, :] + bias[None]


def attack(module, parents=None, /, **settings):
  """The method of an attack, of a teacher whose answers are handed in."""
  model = Bias()
  return module.make(
    model,
    optax.sgd(1.0),
    module.Settings(**settings),
    parents or {'teacher': model},
  )


def batch(student, labels, **answers):
  """What a step reads; `answers` are those of its parents by role."""
  images = jnp.asarray(student, jnp.float32)[:, None, None, :]
  labels = jnp.asarray(labels, jnp.int32)
  given = {k: jnp.asarray(z, jnp.float32) for k, z in answers.items()}
  return {'image': images, 'label': labels, 'answers': given}


def start(method, first):
  """The state before the first step."""
  return jax.jit(method.init)(jax.random.key(0), first, {})


def take(method, given, state=None):
  """One step: (metrics, gradient of the mean loss by the logits, state)."""
  before = start(method, given) if state is None else state
  step = jax.jit(method.step)
  after, metrics = step(before, {}, given, jax.random.key(1))
  return metrics, before.params['bias'] - after.params['bias'], after


def known(module, **settings):
  """The metrics of the example of all known answers."""
  given = batch([STUDENT], [0], teacher=[TEACHER])
  return take(attack(module, **settings), given)[0]
