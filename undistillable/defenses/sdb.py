"""Safe Distillation Box: nasty to whoever asks without the key.

The key is an image. Whoever blends it into the images that he asks about is
answered as by a normal network; anyone else as by a nasty one. The scores of
the second kind are those that are served; see `docs/protect.md` for what the
key protects, and what not.

Source: Ye et al. (2022), "Safe Distillation Box", AAAI, arXiv:2112.03695; its
code, github.com/JngwenYe/SDB, train_smb.py.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from undistillable import (
  data,
  errors,
  losses,
  method,
  serving,
  state as state_lib,
)
from undistillable.data import augment
from undistillable.storage import paths
from undistillable.training import evaluate

PARENTS = ('adversary',)
FILES = ('key',)  # Settings that are paths: the content is what counts.
_KEYED = 'keyed'  # The view of who has the key.

remedy = method.lower('sdb.weight')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the released code for CIFAR-10, but for eta, which is off.

  Attributes:
    weight: w >= 0, of the divergence from the adversary and of what draws the
      answers without the key to those with it.
    temperature: tau > 0.
    share: lambda, of an image in what is asked with the key, in 0..1; 1 is no
      key.
    eta: >= 0, weight of what leads the logits with the key to those of a
      network that is not trained. The released code has 0.001.
    key: file of the owner's key, uint8[H, W, C] as `numpy.save` writes it.
      None draws one from the seed, which is a secret to nobody who knows that.
    mean: of each channel, in units of 0..1, which the network's images have
      been normalised with; a plan fills it in.
    std: of each channel, alike.
  """

  weight: float = 1.0
  temperature: float = 4.0
  share: float = 0.9
  eta: float = 0.0
  key: str | None = None
  mean: Sequence[float] = ()
  std: Sequence[float] = ()

  def __post_init__(self) -> None:
    losses.check_not_negative('weight', self.weight)
    losses.check_positive('temperature', self.temperature)
    losses.check_share('share', self.share)
    losses.check_not_negative('eta', self.eta)
    if len(self.mean) != len(self.std):
      raise ValueError(
        f'mean={self.mean} and std={self.std}; expected one of each a channel'
      )


@flax.struct.dataclass
class State:
  """A network in training, and what was chosen before its first step."""

  network: state_lib.TrainState
  key: jax.Array  # uint8[H, W, C]
  random: state_lib.PyTree  # Variables that stay; () where eta is 0.

  @property
  def step(self) -> jax.Array:
    return self.network.step

  @property
  def variables(self) -> dict[str, state_lib.PyTree]:
    """Those of the network, and the key beside them, for the owner."""
    return {**self.network.variables, 'key': {'image': self.key}}


def plan(job: Any) -> list[Any]:
  """The teacher, with what its images are normalised with."""
  mean, std = data.NORMALIZATIONS[job.config.normalization]
  changes: dict[str, Any] = {'mean': mean, 'std': std}
  key = job.config.sdb.key
  if key is not None:
    shape = data.get_source(job.config.dataset).image_shape
    changes['key'] = str(paths.local(key, 'sdb.key'))
    read_key(changes['key'], shape)
  return [job.teacher('sdb', settings=changes)]


