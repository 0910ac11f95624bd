"""Skeptical student: the teacher is heard by a shallow head alone.

The student gets classifiers at some of its inner feature maps. One of them
copies the teacher, so that no deeper layer hears of it; the deepest copies the
student itself; the student learns the labels. In the end these are dropped.

Source: Kundu et al. (2021), "Analyzing the Confidentiality of Undistillable
Teachers in Knowledge Distillation", NeurIPS.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from undistillable import data, errors, losses, method, models, oracle
from undistillable.models import layers

PARENTS = ('teacher',)

_SMALLEST = 4  # Pixels a side, below which a head halves nothing.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of a public replica for CIFAR-100, but for tau, there 20.

  Attributes:
    loc: who hears the teacher, counted from the end: 0 is the network itself,
      1 its deepest head, 2 the one before.
    delay_steps: of plain training on the labels that come first; the released
      21 epochs are 8,000 batches of 128 images of CIFAR.
    temperature: tau > 0.
    alpha: weight of the teacher against the labels, in 0..1.
    self_weight: of the network's own answers for its deepest head, >= 0.
    label_weight: of the labels for its deepest head, >= 0.
  """

  loc: int = 2
  delay_steps: int = 8_000
  temperature: float = 4.0
  alpha: float = 0.9
  self_weight: float = 0.3
  label_weight: float = 0.7

  def __post_init__(self) -> None:
    losses.check_whole('loc', self.loc, least=0)
    losses.check_positive('temperature', self.temperature)
    losses.check_alpha(self.alpha)
    for name in ('delay_steps', 'self_weight', 'label_weight'):
      losses.check_not_negative(name, getattr(self, name))


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """The student, whose network must have stages to listen at.

  Raises:
    errors.InputError: it has too few.
  """
  run = job.student('skeptical', student, {'teacher': teacher})
  source = data.get_source(run.judged_on['name'])
  model = models.get_model(student, source.num_classes)
  _check_stages(_num_stages(model, source.image_shape), run.settings['loc'])
  return [run]


@functools.lru_cache(maxsize=64)
def _num_stages(model: nn.Module, image_shape: tuple[int, ...]) -> int:
  def maps() -> list[jax.Array]:
    _, seen = model.init_with_output(
      jax.random.key(0),
      jnp.zeros((1, *image_shape)),
      capture_intermediates=True,
      mutable=True,
    )
    return feature_maps(seen['intermediates'])

  return len(jax.eval_shape(maps))


