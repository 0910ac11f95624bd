"""Fast: images from the weights in a few steps, from where others began.

Batches of images are made one by one, as in DeepInversion, but by a generator
and in a few updates of it: a second generator learns to be a start from which
that is enough. The student learns from all batches so far.

Source: Fang et al. (2022), "Up to 100x Faster Data-free Knowledge
Distillation", AAAI, arXiv:2112.06253, and its code,
github.com/zju-vipa/Fast-Datafree.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from undistillable import (
  data,
  errors,
  losses,
  method,
  oracle,
  state as state_lib,
)
from undistillable.attacks import (
  dfme,
  generators,
  inversion_losses,
  synthesis,
)
from undistillable.data import augment

PARENTS = ('teacher',)
ACCESS = 'weights'
DATA = 'none'

_BETA_1 = 0.5  # Of Adam.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Those of the released code, "Fast-10" for ResNet-34, with our generator.

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
    for name, least in (
      ('latent_dim', 1),
      ('generator_width', 2),
      ('generator_steps', 1),
      ('warmup', 0),
      ('reset_at', 0),
      ('student_steps', 1),
      ('pool', 1),
    ):
      losses.check_whole(name, getattr(self, name), least=least)
    for name in (
      'generator_learning_rate',
      'latent_learning_rate',
      'temperature',
    ):
      losses.check_positive(name, getattr(self, name))
    for name in ('batch_norm', 'cross_entropy', 'adversarial'):
      losses.check_not_negative(name, getattr(self, name))
    losses.check_share('momentum', self.momentum)
    losses.check_one_of('augment', self.augment, augment.AUGMENTATIONS)


# Of each BatchNorm layer the gaps of mean and variance, float32[C] each.
Moments = tuple[tuple[jax.Array, jax.Array], ...]


@flax.struct.dataclass
class State(generators.State):
  """Two networks, see `generators.State`, and what was made.

  Attributes:
    pool: of the images, uint8.
    moments: those of the batches so far, see `statistics_distance`.
    made: int32[], batches so far.
  """

  pool: generators.Memory
  moments: Moments
  made: jax.Array


class _Batch(NamedTuple):
  """A batch in the making.

  Attributes:
    params: of its generator.
    latent: float32[B, Z].
    opt_state: of both.
    meta_grads: the sum of the gradients of params.
    best: its images where the loss was lowest, uint8[B, H, W, C].
    least: that loss.
    moments: of the last images.
    terms: of the loss, alike.
  """

  params: state_lib.PyTree
  latent: jax.Array
  opt_state: state_lib.PyTree
  meta_grads: state_lib.PyTree
  best: jax.Array
  least: jax.Array
  moments: Moments
  terms: method.Metrics


def updates_per_epoch(settings: Settings, steps: int) -> int:
  """How often an epoch updates the student, which its schedule must know."""
  return settings.student_steps * steps


def remedy(settings: Settings) -> str:
  """What to change where the training diverges."""
  return (
    f'lower generator_learning_rate (now {settings.generator_learning_rate})'
  )


def plan(job: Any, teacher: Any, student: str) -> list[Any]:
  """One student, who makes his images on the way."""
  normalization = data.NORMALIZATIONS[job.config.normalization]
  low, high = synthesis.value_range(*normalization)
  run = job.student(
    'fast', student, {'teacher': teacher}, {'low': low, 'high': high}
  )
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
  parents: Mapping[str, oracle.Oracle | nn.Module],
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
  student `student_steps` times.

  A batch is {'image': float[B, H, W, C], of which shape and type alone are
  read; 'index': int32[B], distinct numbers, from which all noise is drawn}.

  Args:
    model: the student to train.
    optimizer: of the student; updated `student_steps` times a step, which a
      schedule must know.
    settings: see there.
    parents: 'teacher', its module, or an oracle that has it; its variables
      are frozen['teacher'].

  Returns:
    The method. Metrics: loss, of the student; accuracy, the percentage of
    images on which it agrees with the teacher; batch_norm, cross_entropy and
    adversarial, the terms of the last images of a batch, without their weights.

  Raises:
    ValueError: the weights of the teacher are not known.

  Source: Fang et al. (2022), arXiv:2112.06253, and the released code.
  """
  teacher = oracle.open_module(parents['teacher'])
  teacher_fn = method.frozen_fn(teacher)
  augment_fn = augment.get_augmentation(settings.augment)
  trainer = generators.Trainer(
    settings.latent_dim,
    settings.generator_width,
    1e-5,
    optax.adam(
      settings.generator_steps * settings.generator_learning_rate, _BETA_1
    ),
  )
  inner = (
    optax.adam(settings.generator_learning_rate, _BETA_1),
    optax.adam(settings.latent_learning_rate, _BETA_1),
  )

  def copy_loss(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    kl = losses.kl_divergence(
      seen.answers['teacher'], seen.logits, temperature=settings.temperature
    )
    return settings.temperature**2 * kl, {}

  student = method.supervised(
    model, optimizer, copy_loss, answer_fns={'teacher': teacher_fn}
  )

  def look(share: jax.Array, rng: jax.Array, like: jax.Array) -> jax.Array:
    """Images in 0..1 as the networks see them."""
    seen = augment_fn(rng, share)
    images = dfme.stretch(seen, settings.low, settings.high)
    return images.astype(like.dtype)

  def read(
    variables: state_lib.PyTree, images: jax.Array, axis_name: str | None
  ) -> tuple[jax.Array, Moments]:
    """What the teacher says, and how its statistics are missed."""
    logits, gaps = inversion_losses.read_batch_norm(teacher, variables, images)
    gaps = method.average(gaps, axis_name)
    # E[(x - mu)^2] is the variance and the square of the mean's gap.
    return logits, tuple(
      (gap.mean, gap.square - jnp.square(gap.mean)) for gap in gaps
    )

  def init(rng: jax.Array, batch: method.Batch, frozen: method.Frozen) -> State:
    student_rng, generator_rng = jax.random.split(rng)
    image = batch['image']
    _, moments = jax.eval_shape(
      lambda x, image: read(x, image, None), frozen['teacher'], image
    )
    pool = jnp.zeros((settings.pool, *image.shape[1:]), jnp.uint8)
    nothing = jnp.zeros((), jnp.int32)
    return State(
      student=student.init(student_rng, batch, frozen),
      generator=trainer.init(generator_rng, batch),
      pool=generators.Memory({'image': pool}, nothing),
      moments=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moments),
      made=nothing,
    )

  def synthesize(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None,
  ) -> tuple[State, method.Metrics]:
    """Makes a batch, and what is learned by it."""
    latent_rng, class_rng, reset_rng, look_rng = jax.random.split(rng, 4)
    generator = _reset(state.generator, reset_rng, state.made, settings)
    adversarial = jnp.where(
      state.made < settings.warmup, 0.0, settings.adversarial
    )
    weight = jnp.where(state.made > 0, 1.0 - settings.momentum, 1.0)
    num_devices = dfme.num_devices(axis_name)
    answers = jax.eval_shape(teacher_fn, frozen['teacher'], batch['image'])
    classes = _draw_classes(class_rng, batch['index'], answers.shape[-1])

    def loss_fn(
      params: state_lib.PyTree, latent: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, Any]:
      painter = dataclasses.replace(generator, params=params)
      inputs, _ = trainer.paint(painter, batch, latent, axis_name)
      share = 0.5 + 0.5 * jnp.tanh(inputs)
      seen = look(share, rng, batch['image'])
      logits, moments = read(frozen['teacher'], seen, axis_name)
      student_logits: Any = model.apply(
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

    def body(making: _Batch, key: jax.Array) -> tuple[_Batch, None]:
      grad_fn = jax.value_and_grad(loss_fn, (0, 1), has_aux=True)
      (loss, (share, moments, terms)), (of_params, of_latent) = grad_fn(
        making.params, making.latent, key
      )
      loss, terms, of_params = method.average(
        (loss, terms, of_params), axis_name
      )
      # A device takes the mean over its own images; this one is over all.
      grads = of_params, of_latent / num_devices
      old = making.params, making.latent
      updates, opt_states = zip(
        *(
          one.update(grad, opt_state, before)
          for one, grad, opt_state, before in zip(
            inner, grads, making.opt_state, old, strict=True
          )
        ),
        strict=True,
      )
      params, latent = optax.apply_updates(old, updates)
      image = jnp.round(255.0 * share).astype(jnp.uint8)
      making = _Batch(
        params=params,
        latent=latent,
        opt_state=opt_states,
        meta_grads=jax.tree.map(jnp.add, making.meta_grads, of_params),
        best=jnp.where(loss < making.least, image, making.best),
        least=jnp.minimum(loss, making.least),
        moments=jax.lax.stop_gradient(moments),
        terms=terms,
      )
      return making, None

    latent = trainer.draw(batch, latent_rng)
    first = _Batch(
      params=generator.params,
      latent=latent,
      opt_state=(inner[0].init(generator.params), inner[1].init(latent)),
      meta_grads=jax.tree.map(jnp.zeros_like, generator.params),
      best=jnp.zeros(batch['image'].shape, jnp.uint8),
      least=jnp.asarray(jnp.inf),
      moments=state.moments,
      terms=dict.fromkeys(_TERMS, jnp.zeros(())),
    )
    keys = jax.random.split(look_rng, settings.generator_steps)
    done, _ = jax.lax.scan(body, first, keys)
    updates, opt_state = trainer.optimizer.update(
      done.meta_grads, generator.opt_state, generator.params
    )
    generator = dataclasses.replace(
      generator,
      params=optax.apply_updates(generator.params, updates),
      opt_state=opt_state,
    )
    moments = jax.tree.map(
      lambda old, new: (1.0 - weight) * old + weight * new,
      state.moments,
      done.moments,
    )
    state = dataclasses.replace(
      state,
      generator=generator,
      pool=state.pool.write({'image': done.best}, axis_name),
      moments=moments,
      made=state.made + 1,
    )
    return state, done.terms

  def step(
    state: State,
    frozen: method.Frozen,
    batch: method.Batch,
    rng: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[State, method.Metrics]:
    making_rng, learning_rng = jax.random.split(rng)

    def another(
      i: jax.Array, carry: tuple[State, method.Metrics]
    ) -> tuple[State, method.Metrics]:
      key = jax.random.fold_in(making_rng, i)
      return synthesize(carry[0], frozen, batch, key, axis_name)

    number = jnp.where(state.step == 0, 1 + settings.warmup, 1)
    start = (state, dict.fromkeys(_TERMS, jnp.zeros(())))
    state, terms = jax.lax.fori_loop(0, number, another, start)

    def learn(student_state: Any, key: jax.Array) -> tuple[Any, method.Metrics]:
      draw_rng, look_rng, student_rng = jax.random.split(key, 3)
      drawn = state.pool.draw(draw_rng, batch['index'])['image']
      images = look(drawn / 255.0, look_rng, batch['image'])
      logits = teacher_fn(frozen['teacher'], images)
      lesson = {
        'image': images,
        'label': logits.argmax(-1),
        'answers': {'teacher': logits},
      }
      return student.step(student_state, {}, lesson, student_rng, axis_name)

    keys = jax.random.split(learning_rng, settings.student_steps)
    student_state, every = jax.lax.scan(learn, state.student, keys)
    generator = dataclasses.replace(
      state.generator, step=state.generator.step + 1
    )
    state = dataclasses.replace(
      state, student=student_state, generator=generator
    )
    return state, terms | jax.tree.map(jnp.mean, every)

  return method.Method(init, step)


_TERMS = ('adversarial', 'batch_norm', 'cross_entropy')


def statistics_distance(
  moments: Moments, before: Moments, weight: jax.Array | float
) -> jax.Array:
  """How far batches are from a network's BatchNorm statistics, one after other.

  Equation: `sum_l ||w m_l + (1 - w) m'_l|| + ||w v_l + (1 - w) v'_l||`, of the
  gaps m of the mean and v of the variance of this batch, and those of the
  batches before it, which are such means themselves. With w = 1 it is
  `inversion_losses.batch_norm_distance`.

  Args:
    moments: gaps (m, v) of each layer, float32[C] each.
    before: m' and v', alike; no gradient reaches them.
    weight: w, in 0..1.

  Returns:
    float32[].

  Example:
    >>> gap = (jnp.array([3.0, 4.0]), jnp.array([0.0, 0.0]))
    >>> float(statistics_distance((gap,), (gap,), 0.1))
    5.0
  """
  total = jnp.zeros((), jnp.float32)
  before = jax.lax.stop_gradient(before)
  for new, old in zip(
    jax.tree.leaves(moments), jax.tree.leaves(before), strict=True
  ):
    mean = weight * new + (1.0 - weight) * old
    total += inversion_losses.root(jnp.sum(jnp.square(mean)))
  return total


def agreement_gap(
  teacher_logits: jax.Array, student_logits: jax.Array
) -> jax.Array:
  """How alike two networks are where they name the same class.

  Equation: `-1[argmax T = argmax S] KL(T || S)`, which is at most 0: images on
  which the student is right for other reasons lower it the most.

  Args:
    teacher_logits: float[B, K].
    student_logits: float[B, K].

  Returns:
    float32[B].

  Source: Fang et al. (2021), "Contrastive Model Inversion", arXiv:2105.08584.

  Example:
    >>> z = jnp.array([[2.0, 0.0]])
    >>> [float(agreement_gap(z, one)[0]) == 0.0 for one in (z, -z, 2.0 * z)]
    [True, True, False]
  """
  agree = teacher_logits.argmax(-1) == student_logits.argmax(-1)
  kl = losses.kl_divergence(teacher_logits, student_logits)
  return -jnp.where(agree, kl, 0.0)


def _draw_classes(
  rng: jax.Array, index: jax.Array, num_classes: int
) -> jax.Array:
  """What each image shall show, int32[B]; see `generators.Memory.draw`."""

  def one(index: jax.Array) -> jax.Array:
    return jax.random.randint(
      jax.random.fold_in(rng, index), (), 0, num_classes
    )

  return jax.vmap(one)(index)


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
