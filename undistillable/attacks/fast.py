"""Fast: images from the weights in a few steps, from where others began.

Batches of images are made one by one, as in DeepInversion, but by a generator
and in a few updates of it: a second generator learns to be a start from which
that is enough. The student learns from all batches so far.

Source: Fang et al. (2022), "Up to 100x Faster Data-free Knowledge
Distillation", AAAI, arXiv:2112.06253, and its code,
github.com/zju-vipa/Fast-Datafree.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import errors, losses, method, oracle, state as state_lib
from undistillable.attacks import batch_norm, generators, synthesis
from undistillable.data import augment

PARENTS = ('teacher',)
ACCESS = 'weights'
DATA = 'none'

updates_per_epoch = generators.updates_per_epoch
remedy = generators.remedy

_BETA_1 = 0.5  # Of Adam.
_TERMS = ('adversarial', 'batch_norm', 'cross_entropy')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the released code, "Fast-10" for ResNet-34, with our generator.

  Its student learns by SGD at a rate of 0.2, momentum 0.9 and weight decay
  1e-4, which falls as a cosine to 2e-4 in 200 epochs, there once in each and
  here in every update: `recipes.fast` of `undistillable.config.base`. On
  digits, and in the presets `fast`, he learns as his model does elsewhere.

  Attributes:
    low: least value of each channel, after normalisation.
    high: largest value of each channel, alike; the plan fills in both.
    latent_dim: numbers from which one image is made.
    generator_width: see models.generator.
    generator_steps: k, updates of a batch's generator and of its latent
      numbers; with 5 or 2 it is "Fast-5" and "Fast-2".
    generator_learning_rate: of Adam, of a batch's generator; k times as much
      of the one from which all batches start.
    latent_learning_rate: of Adam, of the latent numbers.
    batch_norm: weight of the distance to the teacher's statistics, >= 0.
    cross_entropy: weight of the classes that the images shall show, >= 0.
    adversarial: weight of the student's disagreement, >= 0.
    momentum: of the statistics of earlier batches, in 0..1.
    warmup: batches that are made before the student's first lesson, without
      his disagreement.
    reset_at: the batch before which the generator's first layer is drawn anew;
      0 for none.
    student_steps: updates of the student after each batch.
    temperature: tau_S > 0.
    augment: a name of `data.augment.AUGMENTATIONS`, of the images as teacher
      and student see them.
    pool: images that are kept, the last ones.
  """

  low: tuple[float, ...] = (-2.0,)
  high: tuple[float, ...] = (2.0,)
  latent_dim: int = 256
  generator_width: int = 128
  generator_steps: int = 10
  generator_learning_rate: float = 2e-3
  latent_learning_rate: float = 0.01
  batch_norm: float = 10.0
  cross_entropy: float = 0.5
  adversarial: float = 1.33
  momentum: float = 0.9
  warmup: int = 20
  reset_at: int = 140
  student_steps: int = 400
  temperature: float = 20.0
  augment: str = 'pad_crop_flip'
  pool: int = 56_320

  def __post_init__(self) -> None:
    for name in ('latent_dim', 'generator_steps', 'student_steps', 'pool'):
      losses.check_whole(name, getattr(self, name), least=1)
    losses.check_whole('generator_width', self.generator_width, least=2)
    for name in ('warmup', 'reset_at'):
      losses.check_whole(name, getattr(self, name), least=0)
    for name in ('generator_learning_rate', 'latent_learning_rate'):
      losses.check_positive(name, getattr(self, name))
    losses.check_positive('temperature', self.temperature)
    for name in ('batch_norm', 'cross_entropy', 'adversarial'):
      losses.check_not_negative(name, getattr(self, name))
    losses.check_share('momentum', self.momentum)
    losses.check_one_of('augment', self.augment, augment.AUGMENTATIONS)


