"""A network of which its answers are known, and nothing else.

Whoever computes them: another framework, a service, an exported program.
"""

import hashlib
import importlib
import inspect
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import export

from undistillable import errors
from undistillable.storage import disk

# uint8[B, H, W, C] -> float[B, K], logits or logarithms of scores; or a mapping
# in which they are 'log_scores'
AnswerFn = Callable[[Any], Any]

KNOWN: dict[str, Callable[..., 'BlackBox']] = {}  # By name; see `know`.
_PREFIX = 'black_box_'
_EXPORTED = 'predict.jaxexport'  # In a folder of `undistillable.export`.
_MODULE = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*')
_LOG_SECONDS = 10
_OFF = 1e-3  # By which probabilities may sum to another number than 1.
_WORDS = 4  # Of 32 bits, of the key of an image.
# Images whose keys begin with the same word: of 2**20 random keys more than
# this do in less than one of 10**12 sets.
_ALIKE = 5


class BlackBox(nn.Module):
  """Answers images by a function that need not be of JAX.

  A function that `jax.jit` made becomes a part of whatever is compiled, and may
  be asked about any image. Any other is asked once, by `asked`, about all
  images that there are, and what it said is looked up: no program waits for
  Python, which on a CPU may wait for the program. An image that it was not
  asked about is answered with NaN.

  Attributes:
    num_classes: K.
    answer: what is asked.
    mean, std: with which the images were normalised, one a channel; it is asked
      about the bytes that they were.
    axis_name, dtype: as of any network; they change nothing.
  """

  num_classes: int
  answer: AnswerFn
  mean: tuple[float, ...]
  std: tuple[float, ...]
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @property
  def is_recorded(self) -> bool:
    """Whether its answers are looked up."""
    return not isinstance(self.answer, jax.stages.Wrapped)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """images: float[B, H, W, C] -> logits: float32[B, num_classes]."""
    # Nothing is saved of a network that has no arrays at all.
    self.param('nothing', nn.initializers.zeros, ())
    mean, std = jnp.array([self.mean, self.std]).reshape(2, 1, 1, 1, -1)
    shown = jax.lax.stop_gradient(images).astype(jnp.float32) * std + mean
    levels = jnp.clip(jnp.round(255 * shown), 0, 255).astype(jnp.uint8)
    if not self.is_recorded:
      return _log_scores(self.answer(levels)).astype(jnp.float32)
    if not self.has_variable('params', 'keys'):
      return jnp.full((len(images), self.num_classes), jnp.nan)
    known: Any = self.get_variable('params', 'keys')
    answers: Any = self.get_variable('params', 'answers')
    return _looked_up(_keys(levels), known, answers)

  def asked(
    self,
    sets: Sequence[np.ndarray],
    batch_size: int,
    kept: pathlib.Path | None = None,
  ) -> dict[str, Any]:
    """Its variables: where it is no part of a program, all that it says.

    Args:
      sets: of images uint8[N, H, W, C], all that are in data sets.
      batch_size: images a question.
      kept: folder for what it has said so far, so that nobody pays for it twice
        who was interrupted; None: it is kept nowhere.

    Raises:
      errors.InputError: it fails, or its answers are not one logit, or
        logarithm of a score, a class.
    """
    # By key.
    said = {} if kept is None else _kept_answers(kept, self.num_classes)
    done, total = 0, sum(map(len, sets))
    for images in sets:
      for start in range(0, len(images), batch_size):
        few = images[start : start + batch_size]
        keys = np.asarray(_keys(few))
        new = [key.tobytes() not in said for key in keys]
        if any(new):
          answers = self._answers(few[new])
          if kept is not None and self.is_recorded:
            _keep(kept, keys[new], answers)
          for key, answer in zip(keys[new], answers, strict=True):
            said.setdefault(key.tobytes(), answer)
        done += len(few)
        logging.log_every_n_seconds(
          logging.INFO,
          '%d of %d images are answered',
          _LOG_SECONDS,
          done,
          total,
        )
    if not self.is_recorded:
      self._check_made_up(sets[0][:2].shape)
    answers = np.stack([*said.values()])
    if (answers >= 0).all() and (abs(answers.sum(-1) - 1) < _OFF).all():
      raise errors.InputError(
        'answers look like probabilities; expected logits, or log-probabilities'
      )
    found: dict[str, Any] = {'nothing': np.zeros((), np.float32)}
    if self.is_recorded:
      keys = np.frombuffer(b''.join(said), np.uint32).reshape(-1, _WORDS)
      found['keys'], order = np.unique(keys, axis=0, return_index=True)
      found['answers'] = answers[order]
    return {'params': found}

  def _check_made_up(self, shape: tuple[int, ...]) -> None:
    """Raises InputError if images of no data set, of that shape, break it."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    try:
      self._answers(images)
    except errors.InputError as error:
      raise errors.InputError(f'of random pixels: {error}') from error

  def _answers(self, images: np.ndarray) -> np.ndarray:
    """What it says, checked: float32[B, K]."""
    try:
      # Copies: it may change what it is given, and what it gave before.
      given = np.array(_log_scores(self.answer(images.copy())))
    except (Exception, SystemExit) as error:  # It may do anything.
      raise errors.InputError(
        f'{len(images)} images of shape {images.shape[1:]} were not answered '
        f'({type(error).__name__}: {error})'
      ) from error
    wanted = len(images), self.num_classes
    if given.shape != wanted:
      raise errors.InputError(
        f'{len(images)} images are answered with shape {given.shape}; expected '
        f'one logit a class, {wanted}'
      )
    kinds = jnp.floating, jnp.integer
    if not any(jnp.issubdtype(given.dtype, kind) for kind in kinds):
      raise errors.InputError(f'answers are {given.dtype}; expected numbers')
    with np.errstate(over='ignore'):
      found = given.astype(np.float32)
    # Minus infinity is that of a class which is withheld.
    if not (found < np.inf).all():
      raise errors.InputError('answers are not numbers (NaN), or infinite')
    if np.isneginf(found).all(-1).any():
      raise errors.InputError('an image is answered with minus infinity alone')
    return found


def _keys(images: Any) -> jax.Array:
  """Numbers by which images are told apart: uint8[B, ...] -> uint32[B, 4].

  Sums modulo 2**32, which no order of additions changes, of bytes times odd
  numbers that were drawn once. Two images have the same key with a probability
  of at most `2^-96`: bytes differ by less than `2^8`, so of each sum at least
  24 bits are as good as drawn.
  """
  flat = jnp.asarray(images).reshape(len(images), -1).astype(jnp.uint32)
  rng = np.random.default_rng(0)
  factors = rng.integers(0, 2**32, (_WORDS, flat.shape[1]), np.uint32) | 1
  return jnp.stack(
    [jnp.sum(flat * one[None], axis=1, dtype=jnp.uint32) for one in factors],
    axis=1,
  )


def _keep(folder: pathlib.Path, keys: np.ndarray, answers: np.ndarray) -> None:
  """Writes the answers to images, uint32[B, 4] and float32[B, K]."""
  folder.mkdir(parents=True, exist_ok=True)
  name = hashlib.sha256(keys.tobytes()).hexdigest()
  disk.save_arrays(folder / f'{name}.npz', {'keys': keys, 'answers': answers})


def _kept_answers(
  folder: pathlib.Path, num_classes: int
) -> dict[bytes, np.ndarray]:
  """What `_keep` wrote, by key; what is damaged is asked again."""
  found: dict[bytes, np.ndarray] = {}
  for path in sorted(folder.glob('*.npz')):
    try:
      # Opened here: of what is no archive NumPy leaves it open.
      with path.open('rb') as file, np.load(file) as arrays:
        keys, answers = arrays['keys'], arrays['answers']
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
      logging.warning('%s cannot be read; those images are asked again', path)
      continue
    if answers.shape == (len(keys), num_classes):
      for key, answer in zip(keys, answers, strict=True):
        found.setdefault(key.tobytes(), answer)
  return found


def _looked_up(
  keys: jax.Array, known: jax.Array, answers: jax.Array
) -> jax.Array:
  """The answers float32[B, K] to images by their keys, NaN to unknown ones.

  Args:
    keys: uint32[B, 4].
    known: uint32[N, 4], in lexicographic order.
    answers: float32[N, K].
  """
  known, answers = jnp.asarray(known), jnp.asarray(answers)
  start = jnp.searchsorted(known[:, 0], keys[:, 0])
  found = jnp.full((len(keys), answers.shape[1]), jnp.nan, answers.dtype)
  for offset in range(_ALIKE):
    row = jnp.minimum(start + offset, len(known) - 1)
    same = (known[row] == keys).all(1, keepdims=True)
    found = jnp.where(same, answers[row], found)
  return found


def is_recorded(name: str) -> bool:
  """Whether a name of `KNOWN` is of one whose answers are looked up."""
  return name in KNOWN and KNOWN[name](2).is_recorded


def know(
  source: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[str, pathlib.Path]:
  """Makes a black box known to `models.get_model`.

  Args:
    source: a file of `jax.export`, of a function of uint8[B, H, W, C] for any
      B; the folder that `undistillable.export` wrote it to; or a module of
      one's own, as 'my_package.my_answers', with a function `answer`.
    mean: with which its images are normalised; one a channel.
    std: likewise.

  Returns:
    The name, which follows from the file's content, and the file.

  Raises:
    errors.InputError: there is no such file or module, or it does not answer.
  """
  path = pathlib.Path(source).expanduser()
  if path.suffix == '.py':
    raise errors.InputError(
      f'{source} is a file of Python; name the module, as {path.stem}'
    )
  if path.is_dir():
    path /= _EXPORTED
  if path.is_file():
    answer = _exported(path)
  elif _MODULE.fullmatch(source):
    answer, path = _of_module(source)
  else:
    raise errors.InputError(
      f'{source!r} is neither a file that jax.export wrote, nor a folder with '
      f'{_EXPORTED}, nor a module as my_package.my_answers'
    )
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  name = _PREFIX + digest[:8]

  def make(num_classes: int, **overrides: Any) -> BlackBox:
    return BlackBox(num_classes, answer, tuple(mean), tuple(std), **overrides)

  KNOWN[name] = make
  return name, path


def _exported(path: pathlib.Path) -> AnswerFn:
  """The function in a file of `jax.export`."""
  try:
    exported = export.deserialize(bytearray(path.read_bytes()))
  except Exception as error:  # It has no type of its own for damage.
    raise errors.InputError(
      f'{path} is no file of jax.export, or of one that this JAX cannot read '
      f'({type(error).__name__}: {error})'
    ) from error
  given = exported.in_avals
  if (
    len(given) != 1
    or given[0].dtype != jnp.uint8
    or len(given[0].shape) != 4
    or not str(given[0].shape[0]).isidentifier()  # As 2*b is none.
  ):
    told = ', '.join(map(str, given))
    raise errors.InputError(
      f'{path} is a function of ({told}); expected one of uint8[batch, H, W, '
      'C], for any number of images'
    )
  return jax.jit(exported.call)


def _of_module(name: str) -> tuple[AnswerFn, pathlib.Path]:
  """The function `answer` of a module, and the file of the module."""
  try:
    module = importlib.import_module(name)
  except (Exception, SystemExit) as error:  # It can fail in any way.
    raise errors.InputError(
      f'{name} is no file, and cannot be imported as a module '
      f'({type(error).__name__}: {error})'
    ) from error
  answer = getattr(module, 'answer', None)
  if not callable(answer) and getattr(module, '__file__', None) is None:
    raise errors.InputError(
      f'{name} is a folder without {_EXPORTED}, and no module'
    )
  if not callable(answer):
    raise errors.InputError(
      f'{name} has no function answer; expected answer(images), of '
      'uint8[B, H, W, C] -> float[B, K]'
    )
  return answer, pathlib.Path(inspect.getfile(module))


def _log_scores(given: Any) -> Any:
  """What counts of an answer."""
  return given['log_scores'] if isinstance(given, Mapping) else given
