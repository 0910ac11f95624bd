"""Figures: every number is drawn, once, in colours that the page decides."""

import io
import math
import re

import fabricated
import matplotlib
import numpy as np
import PIL.Image
import pytest
from matplotlib import colors

from undistillable.report import (
  accuracy,
  curves,
  draw,
  logits,
  summary as summary_lib,
)

_study = fabricated.make_study


@pytest.fixture(autouse=True)
def _style():
  """What `draw.render` draws in."""
  with matplotlib.rc_context(draw.STYLE):
    yield


@pytest.fixture
def summary():
  """One protected teacher, one student, two seeds."""
  return summary_lib.summarize(_study((90.0, 92.0), (91.0, 94.0), (70.0, 74.0)))


def _svg(figure):
  panels = [panel for panel in figure.draw() if panel]
  return [draw.svg(panel, f'{i}-') for i, panel in enumerate(panels)]


def test_bars_have_the_means_in_the_colours_of_their_teachers(summary):
  panels = [panel for panel in accuracy.panels(summary) if panel]
  bars = [panel.axes[0].patches for panel in panels]
  widths = [[bar.get_width() for bar in found] for found in bars]
  np.testing.assert_allclose(widths[0], [98.5, 98.2])
  np.testing.assert_allclose(widths[1], [91.0, 92.5, 72.0])
  owners, students = (
    [colors.to_hex(bar.get_facecolor()) for bar in found] for found in bars
  )
  names = ('control', 'normal', 'defense-0')
  assert students == [draw.COLORS[name] for name in names]
  assert owners == students[1:]


def test_a_change_that_rounds_to_nothing_is_no_loss():
  panels = accuracy.panels(
    summary_lib.summarize(_study((90.0,), (89.98,), (70.0,)))
  )
  told = [text.get_text() for axes in panels[1].axes for text in axes.texts]
  assert '90.0  (+0.0)' in told


def test_every_network_of_many_defenses_and_attacks_has_a_bar():
  attacks, defenses = ('kd', 'labels', 'dafl'), ('nasty', 'stingy', 'sdb')
  entries = _study(
    (90.0,),
    (91.0,),
    (70.0,),
    models=('cnn', 'mlp'),
    attacks=attacks,
    defenses=defenses,
  )
  shown = accuracy.panels(summary_lib.summarize(entries))
  owners, row_break, *students = shown
  assert row_break is None
  assert len(owners.axes[0].patches) == 4
  for panel in students:
    (axes,) = panel.axes
    assert len(axes.patches) == 1 + 3 * 4
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:4] == ['alone', 'by dafl', 'from normal', 'from nasty']
  # Bars of all panels begin at one place.
  assert len({p.axes[0].get_position().x0 for p in shown if p}) == 1


@pytest.mark.parametrize(
  ('highest', 'end'), [(9.0, 10), (17.3, 20), (50.0, 50), (50.1, 100)]
)
def test_bars_fill_most_of_their_scale(highest, end):
  entries = _study((90.0,), (91.0,), (70.0,))
  scale = highest / max(entry['test_accuracy'] for entry in entries)
  for entry in entries:
    entry['test_accuracy'] *= scale
  for panel in accuracy.panels(summary_lib.summarize(entries)):
    assert panel.axes[0].get_xticks()[-1] == end


def test_the_page_decides_every_colour_and_font(summary):
  for text in _svg(accuracy.figure(summary)):
    assert not re.findall('#[0-9a-f]{6}', text)
    assert 'DejaVu' not in text
    assert {'var(--ink)', 'var(--font)'} <= set(re.findall(r'var\(.*?\)', text))
    assert '<style' not in text and '<metadata' not in text


def test_the_same_figure_is_the_same_text_and_no_id_comes_twice(summary):
  first, again = (_svg(accuracy.figure(summary)) for _ in range(2))
  assert first == again
  ids = [name for text in first for name in re.findall(r'\bid="(.*?)"', text)]
  assert len(set(ids)) == len(ids) > 0
  used = re.findall(r'(?:href="#|url\(#)(.*?)["\)]', ' '.join(first))
  assert set(used) <= set(ids)


def _curves(histories):
  """Of the two seeds of a student alone."""
  entries = _study((90.0, 91.0), (91.0, 92.0), (70.0, 71.0))
  ids = [e['id'] for e in entries if e['method'] == 'scratch']
  summary = summary_lib.summarize(entries)
  return curves.collect(summary, dict(zip(ids, histories, strict=True)))


def test_curves_keep_seeds_apart_and_survive_gaps():
  (curve,) = _curves(
    [
      [{'epoch': 1, 'train_loss': 2.0}, {'epoch': 2, 'train_loss': 1.0}],
      # An epoch of which nothing is known is no loss of 0.
      [{'epoch': 1, 'train_loss': 4.0}, {'epoch': 3, 'train_loss': math.nan}],
    ]
  )
  assert list(draw.by_panel([curve])) == ['Student cnn']
  assert curve['color'] == 'control'
  found = curve['series']['train_loss']
  assert {
    epoch: list(one['by_seed'].values()) for epoch, one in found.items()
  } == {
    1: [2.0, 4.0],
    2: [1.0],
  }
  panel, _ = curves.panels([curve])
  (line,) = panel.axes[1].lines
  np.testing.assert_allclose(line.get_ydata(), [3.0, 1.0])


