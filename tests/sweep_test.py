"""The sweep figure: every point, honest gaps and axes, numbers in words."""

import numpy as np
import pytest
from matplotlib import colors

from undistillable.report import draw, stats, sweeps

OMEGAS = (0, 0.001, 0.004, 0.01, 0.04, 0.1)


def _cells(
  kind, accuracies, xs=OMEGAS, model='cnn8', defense='nasty', attack='kd'
):
  """Of one line of a panel; 'teacher' is a protected one."""
  return [
    {
      'role': 'teacher' if kind == 'teacher' else 'student',
      'kind': 'protected' if kind == 'teacher' else kind,
      'attack': {'control': 'scratch', 'teacher': None}.get(kind, attack),
      'defense': None if kind == 'control' else defense,
      'model': model,
      'x': x,
      'accuracy': stats.stat(dict(enumerate(accuracy))),
    }
    for x, accuracy in zip(xs, accuracies, strict=True)
  ]


def _study(students=('cnn8', 'resnetc18')):
  cells = _cells('teacher', [(90.0 - i,) for i in range(6)], model='big')
  for model in students:
    cells += _cells('control', [(80.0, 82.0)], (None,), model)
    cells += _cells('normal', [(83.0, 84.0)], (None,), model)
    losses = [(82.0 - 5 * i, 80.0 - 5 * i) for i in range(6)]
    cells += _cells('protected', losses, model=model)
  return cells


def _axes(cells, **kwargs):
  """Of each panel but the legend."""
  shown = sweeps.figure(cells, 'Sweep', 'omega', **kwargs)
  *panels, _ = shown.draw()
  return [panel.axes[0] for panel in panels]


def _lines(axes, marker):
  return [line for line in axes.lines if line.get_marker() == marker]


def test_line_is_the_mean_and_dots_are_the_seeds():
  cells = _cells('protected', [(80.0, 82.0), (70.0, 71.0)], (0, 1))
  (axes,) = _axes(cells)
  (line,), (dots,) = _lines(axes, 'o'), _lines(axes, '.')
  np.testing.assert_allclose(line.get_ydata(), [81.0, 70.5])
  np.testing.assert_allclose(dots.get_ydata(), [80.0, 82.0, 70.0, 71.0])
  np.testing.assert_allclose(dots.get_xdata(), [0, 0, 1, 1])


def test_band_is_one_standard_deviation_and_one_seed_alone_has_none():
  cells = _cells('protected', [(80.0, 82.0), (70.0, 74.0)], (0, 1))
  (band,) = _axes(cells)[0].collections
  heights = band.get_paths()[0].vertices[:, 1]
  assert heights.min() == pytest.approx(72.0 - 8**0.5)
  assert heights.max() == pytest.approx(81.0 + 2**0.5)
  one_seed = _cells('protected', [(80.0,), (70.0,)], (0, 1))
  assert not _axes(one_seed)[0].collections


def test_band_of_one_seed_is_the_error_of_its_test_images():
  cells = _cells('protected', [(80.0,), (70.0,)], (0, 1))
  for cell, error in zip(cells, (2.0, 3.0), strict=True):
    cell['accuracy']['sampling_error'] = error
  (band,) = _axes(cells)[0].collections
  heights = band.get_paths()[0].vertices[:, 1]
  assert (heights.min(), heights.max()) == pytest.approx((67.0, 82.0))


def test_missing_run_leaves_a_gap_and_its_place_on_the_axis():
  cells = _cells('normal', [(80.0,)] * 3, (1, 2, 3))
  cells += _cells('protected', [(80.0,), (60.0,)], (1, 3))
  line = _lines(_axes(cells)[0], 'o')[1]
  np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
  np.testing.assert_array_equal(line.get_ydata(), [80.0, np.nan, 60.0])


def test_point_without_neighbours_shows_its_deviation_as_a_bar():
  accuracies = [(80.0, 82.0), (60.0, 64.0), (50.0, 54.0)]
  cells = _cells('protected', accuracies, (0, 0.004, 0.01))
  cells += _cells('normal', [(80.0,)] * 6)
  (container,) = _axes(cells)[0].containers
  (segment,) = container[2][0].get_segments()
  np.testing.assert_allclose(segment, [[0, 81 - 2**0.5], [0, 81 + 2**0.5]])


@pytest.mark.parametrize(
  ('xs', 'log_x', 'to_scale'),
  [
    ((0.1, 0.3, 0.5, 0.7, 0.9, 1.0), False, True),
    ((0.1, 0.2, 0.4, 0.6, 0.8, 1.0), False, True),
    ((1, 2, 4, 8, 16, 20), False, False),
    ((1, 2, 3), True, True),
    ((1, 2, 2.5, 4), True, False),
    (OMEGAS, True, False),
    (OMEGAS, False, False),
  ],
)
def test_uneven_grids_are_spaced_evenly_and_say_so(xs, log_x, to_scale):
  cells = _cells('protected', [(80.0,)] * len(xs), xs)
  (axes,) = _axes(cells, log_x=log_x)
  labels = [label.get_text() for label in axes.get_xticklabels()]
  assert labels == [f'{x:g}' for x in xs]
  assert axes.get_xlabel() == ('omega' if to_scale else 'omega (not to scale)')
  steps = np.diff(_lines(axes, 'o')[0].get_xdata())
  expected = np.diff(xs) if to_scale else np.ones(len(xs) - 1)
  np.testing.assert_allclose(steps, expected)


