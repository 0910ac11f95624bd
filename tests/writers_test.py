"""What a run leaves for others to read while it is trained."""

import io
import json
import struct
import sys
import time

import pytest
import tensorboardX.proto.event_pb2

from undistillable.training import writers


def _events(folder):
  """[(tag, step, value)] of all event files, as TensorBoard reads them."""
  found = []
  for path in sorted(folder.glob('tensorboard/*')):
    stream = io.BytesIO(path.read_bytes())
    while head := stream.read(12):
      length = struct.unpack('<Q', head[:8])[0]
      event = tensorboardX.proto.event_pb2.Event.FromString(stream.read(length))
      stream.read(4)
      found += [
        (value.tag, event.step, value.simple_value)
        for value in event.summary.value
      ]
  return sorted(found)


def _epoch(number, loss):
  return {'epoch': number, 'step': 5 * number, 'train_loss': loss}


@pytest.mark.parametrize(
  'damage',
  [b'\xb0"epoch": 2}', b'{"apoch": 2}', b'{"epoch": null}', b'2', b'{'],
)
def test_epochs_before_a_damaged_line_are_read(tmp_path, damage):
  good = json.dumps(_epoch(1, 0.5)).encode()
  (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join([good, damage, good]))
  assert writers.read_metrics(tmp_path) == [_epoch(1, 0.5)]
  writers.Metrics(tmp_path).resume(1)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == good + b'\n'


def test_a_run_that_is_resumed_has_every_epoch_once(tmp_path):
  metrics = writers.Metrics(tmp_path)
  metrics.resume(0)
  for number in (1, 2, 3):
    metrics.write(_epoch(number, 1 / number))
  metrics.close()
  # Files of one second have one name.
  (events,) = tmp_path.glob('tensorboard/*')
  events.rename(events.with_name('events.out.tfevents.1.before'))
  again = writers.Metrics(tmp_path)
  again.resume(1)
  assert writers.read_metrics(tmp_path) == [_epoch(1, 1.0)]
  again.write(_epoch(2, 0.25))
  again.write(_epoch(3, float('nan')))
  again.close()
  assert writers.read_metrics(tmp_path) == [
    _epoch(1, 1.0),
    _epoch(2, 0.25),
    _epoch(3, None),
  ]
  assert _events(tmp_path) == [('train_loss', 5, 1.0), ('train_loss', 10, 0.25)]


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_bar_that_goes_to_a_file_writes_few_lines(monkeypatch):
  written = {}
  for kind in (io.StringIO, _Terminal):
    monkeypatch.setattr(sys, 'stderr', kind())
    with writers.Progress(1006, 50) as progress:
      for _ in range(6):  # Longer than a terminal waits between two states.
        time.sleep(0.11)
        progress.advance(1, 0.5, 90.0)
      for index in range(50):
        progress.start(index + 1, 'student')
        for _ in range(20):
          progress.advance(1, 0.5, 90.0)
    written[kind] = sys.stderr.getvalue().count('\r')
  assert written[io.StringIO] <= 3
  assert written[_Terminal] >= 50