def _check_stages(number: int, loc: int) -> None:
  """Raises InputError where there are too few."""
  deepest = max(1, loc)
  if number <= deepest:
    raise errors.InputError(
      f'skeptical: the network has {number} stages with feature maps, but '
      f'loc={loc} takes {deepest + 1}, the last of which is for the network '
      'itself'
    )


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a frozen teacher into an inner head of a student.

  Equation: `CE(z_0, y)` in the first `delay_steps`; then, of z_i the logits at
  place i from the end, `alpha tau^2 KL(z_T || z_loc) + (1 - alpha)
  CE(z_loc, y) + self_weight KL(z_0 || z_1) + label_weight CE(z_1, y) +
  CE(z_0, y)`, with both divergences at tau. No gradient goes through z_0 of
  the second, which would reach the final layer in the released code; as there
  it has no tau^2.

  The optimizer trains the network and, apart, its heads. Metric `kl` is
  KL(teacher || z_loc) at tau, in nats.

  Raises:
    errors.InputError: the step, while it is traced, for a network with too few
      stages; see `feature_maps`.
  """

  def features_fn(intermediates: Mapping[str, Any]) -> dict[int, jax.Array]:
    """The feature map of each head that has a part in the loss."""
    maps = feature_maps(intermediates)
    _check_stages(len(maps), settings.loc)
    return {place: maps[-1 - place] for place in {1, max(1, settings.loc)}}

  def init(rng: jax.Array, seen: method.Forward) -> dict[str, Any]:
    head = Head(seen.logits.shape[-1])
    return {
      str(place): head.init(jax.random.fold_in(rng, place), features)['params']
      for place, features in seen.features.items()
    }

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    head = Head(seen.logits.shape[-1], seen.axis_name)
    logits = {0: seen.logits}
    for place, features in seen.features.items():
      # Only ever used in training: their running statistics are dropped.
      logits[place], _ = head.apply(
        {'params': seen.extra[str(place)]}, features, mutable=['batch_stats']
      )
    return skeptical_loss(
      logits, seen.answers['teacher'], seen.batch['label'], seen.step, settings
    )

  return oracle.student(
    model,
    optimizer,
    loss_fn,
    parents,
    extra=method.Extra(init, optimizer),
    features_fn=features_fn,
  )


def skeptical_loss(
  logits: Mapping[int, jax.Array],
  teacher_logits: jax.Array,
  labels: jax.Array,
  step: jax.Array,
  settings: Settings,
) -> tuple[jax.Array, method.Metrics]:
  """See `make`; (loss float32[B], metrics).

  Logits are float[B, K], of the network at 0, of a head at its place; step,
  int32[], are those taken before this one.
  """
  tau = settings.temperature
  heard, deepest = logits[settings.loc], logits[1]
  cross_entropy = losses.cross_entropy(logits[0], labels)
  of_teacher = losses.distillation(
    heard, teacher_logits, labels, temperature=tau, alpha=settings.alpha
  )
  of_itself = losses.kl_divergence(
    jax.lax.stop_gradient(logits[0]), deepest, temperature=tau
  )
  of_labels = losses.cross_entropy(deepest, labels)
  later = (
    of_teacher
    + settings.self_weight * of_itself
    + settings.label_weight * of_labels
  )
  # The first steps are those of a student alone.
  loss = cross_entropy + jnp.where(step < settings.delay_steps, 0.0, later)
  kl = losses.kl_divergence(teacher_logits, heard, temperature=tau)
  return loss, {'kl': kl}


def feature_maps(intermediates: Mapping[str, Any]) -> list[jax.Array]:
  """What the stages of a network put out, in order of depth.

  Those that it sows as 'stages', float[B, H, W, C] each, as all networks of
  `models.MODELS` with stages do: of a ResNet the last sum of each, after its
  ReLU; of MobileNetV2 the stages 2, 4, 6 and 7, as in the released code; of the
  5-layer CNN what its BatchNorms put out, before pooling and ReLU.

  Of a network that sows none, a guess: of the outputs of its modules, as flax's
  `capture_intermediates` has them, the last of every size H, W above 1 x 1.
  What lies between modules is not seen, so of a residual block that ends in a
  sum this is the branch before it, and where a stage begins with a module of
  stride 1 that module passes for the end of the stage before.
  """
  sown, found = [], {}
  # In the order of the calls, which flax keeps.
  for path, values in traverse_util.flatten_dict(intermediates).items():
    if path[-1] == 'stages':
      sown += values
    for value in values if path[-1] == '__call__' else ():
      is_map = isinstance(value, jax.Array) and value.ndim == 4
      if is_map and value.shape[1:3] != (1, 1):
        found[value.shape[1:3]] = value
  return sown or list(found.values())


class Head(nn.Module):
  """A mask, depthwise convolutions down to 4x4 pixels, a mean, a dense layer.

  Its BatchNorm always normalises by the batch, pooled over `axis_name`.
  """

  num_classes: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x: float[B, H, W, C] -> logits: float32[B, K]."""
    mask = self._halve(x, x.shape[-1], 'mask')
    mask = nn.relu(self._norm(x, 'mask.bn')(mask))
    mask = jax.image.resize(mask, x.shape, 'bilinear')
    x = nn.sigmoid(mask) * x
    stage = 0
    while min(x.shape[1:3]) > _SMALLEST:
      x = self._halve(x, 2 * x.shape[-1], f'stage{stage}')
      stage += 1
    return layers.Dense(self.num_classes, name='fc')(layers.global_mean(x))

  def _halve(self, x: jax.Array, features: int, name: str) -> jax.Array:
    """Half the pixels a side: twice depthwise 3x3, 1x1, BatchNorm, ReLU."""
    channels = x.shape[-1]
    for i, (strides, width) in enumerate(((2, channels), (1, features))):
      x = layers.Conv(
        channels,
        3,
        strides,
        1,
        groups=channels,
        dtype=x.dtype,
        name=f'{name}.depthwise{i}',
      )(x)
      x = layers.Conv(width, 1, dtype=x.dtype, name=f'{name}.conv{i}')(x)
      x = nn.relu(self._norm(x, f'{name}.bn{i}')(x))
    return x

  def _norm(self, x: jax.Array, name: str) -> layers.BatchNorm:
    return layers.BatchNorm(True, self.axis_name, x.dtype, name=name)