def test_points_are_sorted_by_x():
  (axes,) = _axes(_cells('protected', [(60.0,), (80.0,)], (2, 1)))
  np.testing.assert_allclose(_lines(axes, 'o')[0].get_ydata(), [80.0, 60.0])


def test_what_does_not_depend_on_x_is_a_level():
  cells = _cells('control', [(80.0, 82.0)], (None,))
  cells += _cells('protected', [(70.0,)] * 6)
  line = _axes(cells)[0].lines[0]
  np.testing.assert_allclose(line.get_ydata(), [81.0, 81.0])
  np.testing.assert_allclose(line.get_xdata(), [0, 1])  # Of the panel's width.
  assert line.get_linestyle() == '--'


def test_panels_share_accuracy_and_the_teacher_comes_first():
  axes = _axes(_study())
  names = [ax.get_title() or ax.get_title(loc='left') for ax in axes]
  assert names == ['Teachers', 'Student cnn8', 'Student resnetc18']
  low, high = axes[0].get_ylim()
  assert {ax.get_ylim() for ax in axes} == {(low, high)}
  assert low < 55 and high > 90


def test_every_defense_has_one_colour_in_all_panels():
  cells = []
  for defense in ('nasty', 'sdb'):
    cells += _cells('teacher', [(90.0,)], (1,), defense=defense)
  for model, defenses in (('a', ('nasty', 'sdb')), ('b', ('sdb',))):
    cells += _cells('control', [(90.0,)], (None,), model=model)
    for name in defenses:
      cells += _cells('protected', [(70.0,)], (1,), model, name)
  drawn = [
    [colors.to_hex(line.get_color()) for line in _lines(axes, 'o')]
    for axes in _axes(cells)
  ]
  nasty, sdb = draw.COLORS['defense-0'], draw.COLORS['defense-1']
  assert drawn == [[nasty, sdb], [nasty, sdb], [sdb]]


def test_words_are_marks_without_lines():
  cells = _cells('protected', [(80.0,), (70.0,)], ('mlp', 'cnn8'))
  (axes,) = _axes(cells)
  assert _lines(axes, 'o')[0].get_linestyle() == 'None'
  labels = [label.get_text() for label in axes.get_xticklabels()]
  assert labels == ['mlp', 'cnn8']


@pytest.mark.parametrize(
  'xs', [OMEGAS, tuple(f'shufflenetv{i}' for i in range(6))]
)
def test_labels_do_not_overlap_or_leave_their_panel(xs):
  cells = _cells('protected', [(80.0,)] * 6, xs, model='a long name ' * 2)
  panel, legend = sweeps.figure(cells, 'Sweep', 'omega').draw()
  draw._pixels(panel)  # Lays it out.
  ticks = panel.axes[0].get_xticklabels()
  boxes = [tick.get_window_extent() for tick in ticks]
  if not ticks[0].get_rotation():
    pairs = zip(boxes, boxes[1:], strict=False)
    assert not any(a.overlaps(b) for a, b in pairs)
  assert all(box.x0 > 0 and box.x1 < panel.bbox.x1 for box in boxes)
  draw._pixels(legend)
  box = legend.legends[0].get_window_extent()
  assert 0 < box.x0 < box.x1 < legend.bbox.x1
  assert 0 < box.y0 < box.y1 < legend.bbox.y1


def test_alternative_text_has_the_numbers():
  cells = _cells('control', [(80.0,)], (None,))
  cells += _cells('protected', [(70.0, 72.0), (50.0,), (60.0,)], (4, 2, 1))
  assert sweeps.figure(cells, 'Sweep', 'omega').alt == (
    'Line charts of test accuracy by omega. Student cnn8: student alone 80.0%; '
    'nasty teacher, and its students 60.0% at 1, 50.0% at 2, 71.0% at 4.'
  )


def test_caption_tells_one_seed_from_several():
  one = _cells('protected', [(70.0,)], (1,))
  caption = sweeps.figure(one, 'Sweep', 'omega').caption
  assert caption.endswith('Every point is one seed.')
  one[0]['accuracy']['sampling_error'] = 1.0
  caption = sweeps.figure(one, 'Sweep', 'omega').caption
  assert 'bands one standard error' in caption
  caption = sweeps.figure(_study(), 'Sweep', 'omega').caption
  assert 'one standard deviation' in caption


def test_nothing_to_show_is_no_figure():
  assert sweeps.figure([], 'Sweep', 'omega').draw is None


def test_every_attack_has_a_panel_of_its_own():
  """With its own students, and the student alone."""
  cells = _cells('control', [(80.0,)], (None,))
  for attack, accuracy in (('kd', 70.0), ('dkd', 60.0)):
    cells += _cells('protected', [(accuracy,)] * 6, attack=attack)
  found = [
    {value for line in axes.get_lines() for value in line.get_ydata()}
    for axes in _axes(cells)
  ]
  assert {70.0, 80.0} in found
  assert {60.0, 80.0} in found
  assert len(found) == 2
