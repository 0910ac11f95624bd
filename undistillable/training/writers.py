"""Where the numbers of a run go: JSON lines, TensorBoard, a progress bar."""

import contextlib
import json
import logging
import math
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import tqdm.auto

from undistillable.storage import disk

_SECS_BETWEEN_LINES = 60.0  # Of a progress bar that goes to a file.
# A terminal that is gone, or has another encoding, ends no training.
_UNSEEN = contextlib.suppress(OSError, ValueError)


class Metrics:
  """One line of metrics.jsonl an epoch, and the same as TensorBoard events.

  A run that is resumed drops what it had written of epochs that it is about to
  repeat: TensorBoard would show them twice.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._path = folder / 'metrics.jsonl'
    self._events: Any = None
    self.lines: list[dict[str, Any]] = []  # What is written by now.

  def resume(
    self, epoch: int, saved: list[dict[str, Any]] | None = None
  ) -> None:
    """Keeps what was written up to and including `epoch`.

    Args:
      epoch: the last one that is not repeated.
      saved: these lines, where they were saved with the state after it.
    """
    known = read_metrics(self._folder) if saved is None else saved
    self.lines = [line for line in known if line['epoch'] <= epoch]
    text = ''.join(json.dumps(line) + '\n' for line in self.lines)
    disk.replace(self._path, text.encode())
    self.close()
    shutil.rmtree(self._folder / 'tensorboard', ignore_errors=True)
    for line in self.lines:
      self._write_events(line)

  def write(self, scalars: Mapping[str, float]) -> None:
    """Appends one epoch; `scalars` holds epoch and step among the others."""
    finite = {
      k: v if math.isfinite(v) else None
      for k, v in scalars.items()
      if v is not None
    }
    try:
      with self._path.open('a', encoding='utf-8') as file:
        file.write(json.dumps(finite) + '\n')
    except OSError as error:  # A disk that is full does not say which.
      raise OSError(error.errno, error.strerror, str(self._path)) from error
    self.lines.append(finite)
    self._write_events(finite)

  def close(self) -> None:
    """Writes what is still buffered."""
    if self._events:
      self._events.close()
    self._events = None

  def _write_events(self, scalars: Mapping[str, float | None]) -> None:
    if self._events is None:
      self._events = _events(self._folder / 'tensorboard') or False
    for key, value in scalars.items():
      if self._events and value is not None and key not in ('epoch', 'step'):
        self._events.add_scalar(key, value, scalars.get('step'))


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
  """The epochs of a run, up to a line that was cut off or is damaged."""
  path = folder / 'metrics.jsonl'
  if not path.exists():
    return []
  records = []
  for line in path.read_bytes().splitlines():
    try:
      record = json.loads(line)
    except ValueError:  # Also of what is no text.
      break
    if not isinstance(record, dict) or not isinstance(record.get('epoch'), int):
      break
    records.append(record)
  return records


class Progress(contextlib.AbstractContextManager):
  """One bar over all runs: which run, loss, accuracy, time left."""

  def __init__(self, total_steps: int, num_runs: int, *, show: bool = True):
    self._num_runs = num_runs
    in_notebook = 'ipykernel' in sys.modules
    # A file would keep every state of the bar.
    self._watched = sys.stderr.isatty() or in_notebook
    # A notebook has its own in the place of this one, if it is no wider.
    bar = '{bar}' if in_notebook else '{bar:12}'
    self._bar = tqdm.auto.tqdm(
      total=total_steps,
      disable=not show,
      unit='step',
      mininterval=0.1 if self._watched else _SECS_BETWEEN_LINES,
      smoothing=0.05,
      dynamic_ncols=True,
      bar_format=(
        f'{{desc}} |{bar}| {{percentage:3.0f}}% '
        '[{elapsed}<{remaining}{postfix}]'
      ),
    )

  def start(self, index: int, label: str, num_others: int = 0) -> None:
    """Begins the run `index`, counted from 1, and others beside it."""
    others = f' and {num_others} beside it' if num_others else ''
    self.say(f'run {index}/{self._num_runs} {label}{others}')

  def say(self, text: str) -> None:
    """Writes what is being done before the bar."""
    with _UNSEEN:
      self._bar.set_description_str(text, refresh=self._watched)

  def advance(self, steps: int, loss: float, accuracy: float) -> None:
    """Counts steps and shows the latest numbers."""
    with _UNSEEN:
      self._bar.set_postfix_str(
        f'loss {loss:.3f}, acc {accuracy:.1f} %', refresh=False
      )
      self._bar.update(steps)

  def __exit__(self, *exc_info: object) -> None:
    with _UNSEEN:
      self._bar.close()
