"""HTC: false peaks are softened by a very high temperature.

Source: Jandial et al. (2022), "Distilling the Undistillable: Learning from a
Nasty Teacher", arXiv:2210.11728; the equation is that of a public
implementation by others, for its authors published none.
"""

import dataclasses

import flax.linen as nn
import jax
import optax

from undistillable import losses, method, oracle
from undistillable.attacks import kd

PARENTS = ('teacher',)


@dataclasses.dataclass(frozen=True)
class Settings(kd.Settings):
  """Those of the public implementation for CIFAR-10; alpha is as of `kd`.

  Attributes:
    temperature: T > 0, of the teacher; for CIFAR-100 it is 70 there.
    form: 'asymmetric', or 'symmetric': the student at T as well, which is `kd`
      at that temperature.
  """

  temperature: float = 50.0
  form: str = 'asymmetric'

  def __post_init__(self) -> None:
    super().__post_init__()
    losses.check_one_of('form', self.form, _FORMS)


def make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  parents: oracle.Parents,
) -> method.Method:
  """Distils a teacher at a very high temperature, on labelled images.

  Equation: `alpha D + (1 - alpha) CE(S(x), y)`, with D of `asymmetric` or
  `symmetric`. As T grows the first becomes label smoothing with epsilon alpha,
  but for a constant: compare it with that control. Metric `divergence` is D.
  """
  divergence_fn = _FORMS[settings.form]

  def loss_fn(seen: method.Forward) -> tuple[jax.Array, method.Metrics]:
    divergence = divergence_fn(
      seen.logits, seen.answers['teacher'], temperature=settings.temperature
    )
    cross_entropy = losses.cross_entropy(seen.logits, seen.batch['label'])
    alpha = settings.alpha
    loss = alpha * divergence + (1 - alpha) * cross_entropy
    return loss, {'divergence': divergence}

  return oracle.student(model, optimizer, loss_fn, parents)


def asymmetric(
  student: jax.Array, teacher: jax.Array, *, temperature: float
) -> jax.Array:
  """`KL(softmax(z_T / T) || softmax(z_S))`, float32[B]; no factor T^2."""
  return losses.kl_divergence(losses.log_scores(teacher, temperature), student)


def symmetric(
  student: jax.Array, teacher: jax.Array, *, temperature: float
) -> jax.Array:
  """The divergence of `kd`, `T^2 KL(z_T || z_S)` at T; float32[B]."""
  kl = losses.kl_divergence(teacher, student, temperature=temperature)
  return temperature**2 * kl


_FORMS = {'asymmetric': asymmetric, 'symmetric': symmetric}
