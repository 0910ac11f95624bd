"""Sets of images that an attack made up: their bytes and their worth."""

import io
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import PIL.Image

from undistillable import data, oracle, state as state_lib
from undistillable.attacks import batch_norm
from undistillable.storage import disk
from undistillable.training import evaluate, hosts, parallel

_SHOWN_IMAGES = 100


def as_arrays(
  variables: Mapping[str, Any], normalization: str
) -> dict[str, np.ndarray]:
  """The images uint8[N, H, W, C] in the variables of a run, and their labels.

  Args:
    variables: {'images': {'image': float[N, H, W, C], 'label': int32[N]}}.
    normalization: a name of `data.NORMALIZATIONS`.
  """
  found = variables['images']
  mean, std = data.NORMALIZATIONS[normalization]
  return {
    'image': to_uint8(found['image'], mean, std),
    'label': np.asarray(found['label']),
  }


def judge(material: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
  """What its teacher makes of the images of a finished run."""
  arrays = as_arrays(variables, material.run.normalization)
  logits = material.answers_of('teacher', arrays)
  found = evaluate.scores(logits, arrays['label'])
  distance = batch_norm_distance(
    oracle.open_module(material.program.parents['teacher']),
    material.frozen['teacher'],
    arrays,
    material.program.prepare_test,
  )
  return {
    **{f'images_teacher_{k}': v for k, v in found.items()},
    'images_class_balance': class_balance(logits).tolist(),
    'images_batch_norm_distance': distance,
  }


def watch(material: Any) -> Callable[[Mapping[str, Any]], dict[str, float]]:
  """Draws the first images while they are made; there are no numbers."""
  normalization, folder = material.run.normalization, material.folder

  @hosts.by_main
  def draw(variables: Mapping[str, Any]) -> dict[str, float]:
    shown = as_arrays(variables, normalization)['image'][:_SHOWN_IMAGES]
    write_grid(folder / 'images.png', shown)
    return {}

  return draw


def value_range(normalization: str) -> dict[str, tuple[float, ...]]:
  """Settings low and high: the bytes 0 and 255 of each channel, normalised."""
  mean, std = data.NORMALIZATIONS[normalization]
  return {
    'low': tuple(-m / s for m, s in zip(mean, std, strict=True)),
    'high': tuple((1 - m) / s for m, s in zip(mean, std, strict=True)),
  }


def to_uint8(
  image: np.ndarray | jax.Array, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
  """The bytes of normalised images [N, H, W, C], rounded and clipped."""
  values = np.asarray(image, np.float32) * np.asarray(std, np.float32)
  values = 255 * (values + np.asarray(mean, np.float32))
  return np.asarray(np.clip(np.round(values), 0, 255), np.uint8)


def image_grid(image: np.ndarray, columns: int) -> np.ndarray:
  """Images uint8[N, H, W, C] in rows, with black pixels between them."""
  num_images, height, width, channels = image.shape
  rows = math.ceil(num_images / columns)
  cells = np.zeros((rows * columns, height + 1, width + 1, channels), np.uint8)
  cells[:num_images, :-1, :-1] = image
  grid = cells.reshape(rows, columns, height + 1, width + 1, channels)
  grid = grid.transpose(0, 2, 1, 3, 4)
  return grid.reshape(rows * (height + 1), -1, channels)[:-1, :-1]


def write_grid(path: pathlib.Path, image: np.ndarray) -> None:
  """Writes `image_grid` as a PNG, enlarged where the images are small."""
  grid = image_grid(image, math.ceil(math.sqrt(len(image))))
  zoom = max(1, 32 // image.shape[1])
  grid = grid.repeat(zoom, axis=0).repeat(zoom, axis=1)
  picture = io.BytesIO()
  PIL.Image.fromarray(grid.squeeze(-1) if grid.shape[-1] == 1 else grid).save(
    picture, format='PNG'
  )
  disk.replace(path, picture.getvalue())


def class_balance(logits: np.ndarray) -> np.ndarray:
  """Which share of the images a classifier puts into each class, float64[K]."""
  counts = np.bincount(logits.argmax(-1), minlength=logits.shape[-1])
  return counts / len(logits)


def batch_norm_distance(
  model: nn.Module,
  variables: state_lib.PyTree,
  arrays: Mapping[str, np.ndarray],
  prepare: parallel.PrepareFn,
  *,
  batch_size: int = 256,
) -> float:
  """`batch_norm.distance` of a whole set, as a mean over the layers.

  The images that a network was trained on are not at 0: it saw them in batches,
  and earlier on. The arrays are image, uint8[N, H, W, C], and label; `prepare`
  is `data.batches.prepare_fn` without augmentation; the batch size bounds the
  memory only.
  """

  # Each as one program: op by op, dozens would be compiled.
  @jax.jit
  def read(
    variables: state_lib.PyTree, arrays: Mapping[str, jax.Array]
  ) -> list[batch_norm.Gaps]:
    everything = np.arange(len(arrays['label']))
    batch = prepare(arrays, everything, jax.random.key(0))
    return batch_norm.read(model, variables, batch['image'])[1]

  num_images = len(arrays['label'])
  parts, shares = [], []
  for start in range(0, num_images, batch_size):
    rows = {k: v[start : start + batch_size] for k, v in arrays.items()}
    parts.append(jax.device_get(read(variables, rows)))
    shares.append(len(rows['label']) / num_images)
  gaps = jax.tree.map(
    lambda *x: sum(a * b for a, b in zip(shares, x, strict=True)), *parts
  )

  @jax.jit
  def distance(gaps: list[batch_norm.Gaps]) -> jax.Array:
    return batch_norm.distance(batch_norm.moments(gaps))

  return float(distance(gaps)) / max(1, len(gaps))