@flax.struct.dataclass
class State(generators.State):
  """Two networks, see `generators.State`, and what was made."""

  pool: generators.Memory  # Of the images, uint8.
  moments: batch_norm.Moments  # Of all batches, see `statistics_distance`.
  made: jax.Array  # int32[], batches so far.


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """One student, who makes his images on the way."""
  in_range = synthesis.value_range(job.config.normalization)
  run = job.student('fast', student, {'teacher': teacher}, in_range)
  pool, batch_size = run.method_settings.pool, run.recipe['batch_size']
  if pool < batch_size:
    raise errors.InputError(
      f'fast: pool={pool} holds less than a batch of {batch_size}'
    )
  return [run]


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a frozen teacher into a student, without any data.

  Equation: a batch is made by k updates of a copy of the generator and of the
  latent numbers z, which minimise `batch_norm R(x) + cross_entropy CE(T(x), c)
  + adversarial A(x)` of its images x: R of `statistics_distance`, c classes at
  random, and A of `agreement_gap`. Of the k batches of images the one of the
  lowest loss enters the pool. The sum of the k gradients is one of the
  generator itself (first-order MAML), whose Adam then takes one update. The
  student minimises `tau^2 KL(T(x) || S(x))` over images of the pool.

  A step makes one batch, the first one `warmup` more, and then updates the
  student `student_steps` times. A batch that is given is one of `generators`.

  Metrics: loss, of the student; accuracy, the percentage of images on which it
  agrees with the teacher; batch_norm, cross_entropy and adversarial, the terms
  of the last images of a batch, without their weights.
  """
  teacher = oracle.open_module(parents['teacher'])
  teacher_fn = method.frozen_fn(teacher)
  student = generators.copier(
    model, optimizer, teacher_fn, settings.temperature
  )
  maker_of = functools.partial(_Maker, settings, model, teacher)

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> State:
    maker, image = maker_of(frozen['teacher'], batch, None), batch['image']
    meta = maker.trainer(settings.generator_steps)
    start = generators.start(student, meta, rng, frozen)
    _, moments = jax.eval_shape(maker.read, image)
    pool = jnp.zeros((settings.pool, *image.shape[1:]), jnp.uint8)
    nothing = jnp.zeros((), jnp.int32)
    return State(
      student=start.student,
      generator=start.generator,
      pool=generators.Memory({'image': pool}, nothing),
      moments=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moments),
      made=nothing,
    )

  def step(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[State, method.Metrics]:
    making_rng, learning_rng = jax.random.split(rng)
    maker = maker_of(frozen['teacher'], batch, axis_name)

    def another(i: jax.Array, found: tuple[State, Any]) -> tuple[State, Any]:
      return maker.add_batch(found[0], jax.random.fold_in(making_rng, i))

    number = jnp.where(state.step == 0, 1 + settings.warmup, 1)
    start = (state, dict.fromkeys(_TERMS, jnp.zeros(())))
    state, terms = jax.lax.fori_loop(0, number, another, start)

    def lesson(student_state: Any, key: jax.Array) -> tuple[Any, Any]:
      draw_rng, look_rng, student_rng = jax.random.split(key, 3)
      drawn = state.pool.draw(draw_rng, batch['index'])['image']
      images = maker.look(drawn / 255.0, look_rng)
      answers = teacher_fn(frozen['teacher'], images)
      return generators.learn(
        student, student_state, images, answers, student_rng, axis_name
      )

    keys = jax.random.split(learning_rng, settings.student_steps)
    student_state, every = jax.lax.scan(lesson, state.student, keys)
    generator = dataclasses.replace(
      state.generator, step=state.generator.step + 1
    )
    state = dataclasses.replace(
      state, student=student_state, generator=generator
    )
    return state, terms | jax.tree.map(jnp.mean, every)

  return method.Method(init, step)


class _Batch(NamedTuple):
  """A batch in the making."""

  generator: state_lib.TrainState  # Its own, a copy.
  latent: jax.Array  # float32[B, Z]
  latent_state: state_lib.PyTree  # Of the optimizer of latent.
  meta_grads: state_lib.PyTree  # The sum of those of the generator.
  best: jax.Array  # Its images where the loss was lowest, uint8[B, H, W, C].
  least: jax.Array  # That loss.


@dataclasses.dataclass(frozen=True)
class _Maker:
  """How the batches of a step are made; see `make`."""

  settings: Settings
  model: nn.Module
  teacher: nn.Module
  variables: state_lib.PyTree  # Of the teacher.
  like: method.Batch  # How the images look.
  axis_name: str | None

  def trainer(self, times: int = 1) -> generators.Trainer:
    """Of a batch's own generator, or of that of all, with k times its rate."""
    rate = times * self.settings.generator_learning_rate
    optimizer = optax.adam(rate, _BETA_1)
    return generators.Trainer(
      self.settings, optimizer, self.like, self.axis_name
    )

  def look(self, share: jax.Array, rng: jax.Array) -> jax.Array:
    """Images in 0..1 as the networks see them."""
    with augment.spread(self.axis_name):
      seen = augment.get_augmentation(self.settings.augment)(rng, share)
    low, high = self.settings.low, self.settings.high
    images = generators.stretch(seen, low, high)
    return images.astype(self.like['image'].dtype)

  def read(self, images: jax.Array) -> tuple[jax.Array, batch_norm.Moments]:
    """What the teacher says, and how its statistics are missed."""
    logits, gaps = batch_norm.read(self.teacher, self.variables, images)
    return logits, batch_norm.moments(method.average(gaps, self.axis_name))

  def add_batch(
    self, state: State, rng: jax.Array
  ) -> tuple[State, method.Metrics]:
    """A further batch in the pool, and what is learned by making it."""
    settings, like = self.settings, self.like
    latent_rng, class_rng, reset_rng, look_rng = jax.random.split(rng, 4)
    meta, own = self.trainer(settings.generator_steps), self.trainer()
    latent_optimizer = optax.adam(settings.latent_learning_rate, _BETA_1)
    generator = _reset(state.generator, reset_rng, state.made, settings)
    answers, _ = jax.eval_shape(self.read, like['image'])
    # Of this batch's statistics against those of earlier ones.
    weight = jnp.where(state.made > 0, 1.0 - settings.momentum, 1.0)
    adversarial = jnp.where(
      state.made < settings.warmup, 0.0, settings.adversarial
    )
    classes = generators.draw(
      lambda key: jax.random.randint(key, (), 0, answers.shape[-1]),
      class_rng,
      like['index'],
    )

    def loss_fn(
      params: state_lib.PyTree,
      latent: jax.Array,
      making: _Batch,
      rng: jax.Array,
    ) -> tuple[jax.Array, Any]:
      """What a batch minimises; its images in 0..1, and how they are judged."""
      painter = dataclasses.replace(making.generator, params=params)
      inputs, _ = own.paint(painter, latent)
      share = 0.5 + 0.5 * jnp.tanh(inputs)
      seen = self.look(share, rng)
      logits, moments = self.read(seen)
      student_logits: Any = self.model.apply(
        jax.lax.stop_gradient(state.student.variables), seen, train=False
      )
      terms = {
        'batch_norm': statistics_distance(moments, state.moments, weight),
        'cross_entropy': losses.cross_entropy(logits, classes).mean(),
        'adversarial': agreement_gap(logits, student_logits).mean(),
      }
      loss = (
        settings.batch_norm * terms['batch_norm']
        + settings.cross_entropy * terms['cross_entropy']
        + adversarial * terms['adversarial']
      )
      return loss, (share, moments, terms)

    def update(
      making: _Batch, rng: jax.Array
    ) -> tuple[_Batch, tuple[batch_norm.Moments, method.Metrics]]:
      """One of the k updates; also how its images were judged."""
      generator, latent = making.generator, making.latent
      grad_fn = jax.value_and_grad(loss_fn, (0, 1), has_aux=True)
      (loss, (share, moments, terms)), (grads, latent_grads) = grad_fn(
        generator.params, latent, making, rng
      )
      loss, terms, grads = method.average((loss, terms, grads), self.axis_name)
      # A device takes the mean over its own images; this one is over all.
      latent_grads /= generators.num_devices(self.axis_name)
      updates, latent_state = latent_optimizer.update(
        latent_grads, making.latent_state, latent
      )
      image = jnp.round(255.0 * share).astype(jnp.uint8)
      making = _Batch(
        generator=own.descend(generator, grads),
        latent=latent + updates,
        latent_state=latent_state,
        meta_grads=jax.tree.map(jnp.add, making.meta_grads, grads),
        best=jnp.where(loss < making.least, image, making.best),
        least=jnp.minimum(loss, making.least),
      )
      return making, (moments, terms)

    latent = meta.draw(latent_rng)
    opt_state = own.optimizer.init(generator.params)
    first = _Batch(
      generator=dataclasses.replace(generator, opt_state=opt_state),
      latent=latent,
      latent_state=latent_optimizer.init(latent),
      meta_grads=jax.tree.map(jnp.zeros_like, generator.params),
      best=jnp.zeros(like['image'].shape, jnp.uint8),
      least=jnp.asarray(jnp.inf),
    )
    keys = jax.random.split(look_rng, settings.generator_steps)
    done, every = jax.lax.scan(update, first, keys)
    last, terms = jax.tree.map(lambda x: x[-1], every)
    state = dataclasses.replace(
      state,
      generator=meta.descend(generator, done.meta_grads),
      pool=state.pool.write({'image': done.best}, self.axis_name),
      moments=_mixed(last, state.moments, weight),
      made=state.made + 1,
    )
    return state, terms