def test_epochs_are_whole_even_where_there_is_one():
  history = [{'epoch': 2, 'train_loss': 1.0}]
  (curve,) = _curves([history, history])
  panel, _ = curves.panels([curve])
  ax = panel.axes[1]
  low, high = ax.get_xlim()
  assert [x for x in ax.get_xticks() if low <= x <= high] == [2]


def test_a_student_alone_stands_beside_every_attack():
  entries = _study((90.0,), (91.0,), (70.0,), attacks=('dafl', 'kd'))
  line = [{'epoch': 1, 'train_loss': 1.0, 'train_accuracy': 50.0}]
  metrics = {entry['id']: line for entry in entries}
  found = curves.collect(summary_lib.summarize(entries), metrics)
  teachers, *students = draw.by_panel(found).items()
  assert teachers[0] == 'Teachers'
  names = [name for name, _ in students]
  assert sorted(names) == ['Student cnn by dafl', 'Student cnn by kd']
  for _, chosen in students:
    found_colors = sorted(curve['color'] for curve in chosen)
    assert found_colors == ['control', 'defense-0', 'normal']


@pytest.mark.parametrize('lowest', [0.02, -3.0])
def test_a_logarithmic_axis_says_which_number_is_where(lowest):
  history = [
    {'epoch': epoch, 'train_loss': loss, 'train_accuracy': 50.0}
    for epoch, loss in enumerate((200.0, 0.5, 0.1, lowest), 1)
  ]
  weak = [{'epoch': 1, 'train_loss': 0.9, 'train_accuracy': 50.0}]
  (first,) = _curves([history, history])
  (second,) = _curves([weak, weak])
  panel, _ = curves.panels([first, second])
  draw._pixels(panel)  # Lays it out.
  loss = panel.axes[1]
  assert 'log' in loss.get_title(loc='left')
  shown = {
    label.get_text().replace('−', '-'): label.get_position()[1]
    for label in loss.get_yticklabels()
    if label.get_text()
  }
  assert len(shown) > 2
  for text, value in shown.items():
    assert float(text) == pytest.approx(value)


def test_each_teacher_has_a_panel_of_its_answers(summary):
  owners = summary_lib.teachers(summary)
  answers = np.array([[[9.0, 0, 0], [9.0, 8.0, 0]], [[9.0, 8, 8], [1, 1, 9.0]]])
  responses = {
    'ids': np.array([owners[1]['ids'][0], owners[0]['ids'][0]]),
    'logits': answers,
    'image': np.zeros((2, 4, 4, 1), np.uint8),
    'label': np.array([0, 1]),
    'class_names': np.array(['cat', 'dog', 'owl']),
  }
  figure = logits.figure(summary, responses)
  assert figure.title.endswith('the normal teacher 1.0, the nasty teacher 1.5')
  for panel, row, found in zip(
    figure.draw(), owners, answers[::-1], strict=True
  ):
    assert panel.get_suptitle() == f'{row["label"]} teacher'
    bars = panel.axes[1].patches
    np.testing.assert_allclose([b.get_height() for b in bars], found[0])
    assert colors.to_hex(bars[0].get_facecolor()) == draw.COLORS[row['color']]
    probabilities = [b.get_height() for b in panel.axes[2].patches]
    assert sum(probabilities) == pytest.approx(1.0)
  assert logits.figure(summary, None).draw is None
  # Those that are not shown are not counted.
  many = {k: np.repeat(v, 5, 0) for k, v in responses.items() if len(v) == 2}
  many |= {'ids': responses['ids'], 'logits': np.repeat(answers, 5, axis=1)}
  figure = logits.figure(summary, {**responses, **many})
  shown = {len(panel.axes) // 3 for panel in figure.draw()}
  assert shown == {6}
  assert 'answers to 6 test images' in figure.title
  assert figure.title.endswith('the nasty teacher 1.2')  # Of 1, 1, 1, 1, 1, 2.


def test_a_png_holds_a_title_and_all_panels_two_beside_each_other():
  panels = [draw.panel(1.0), None, draw.panel(2.0), draw.panel(1.0)]
  sizes = [
    PIL.Image.open(io.BytesIO(draw.png(title, panels))).size
    for title in ('a few words', 'a statement of many words ' * 6)
  ]
  # In pixels, 200 an inch; a longer title has more lines.
  assert sizes[0][0] == sizes[1][0] == int((2 * draw.WIDTH + 0.25) * 200)
  assert 200 * 3 < sizes[0][1] < sizes[1][1] < 200 * 4.5


def test_a_panel_has_the_ground_of_the_page_after_its_picture_was_made():
  panel = draw.panel(1.0)
  before = draw.svg(panel, '')
  picture = PIL.Image.open(io.BytesIO(draw.png('title', [panel])))
  assert draw.svg(panel, '') == before
  assert (
    colors.to_hex(np.divide(picture.getpixel((0, 0)), 255))
    == (draw.COLORS['ground'])
  )
