"""The sweep figure: every point, honest gaps and axes, numbers in words."""

import re

import numpy as np
import pytest
from matplotlib import colors

from undistillable.analysis import stats, style, sweep_figure, sweep_series

OMEGAS = (0, 0.001, 0.004, 0.01, 0.04, 0.1)


def _stat(*accuracies):
  return stats.stat(dict(enumerate(accuracies)))


def _series(kind, accuracies, xs=OMEGAS, name=None, panel='cnn8'):
  points = [
    {'x': x, 'accuracy': accuracy and _stat(*accuracy)}
    for x, accuracy in zip(xs, accuracies, strict=False)
  ]
  return {'panel': panel, 'name': name or kind, 'kind': kind, 'points': points}


def _study(students=('cnn8', 'resnetc18')):
  series = [_series('control', [(80.0, 82.0)], panel=s) for s in students]
  for student in students:
    series += [
      _series('normal', [(83.0, 84.0)] * 6, panel=student),
      _series(
        'protected',
        [(82.0 - 5 * i, 80.0 - 5 * i) for i in range(6)],
        panel=student,
      ),
    ]
  teacher = _series('teacher', [(90.0 - i,) for i in range(6)], panel='Teacher')
  return [*series, teacher]


def _lines(axes, marker):
  return [line for line in axes.lines if line.get_marker() == marker]


def _line(series, marker='o', **kwargs):
  figure = sweep_figure.sweep(series, x_label='omega', **kwargs)
  (line,) = _lines(figure.axes[0], marker)
  return line


def test_line_is_the_mean_and_dots_are_the_seeds():
  series = [_series('protected', [(80.0, 82.0), (70.0, 71.0)], (0, 1))]
  np.testing.assert_allclose(_line(series).get_ydata(), [81.0, 70.5])
  dots = _line(series, '.')
  np.testing.assert_allclose(dots.get_ydata(), [80.0, 82.0, 70.0, 71.0])
  np.testing.assert_allclose(dots.get_xdata(), [0, 0, 1, 1])


def test_band_is_one_standard_deviation_and_one_seed_alone_has_none():
  series = [_series('protected', [(80.0, 82.0), (70.0, 74.0)], (0, 1))]
  axes = sweep_figure.sweep(series, x_label='omega').axes[0]
  (band,) = axes.collections
  heights = band.get_paths()[0].vertices[:, 1]
  assert heights.min() == pytest.approx(72.0 - 8**0.5)
  assert heights.max() == pytest.approx(81.0 + 2**0.5)
  one_seed = [_series('protected', [(80.0,), (70.0,)], (0, 1))]
  axes = sweep_figure.sweep(one_seed, x_label='omega').axes[0]
  assert not axes.collections


def test_band_of_one_seed_is_the_error_of_its_test_images():
  series = [_series('protected', [(80.0,), (70.0,)], (0, 1))]
  for point, error in zip(series[0]['points'], (2.0, 3.0), strict=True):
    point['accuracy']['sampling_error'] = error
  (band,) = sweep_figure.sweep(series, x_label='omega').axes[0].collections
  heights = band.get_paths()[0].vertices[:, 1]
  assert (heights.min(), heights.max()) == pytest.approx((67.0, 82.0))


def test_missing_run_leaves_a_gap_and_its_place_on_the_axis():
  other = _series('normal', [(80.0,)] * 3, (1, 2, 3))
  for lacking in (
    _series('protected', [(80.0,), None, (60.0,)], (1, 2, 3)),
    _series('protected', [(80.0,), (60.0,)], (1, 3)),
  ):
    axes = sweep_figure.sweep([other, lacking], x_label='omega').axes[0]
    line = _lines(axes, 'o')[1]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line.get_ydata(), [80.0, np.nan, 60.0])


def test_point_without_neighbours_shows_its_deviation_as_a_bar():
  series = [
    _series('protected', [(80.0, 82.0), None, (60.0, 64.0), (50.0, 54.0)]),
  ]
  series[0]['points'][1]['x'] = 0.002
  other = _series('normal', [(80.0,)] * 6)
  axes = sweep_figure.sweep([other, *series], x_label='omega').axes[0]
  (container,) = axes.containers
  (segment,) = container[2][0].get_segments()
  np.testing.assert_allclose(segment, [[0, 81 - 2**0.5], [0, 81 + 2**0.5]])


