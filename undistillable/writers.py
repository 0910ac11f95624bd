"""Where the numbers of a run go: JSON lines, TensorBoard, a progress bar."""

import contextlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tqdm.auto

from undistillable import errors

# A terminal that is gone, or has another encoding, ends no training.
_UNSEEN = contextlib.suppress(OSError, ValueError)


def write_json(path: pathlib.Path, content: object) -> None:
  """Writes a file that is there whole or not at all."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  text = json.dumps(content, indent=2, sort_keys=False, allow_nan=False)
  temporary.write_text(text + '\n', encoding='utf-8')
  os.replace(temporary, path)


def as_json(content: object) -> Any:
  """The content as it would be read again: lists for tuples."""
  return json.loads(json.dumps(content))


def read_json(path: pathlib.Path) -> Any:
  """The content of a file of ours.

  Raises:
    errors.InputError: it is not JSON, as after a full disk.
  """
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise errors.InputError(
      f'{path} cannot be read ({error}); delete it to have it made again'
    ) from error


class Metrics:
  """One line of metrics.jsonl an epoch, and the same as TensorBoard events.

  A run that is resumed drops the lines of epochs that it is about to repeat.
  """

  def __init__(self, folder: pathlib.Path, *, tensorboard: bool = True):
    self._path = folder / 'metrics.jsonl'
    self._events = None
    if tensorboard:
      self._events = _events(folder / 'tensorboard')

  def resume(self, epoch: int) -> None:
    """Keeps the lines up to and including `epoch`."""
    lines = list(read_metrics(self._path.parent))
    with self._path.open('w', encoding='utf-8') as file:
      for line in lines:
        if line['epoch'] <= epoch:
          file.write(json.dumps(line) + '\n')

  def write(self, scalars: Mapping[str, float]) -> None:
    """Appends one epoch; `scalars` holds epoch and step among the others."""
    finite = {
      k: v if math.isfinite(v) else None
      for k, v in scalars.items()
      if v is not None
    }
    with self._path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(finite) + '\n')
    if self._events:
      for key, value in finite.items():
        if value is not None and key not in ('epoch', 'step'):
          self._events.add_scalar(key, value, int(scalars['step']))

  def close(self) -> None:
    """Writes what is still buffered."""
    if self._events:
      self._events.close()


def _events(folder: pathlib.Path) -> Any:
  """A writer of TensorBoard events; None where there can be none."""
  try:
    import tensorboardX  # Slow to import, and of no use to a library user.

    return tensorboardX.SummaryWriter(str(folder))
  # They only repeat metrics.jsonl, and protobuf, of which a machine may have
  # another version, raises what it likes when it is imported.
  except Exception as error:
    logging.warning('there are no TensorBoard events: %s', error)
    return None


def read_metrics(folder: pathlib.Path) -> list[dict]:
  """The epochs of a run; a last line cut off by a crash is left out."""
  path = folder / 'metrics.jsonl'
  if not path.exists():
    return []
  records = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return records


class Progress:
  """One bar over all runs: which run, loss, accuracy, time left."""

  def __init__(self, total_steps: int, num_runs: int, *, show: bool = True):
    self._num_runs = num_runs
    self._bar = tqdm.auto.tqdm(
      total=total_steps,
      disable=not show,
      unit='step',
      smoothing=0.05,
      dynamic_ncols=True,
      bar_format=(
        '{desc} |{bar:12}| {percentage:3.0f}% [{elapsed}<{remaining}{postfix}]'
      ),
    )

  def start(self, index: int, label: str, num_others: int = 0) -> None:
    """Begins the run `index`, counted from 1, and others beside it."""
    others = f' and {num_others} beside it' if num_others else ''
    with _UNSEEN:
      self._bar.set_description_str(
        f'run {index}/{self._num_runs} {label}{others}'
      )

  def advance(self, steps: int, loss: float, accuracy: float) -> None:
    """Counts steps and shows the latest numbers."""
    with _UNSEEN:
      self._bar.set_postfix_str(
        f'loss {loss:.3f}, acc {accuracy:.1f} %', refresh=False
      )
      self._bar.update(steps)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *exc_info: object) -> None:
    with _UNSEEN:
      self._bar.close()
