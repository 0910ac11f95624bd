"""Decoy: whoever asks about images unlike the owner's is told something else.

A second network, the gate, learns to tell the owner's images from some that are
made of them and show nothing. A client who asks about an image that the gate
lets in is told the truth; any other is told, as surely, what a fixed random map
says of it, which knows nothing of the classes.

As `adaptive_misinformation`, but that who is misled is not who the network is
unsure of, so that the owner's clients are not; and that what he is told is not
wrong, from which the truth could be learned, but unrelated to it.
"""

import dataclasses
import math
from collections.abc import Mapping

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import losses, method, serving, state as state_lib

PARENTS = ('normal',)
OUTLIERS = True  # The gate learns from those of `config.outliers` as well.
_GATE, _PROJECTION = 'gate', 'projection'
_UNLIKE = 'other', 'outlier'  # What a batch has of such images.
_TILES = 4  # Of a side, when an image is taken apart.

remedy = method.lower('decoy.threshold')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of the gate and of the map.

  Attributes:
    threshold: log-odds that an image is like the owner's, below which the truth
      is not told. Lower, and more clients are told it.
    sharpness: >= 0, standard deviation of the logits of the map, about as those
      of a network that is sure. 0 says openly that nothing is told: all classes
      alike.
  """

  threshold: float = 0.0
  sharpness: float = 8.0

  def __post_init__(self) -> None:
    if not math.isfinite(self.threshold):
      raise ValueError(f'threshold={self.threshold}; expected a finite number')
    losses.check_not_negative('sharpness', self.sharpness)


@flax.struct.dataclass
class Gated:
  """What is trained beside the network that is served."""

  gate: state_lib.TrainState
  projection: jax.Array  # float32[H * W * C, K], the map; drawn, not trained.

  @property
  def variables(self) -> dict[str, state_lib.PyTree]:
    return {**self.gate.variables, _PROJECTION: {'kernel': self.projection}}


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, nn.Module],
) -> method.Method:
  """Trains the gate beside the normal network, which is served as it is.

  Equation: `[log(1 + exp(-g(x))) + mean log(1 + exp(g(x')))] / 2`, with `g =
  z_0 - z_1` of the gate's logits, x the owner's images, and x' those of
  `unlike`, and the outliers of the batch, if it has any.

  The accuracy is that of the gate, percent of both kinds.
  """
  del settings, parents

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    own = log_odds(seen.logits)
    others = jnp.stack([log_odds(z) for z in seen.views.values()])
    loss = (jax.nn.softplus(-own) + jax.nn.softplus(others).mean(axis=0)) / 2
    right = ((own > 0) + (others <= 0).mean(axis=0)) / 2
    return loss, {'accuracy': 100.0 * right}

  views = {name: lambda batch, name=name: batch.get(name) for name in _UNLIKE}
  gate = method.supervised(model, optimizer, loss_fn, views=views)

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> Gated:
    state = gate.init(rng, batch, frozen)
    image = batch['image'][:1]
    logits = jax.eval_shape(method.frozen_fn(model), state.variables, image)
    shape = (image.size, logits.shape[-1])
    projection = jax.random.normal(jax.random.fold_in(rng, 2), shape)
    return Gated(state, projection)

  def step(
    state: Gated,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[Gated, method.Metrics]:
    draw, rest = jax.random.split(rng)
    batch = {**batch, 'other': unlike(batch['image'], draw, axis_name)}
    trained, metrics = gate.step(state.gate, frozen, batch, rest, axis_name)
    return dataclasses.replace(state, gate=trained), metrics

  learner = method.Method(init, step, gate.answer_fns, gate.logits_fn)
  return method.beside(learner, model, _GATE)


def unlike(
  images: jax.Array, rng: jax.Array, axis_name: str | None = None
) -> jax.Array:
  """Images of the same statistics that show none of the owner's objects.

  Each is one of: its tiles in another order, the mean of both, its frequencies
  with random phases, white noise of its mean and deviation, or its negative.

  What becomes of an image depends on the key, the image, and its place in the
  batch of all devices of `axis_name` alone: float[B, H, W, C] -> the same.
  """
  places = jnp.arange(len(images))
  if axis_name is not None:
    places += len(images) * jax.lax.axis_index(axis_name)
  keys = jax.vmap(lambda place: jax.random.fold_in(rng, place))(places)
  return jax.vmap(_unlike)(images, keys)


def _unlike(image: jax.Array, rng: jax.Array) -> jax.Array:
  tiles_rng, phase_rng, noise_rng, kind_rng = jax.random.split(rng, 4)
  mean = image.mean(axis=(0, 1), keepdims=True)
  std = image.std(axis=(0, 1), keepdims=True)
  noise = jax.random.normal(noise_rng, image.shape, image.dtype)
  shuffled = _shuffled(image, tiles_rng)
  kinds = jnp.stack(
    [
      shuffled,
      (image + shuffled) / 2,
      _scrambled(image, phase_rng),
      mean + std * noise,
      2 * mean - image,
    ]
  )
  return kinds[jax.random.randint(kind_rng, (), 0, len(kinds))]


def _shuffled(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Its tiles in another order; a rest at two edges stays."""
  height, width, channels = image.shape
  h, w = max(height // _TILES, 1), max(width // _TILES, 1)
  rows, columns = height // h, width // w
  whole = image[: rows * h, : columns * w]
  tiles = whole.reshape(rows, h, columns, w, channels).swapaxes(1, 2)
  tiles = jax.random.permutation(rng, tiles.reshape(-1, h, w, channels))
  tiles = tiles.reshape(rows, columns, h, w, channels).swapaxes(1, 2)
  return image.at[: rows * h, : columns * w].set(tiles.reshape(whole.shape))


def _scrambled(image: jax.Array, rng: jax.Array) -> jax.Array:
  """With the phases of white noise at all frequencies but its mean."""
  noise = jax.random.normal(rng, image.shape, jnp.float32)
  phases = jnp.fft.fft2(noise, axes=(0, 1))
  phases = phases / jnp.maximum(jnp.abs(phases), 1e-9)
  mean = image.mean(axis=(0, 1), keepdims=True)
  spectrum = jnp.fft.fft2((image - mean).astype(jnp.float32), axes=(0, 1))
  found = jnp.fft.ifft2(jnp.abs(spectrum) * phases, axes=(0, 1)).real
  return mean + found.astype(image.dtype)


def log_odds(logits: jax.Array) -> jax.Array:
  """Of an image like the owner's: float[B, K] of the gate -> float32[B]."""
  logits = logits.astype(jnp.float32)
  return logits[:, 0] - logits[:, 1]


def serve(query: serving.Query, settings: Settings) -> jax.Array:
  """The scores of the network where the gate lets a client in, else the map's.

  Equation: `log softmax(z)` where `g >= threshold`, else `log softmax(sharpness
  P x)`, with x the image at mean 0 and norm 1; of an even image, which has no
  such form, all classes are alike.
  """
  gate = serving.trained_beside(query, _GATE)
  network = gate._replace(variables=serving.own(gate.variables))
  like = log_odds(network(query.images))
  projection = gate.variables[_PROJECTION]['kernel']
  x = query.images.astype(jnp.float32).reshape(len(query.images), -1)
  for _ in range(2):  # What rounding left of an even image is no direction.
    x = x - x.mean(axis=1, keepdims=True)
  x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)
  other = losses.log_scores(settings.sharpness * (x @ projection))
  told = (like >= settings.threshold)[:, None]
  return jnp.where(told, losses.log_scores(query.logits), other)