def statistics_distance(
  moments: batch_norm.Moments,
  before: batch_norm.Moments,
  weight: jax.Array | float,
) -> jax.Array:
  """How far batches are from a network's BatchNorm statistics, one after other.

  Equation: `sum_l ||w m_l + (1 - w) m'_l|| + ||w v_l + (1 - w) v'_l||`, of the
  gaps m of the mean and v of the variance of this batch, and those of the
  batches before it, which are such means themselves and get no gradient. With
  weight w = 1 of 0..1 it is `batch_norm.distance`.
  """
  before = jax.lax.stop_gradient(before)
  return batch_norm.distance(_mixed(moments, before, weight))


def _mixed(
  new: batch_norm.Moments, old: batch_norm.Moments, weight: jax.Array | float
) -> batch_norm.Moments:
  return jax.tree.map(lambda x, y: weight * x + (1.0 - weight) * y, new, old)


def agreement_gap(
  teacher_logits: jax.Array, student_logits: jax.Array
) -> jax.Array:
  """How alike two networks are where they name the same class, float32[B].

  Equation: `-1[argmax T = argmax S] KL(T || S)`, which is at most 0: images on
  which the student is right for other reasons lower it the most. Of logits
  float[B, K] each.

  Source: Fang et al. (2021), "Contrastive Model Inversion", arXiv:2105.08584.
  """
  agree = teacher_logits.argmax(-1) == student_logits.argmax(-1)
  kl = losses.kl_divergence(teacher_logits, student_logits)
  return -jnp.where(agree, kl, 0.0)


def _reset(
  generator: state_lib.TrainState,
  rng: jax.Array,
  made: jax.Array,
  settings: Settings,
) -> state_lib.TrainState:
  """With a new first layer where it is time for one."""
  now = (made + 1 == settings.reset_at) & (settings.reset_at > 0)
  old = generator.params['fc']
  new = {
    'kernel': 0.02 * jax.random.normal(rng, old['kernel'].shape),
    'bias': jnp.zeros_like(old['bias']),
  }
  first = jax.tree.map(lambda x, y: jnp.where(now, x, y), new, dict(old))
  return dataclasses.replace(
    generator, params={**generator.params, 'fc': first}
  )