@pytest.mark.parametrize(
  ('xs', 'log_x', 'to_scale'),
  [
    ((0.1, 0.3, 0.5, 0.7, 0.9, 1.0), False, True),
    ((0.1, 0.2, 0.4, 0.6, 0.8, 1.0), False, True),
    ((1, 2, 4, 8, 16, 20), False, False),
    ((1, 2, 3), True, True),
    (OMEGAS, True, False),
    (OMEGAS, False, False),
  ],
)
def test_uneven_grids_are_spaced_evenly_and_say_so(xs, log_x, to_scale):
  series = [_series('protected', [(80.0,)] * len(xs), xs)]
  figure = sweep_figure.sweep(series, x_label='omega', log_x=log_x)
  axes = figure.axes[0]
  labels = [label.get_text() for label in axes.get_xticklabels()]
  assert labels == [f'{x:g}' for x in xs]
  assert axes.get_xlabel() == ('omega' if to_scale else 'omega (not to scale)')
  steps = np.diff(_lines(axes, 'o')[0].get_xdata())
  expected = np.diff(xs) if to_scale else np.ones(len(xs) - 1)
  np.testing.assert_allclose(steps, expected)


def test_points_are_sorted_by_x():
  series = [_series('protected', [(60.0,), (80.0,)], (2, 1))]
  np.testing.assert_allclose(_line(series).get_ydata(), [80.0, 60.0])


def test_control_is_a_level_or_a_dashed_line():
  swept = _series('protected', [(70.0,)] * 3)
  level = _series('control', [(80.0, 82.0)], (0.004,))
  axes = sweep_figure.sweep([level, swept], x_label='omega').axes[0]
  line = axes.lines[0]
  np.testing.assert_allclose(line.get_ydata(), [81.0, 81.0])
  np.testing.assert_allclose(line.get_xdata(), [0, 1])  # Of the panel's width.
  assert line.get_linestyle() == '--'
  series = [_series('control', [(80.0,), (70.0,), (60.0,)]), swept]
  line = sweep_figure.sweep(series, x_label='omega').axes[0].lines[0]
  np.testing.assert_allclose(line.get_ydata(), [80.0, 70.0, 60.0])
  assert line.get_linestyle() == '--'


def test_a_teacher_that_is_not_swept_is_a_level():
  normal = _series('normal', [(91.0,)], (None,))
  swept = _series('teacher', [(90.0,), (89.0,)], (0, 0.1))
  axes = sweep_figure.sweep([normal, swept], x_label='omega').axes[0]
  np.testing.assert_allclose(axes.lines[0].get_ydata(), [91.0, 91.0])


@pytest.mark.parametrize('narrow', [False, True])
def test_panels_share_accuracy_and_the_teacher_comes_first(narrow):
  figure = sweep_figure.sweep(_study(), x_label='omega', narrow=narrow)
  names = [axes.get_title(loc='left') for axes in figure.axes]
  assert names == ['Teacher', 'cnn8', 'resnetc18']
  low, high = figure.axes[0].get_ylim()
  assert {axes.get_ylim() for axes in figure.axes} == {(low, high)}
  assert low < 55 and high > 90


def test_colours_are_those_of_the_other_figures():
  axes = sweep_figure.sweep(_study(), x_label='omega').axes
  drawn = [colors.to_hex(line.get_color()) for line in axes[1].lines]
  theme = style.LIGHT
  assert drawn[0] == theme.control
  assert set(drawn[1:3]) == {theme.normal}
  assert set(drawn[3:]) == {theme.protected[0]}
  assert colors.to_hex(axes[0].lines[0].get_color()) == theme.protected[0]


def test_two_protected_teachers_keep_their_colours_in_every_panel():
  series = [
    _series('protected', [(80.0,)], name='nasty', panel='a'),
    _series('protected', [(80.0,)], name='sdb', panel='a'),
    _series('protected', [(80.0,)], name='sdb', panel='b'),
  ]
  first, second = sweep_figure.sweep(series, x_label='omega').axes
  assert second.lines[0].get_color() == first.lines[2].get_color()
  assert first.lines[0].get_color() != first.lines[2].get_color()