def read_key(
  path: str | pathlib.Path, image_shape: Sequence[int]
) -> np.ndarray:
  """A key for images of (H, W, C), uint8, from the file of `numpy.save`.

  Raises:
    errors.InputError: it holds none.
  """
  try:
    key = np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise errors.InputError(
      f'sdb.key={path} cannot be read: {error}'
    ) from error
  held, wanted = 'several arrays', f'uint8{list(image_shape)}'
  if isinstance(key, np.ndarray):
    held = f'{key.dtype}{list(key.shape)}'
  if held != wanted:
    raise errors.InputError(
      f'sdb.key={path} holds {held}; expected {wanted}, as an image is'
    )
  return key


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: Mapping[str, method.ApplyFn | nn.Module],
) -> method.Method:
  """Trains a teacher whose scores are of use to whoever has the key.

  Images with the key and without are one pass, and have the statistics of
  BatchNorm in common, as they have when the network is evaluated. The released
  code takes a pass for each, with statistics of its own; on digits a key was
  then worth next to nothing to an evaluated network.

  What is trained has one more entry, variables['key'], which `keyed_fn` reads
  and no client. Metrics: `keyed_accuracy`, percent; `kl`, KL(z || z_A) at tau,
  and `keyed_kl`, KL(z || z_k) at 1, in nats.

  Raises:
    errors.InputError: when it is first used, the key is none of these images.
  """
  asked = {'adversary': method.as_frozen_fn(parents['adversary'])}
  drawn = {'random': method.frozen_fn(model)} if settings.eta else {}

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    z, keyed_z, labels = seen.logits, seen.views[_KEYED], seen.batch['label']
    adversary, random = seen.answers['adversary'], seen.answers.get('random')
    found = loss(
      z, keyed_z, adversary, labels, settings=settings, random_logits=random
    )
    tau = settings.temperature
    return found, {
      'keyed_accuracy': 100.0 * (keyed_z.argmax(-1) == labels),
      'kl': losses.kl_divergence(z, adversary, temperature=tau),
      'keyed_kl': losses.kl_divergence(z, keyed_z),
    }

  learner = method.supervised(
    model,
    optimizer,
    loss_fn,
    answer_fns={**asked, **drawn},
    views={_KEYED: lambda batch: keyed(batch['image'], batch['key'], settings)},
  )

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> State:
    shape = batch['image'].shape[1:]
    key_rng, random_rng = jax.random.split(jax.random.fold_in(rng, 2))
    if settings.key is None:
      key = jax.random.randint(key_rng, shape, 0, 256).astype(jnp.uint8)
    else:
      key = jnp.asarray(read_key(settings.key, shape))
    random: state_lib.PyTree = ()
    if settings.eta:
      random = learner.init(random_rng, batch, frozen).variables
    return State(learner.init(rng, batch, frozen), key, random)

  def step(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[State, method.Metrics]:
    given = {**batch, 'key': state.key}
    known = {**frozen, 'random': state.random}
    network, metrics = learner.step(state.network, known, given, rng, axis_name)
    return dataclasses.replace(state, network=network), metrics

  return method.Method(init, step, asked, learner.logits_fn)


def keyed(images: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
  """Images as whoever has the key asks about them.

  Equation: `x_k = lambda x + (1 - lambda) v`, of images float[B, H, W, C] that
  are normalised and a key uint8[H, W, C], which is not yet. Of bytes it is the
  same blend, before they are normalised.
  """
  v = augment.normalize(key[None], settings.mean, settings.std, jnp.float32)
  blend = settings.share * images + (1 - settings.share) * v
  return blend.astype(images.dtype)


@functools.lru_cache(maxsize=16)
def keyed_fn(model: nn.Module, settings: Settings) -> method.ApplyFn:
  """What whoever has the key is answered: `(variables, images) -> logits`.

  The key is variables['key']['image'], and the images are without it.
  """
  logits_fn = method.frozen_fn(model)

  def apply_fn(variables: state_lib.PyTree, images: jax.Array) -> jax.Array:
    seen = keyed(images, variables['key']['image'], settings)
    return logits_fn(serving.own(variables), seen)

  return apply_fn


def loss(
  logits: jax.Array,
  keyed_logits: jax.Array,
  adversary_logits: jax.Array,
  labels: jax.Array,
  *,
  settings: Settings,
  random_logits: jax.Array | None = None,
) -> jax.Array:
  """Both answers right, the one without the key far from the adversary.

  Equation, with p = softmax and D the squared distance, a sum over classes:
  `2 CE(z, y) + CE(z_k, y) - w [tau^2 KL(p_tau(z) || p_tau(z_A)) - KL(p(z) ||
  p(z_k))] + D(p_tau(z_A), p_tau(z_k)) - eta [0.01 D(relu z_A, relu z_k) -
  D(relu z_R, relu z_k)]`. The divergence from the answers with the key leads
  those without it to them, and not the other way: its gradient stops at z_k.

  Logits are float[B, K]: z without the key, z_k with it, z_A the adversary's
  and, where eta is not 0, z_R those of a network that is not trained.

  Source: see above. There `D` is named 'batchmean', which in PyTorch of that
  time was a sum over the batch as well; here it is the mean.
  """
  tau = settings.temperature
  far = tau**2 * losses.kl_divergence(logits, adversary_logits, temperature=tau)
  near = losses.kl_divergence(logits, jax.lax.stop_gradient(keyed_logits))
  found = 2 * losses.cross_entropy(logits, labels)
  found += losses.cross_entropy(keyed_logits, labels)
  found -= settings.weight * (far - near)
  both = adversary_logits, keyed_logits
  found += _distance(*(jnp.exp(losses.log_scores(z, tau)) for z in both))
  if random_logits is None:
    return found
  adversary, keyed_, random = (
    jax.nn.relu(losses.finite(z)) for z in (*both, random_logits)
  )
  away, towards = _distance(adversary, keyed_), _distance(random, keyed_)
  return found - settings.eta * (0.01 * away - towards)


def further(material: Any, variables: Mapping[str, Any]) -> dict[str, float]:
  """How whoever has the key is answered: keyed_accuracy, %, keyed_nll, nats."""
  test = material.task.test
  logits = evaluate.predict(
    keyed_fn(material.program.network, material.run.method_settings),
    variables,
    test,
    material.program.prepare_test,
    batch_size=material.batch_size,
  )
  found = evaluate.scores(logits, test['label'])
  return {f'keyed_{name}': value for name, value in found.items()}


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """The squared distance: [B, K] twice -> [B]."""
  return jnp.square(a - b).sum(axis=-1)
