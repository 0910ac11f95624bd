"""Peaks, entropies and ranks against hand-computed ones, and their figure."""

import json
import math

import numpy as np
import pytest
from matplotlib import colors

from undistillable import losses
from undistillable.report import draw, peaks

# Mean 3, so half the height of the top is 6 and 6.5: one and two peaks.
LOGITS = np.array([[9.0, 1.0, 1.0, 1.0], [10.0, 7.0, 0.0, -5.0]])


def test_peaks_are_at_least_half_as_high_as_the_top():
  np.testing.assert_array_equal(peaks.count(LOGITS), [1, 2])
  # Mean 2, top 6, so the threshold is 4: exactly there is a peak.
  assert peaks.count([[6.0, 4.0, 0.0, -2.0]]) == 2
  assert peaks.count([[6.0, 3.99, 0.0, -1.99]]) == 1


def test_a_class_that_is_withheld_is_no_peak_and_moves_no_mean():
  withheld = np.pad(LOGITS, ((0, 0), (0, 3)), constant_values=losses.WITHHELD)
  np.testing.assert_array_equal(peaks.count(withheld), peaks.count(LOGITS))


def test_peaks_do_not_depend_on_offset_or_scale():
  logits = np.random.default_rng(0).normal(size=(50, 10))
  counts = peaks.count(logits)
  assert len(set(counts)) > 2
  np.testing.assert_array_equal(peaks.count(0.01 * logits + 5), counts)


@pytest.mark.parametrize('value', [0.0, 0.1, -0.7, 1e30])
@pytest.mark.parametrize('num_classes', [1, 3, 10, 100])
def test_equal_logits_are_all_peaks(value, num_classes):
  assert peaks.count([[value] * num_classes]) == num_classes


def test_statistics_by_hand():
  logits = np.log([[4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
  stats = peaks.statistics(logits, [1, 0], 0.5)
  entropy = math.log(2) * (1 / 2 + 2 / 4 + 3 / 8 + 3 / 8)
  assert stats['entropy'] == pytest.approx((entropy + math.log(4)) / 2)
  # At temperature 1/2 probabilities are squared: 16, 4, 1, 1 of 22.
  p = np.array([16, 4, 1, 1]) / 22
  entropy = -np.sum(p * np.log(p))
  assert stats['entropy_at_temperature'] == pytest.approx(
    (entropy + math.log(4)) / 2
  )
  assert stats['mean_top_probability'] == pytest.approx((1 / 2 + 1 / 4) / 2)
  assert stats['mean_rank'] == 1.5
  assert stats['top_share'] == 50.0
  # Logs 2, 1, 0, 0 of 2: the mean is 0.75 and the threshold 1.375.
  assert stats['histogram'] == [1, 0, 0, 1]
  assert stats['mean_peaks'] == 2.5
  assert stats['num_images'] == 2
  assert stats['temperature'] == 0.5


def test_the_share_on_top_is_the_accuracy_even_with_ties():
  rng = np.random.default_rng(2)
  logits, labels = rng.integers(0, 3, (200, 40)), rng.integers(0, 40, 200)
  stats = peaks.statistics(logits, labels, 1.0)
  accuracy = 100 * np.mean(logits.argmax(axis=1) == labels)
  assert stats['top_share'] == pytest.approx(accuracy)
  assert 1 < stats['mean_rank'] < 40


def test_float32_extremes_stay_finite_and_plain_json():
  logits = np.array([[3e38, -3e38, 0.0], [1e4, 0.0, -1e4]], np.float32)
  stats = peaks.statistics(logits, np.array([0, 2]), 4.0)
  json.dumps(stats, allow_nan=False)
  assert stats['entropy'] == 0.0
  assert stats['mean_top_probability'] == 1.0
  assert stats['mean_rank'] == 2.0


def _by_name():
  """Two seeds of 10 images: the shares are multiples of 10%."""
  normal = [
    {'histogram': [9, 1], 'mean_peaks': 1.1},
    {'histogram': [7, 3], 'mean_peaks': 1.3},
  ]
  nasty = [
    {'histogram': [1, 2, 3, 2, 1, 0, 1], 'mean_peaks': 3.3},
    {'histogram': [1, 4, 3, 2], 'mean_peaks': 2.6},
  ]
  return {'normal': normal, 'nasty': nasty}


def _axes(by_name):
  bars, _ = peaks.figure(by_name).draw()
  return bars.axes[0]


def test_bars_are_means_and_circles_seeds():
  axes = _axes(_by_name())
  normal, nasty = axes.containers
  heights = [[bar.get_height() for bar in bars] for bars in (normal, nasty)]
  np.testing.assert_allclose(heights[0], [80, 20, 0, 0, 0])
  np.testing.assert_allclose(heights[1], [10, 30, 30, 20, 10])
  np.testing.assert_allclose(
    axes.lines[1].get_ydata(), [10, 20, 30, 20, 20, 10, 40, 30, 20, 0]
  )
  drawn = [colors.to_hex(bars[0].get_facecolor()) for bars in (normal, nasty)]
  assert drawn == [draw.COLORS['normal'], draw.COLORS['defense-0']]


def test_bars_of_both_teachers_do_not_overlap():
  for normal, nasty in zip(*_axes(_by_name()).containers, strict=True):
    assert normal.get_x() + normal.get_width() < nasty.get_x()


def test_one_seed_has_no_circles():
  by_name = {name: found[:1] for name, found in _by_name().items()}
  assert not _axes(by_name).lines


def test_words_have_the_numbers():
  shown = peaks.figure(_by_name())
  assert shown.title.endswith('normal 1.2, nasty 3.0')
  assert 'normal teacher, 1.2 on average: 1: 80.0%, 2: 20.0%' in shown.alt
  assert '4: 20.0%, 5 or more: 10.0%.' in shown.alt
  assert 'half as far above the mean' in shown.caption


def test_nothing_to_show_is_no_figure():
  assert peaks.figure({}).draw is None
  assert peaks.figure({'normal': []}).draw is None