@pytest.mark.parametrize('kind', ['teacher', 'protected'])
def test_teachers_and_their_students_share_a_colour_whatever_their_names(kind):
  series = [
    _series(kind, [(90.0,)], name='nasty', panel='Teachers'),
    _series(kind, [(90.0,)], name='sdb', panel='Teachers'),
    _series('protected', [(70.0,)], name='from nasty', panel='b'),
    _series('protected', [(70.0,)], name='from sdb', panel='b'),
    _series('protected', [(70.0,)], name='from nasty', panel='c'),
    _series('protected', [(70.0,)], name='from sdb', panel='c'),
  ]
  drawn = [
    [line.get_color() for line in _lines(axes, 'o')]
    for axes in sweep_figure.sweep(series, x_label='omega').axes
  ]
  assert drawn == 3 * [list(style.LIGHT.protected[:2])]


def test_students_of_two_normal_teachers_differ_in_dashes():
  series = [
    _series('normal', [(91.0,)], (None,), name='a level'),
    _series('normal', [(80.0,), (81.0,)], name='from the first'),
    _series('normal', [(70.0,), (71.0,)], name='from the second'),
  ]
  axes = sweep_figure.sweep(series, x_label='omega').axes[0]
  dashes = [line.get_linestyle() for line in _lines(axes, 'o')]
  assert dashes == ['-', '-.']


def test_words_are_marks_without_lines():
  series = [_series('protected', [(80.0,), (70.0,)], ('mlp', 'cnn8'))]
  line = _line(series)
  assert line.get_linestyle() == 'None'
  labels = [label.get_text() for label in line.axes.get_xticklabels()]
  assert labels == ['mlp', 'cnn8']


@pytest.mark.parametrize('num_students', [0, 1, 2, 3, 5])
@pytest.mark.parametrize('narrow', [False, True])
def test_nothing_overlaps(num_students, narrow):
  students = ['resnetc18 with a long name', 'b', 'c', 'd', 'e'][:num_students]
  figure = sweep_figure.sweep(
    _study(students), x_label='omega, ' + 8 * 'weight ', narrow=narrow
  )
  style.png(figure, style.LIGHT, dpi=50)  # Lays it out.
  boxes = [axes.get_tightbbox() for axes in figure.axes]
  boxes += [figure.legends[0].get_window_extent()]
  for axes in figure.axes:
    ticks = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert not any(
      a.overlaps(b) for a, b in zip(ticks, ticks[1:], strict=False)
    )
  for i, box in enumerate(boxes):
    assert box.x0 > -1 and box.x1 < figure.bbox.x1 + 1
    others = boxes[i + 1 :]
    if not narrow:  # The label below runs on under its neighbours.
      others = others[-1:]
    assert not any(box.overlaps(other) for other in others)


def test_alternative_text_has_the_numbers():
  series = [
    _series('control', [(80.0,)]),
    _series('protected', [(70.0, 72.0), None, (50.0,), (60.0,)], (4, 3, 2, 1)),
  ]
  text = sweep_figure.alt_text(series, 'omega')
  assert text == (
    'Line charts of test accuracy by omega. cnn8: control 80.0%; '
    'protected 60.0% at 1, 50.0% at 2, 71.0% at 4.'
  )


def test_caption_tells_one_seed_from_several():
  one = [_series('protected', [(70.0,)])]
  assert sweep_figure.caption(one).endswith('Every point is one seed.')
  one[0]['points'][0]['accuracy']['sampling_error'] = 1.0
  assert 'bands one standard error' in sweep_figure.caption(one)
  assert 'one standard deviation' in sweep_figure.caption(_study())


def test_dark_figure_is_the_light_one_in_other_colours():
  light, dark = (
    # Matplotlib names a marker after its colour, among others.
    re.sub(
      r'\bm[0-9a-f]{10}\b',
      'marker',
      style.svg(
        sweep_figure.sweep(_study(), x_label='omega', theme=theme), theme
      ),
    )
    for theme in (style.LIGHT, style.DARK)
  )
  assert light != dark
  assert style.darken(light) == dark


def test_nothing_to_show_is_no_figure():
  assert sweep_figure.sweep([], x_label='omega') is None
  empty = [_series('protected', [None])]
  assert sweep_figure.sweep(empty, x_label='omega') is None


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="unknown kind 'nasty'; known: control"):
    sweep_figure.sweep([_series('nasty', [(70.0,)])], x_label='omega')
  for xs in ((1, 1), (None, 1)):
    series = [_series('protected', [(70.0,), (60.0,)], xs)]
    with pytest.raises(ValueError, match='one point for each x'):
      sweep_series.checked(series)
