"""Choice, projection and separation of embeddings, and their figure."""

import re

import numpy as np
import pytest
from matplotlib import colors

from undistillable.report import document, draw, embeddings

PANELS = ('normal_features', 'nasty_features', 'normal_logits', 'nasty_logits')


def _clusters(distance, num_classes=3, each=12, num_features=5, seed=0):
  """Vectors about one corner a class, `distance` from the origin."""
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(num_classes), each)
  corners = distance * np.eye(num_features)[:num_classes]
  noise = rng.normal(size=(len(labels), num_features))
  return corners[labels] + noise, labels


def test_choice_keeps_the_shares_of_classes():
  labels = np.random.default_rng(0).permutation(
    np.repeat([3, 5, 9], [60, 30, 10])
  )
  picked = embeddings.choose(labels, 20)
  found, sizes = np.unique(labels[picked], return_counts=True)
  np.testing.assert_array_equal(found, [3, 5, 9])
  np.testing.assert_array_equal(sizes, [12, 6, 2])
  assert len(set(picked)) == 20


def test_choice_has_exactly_as_many_as_asked_where_shares_are_odd():
  labels = np.repeat(np.arange(7), [1, 2, 3, 5, 8, 13, 21])
  for number in range(1, len(labels)):
    picked = embeddings.choose(labels, number)
    assert len(set(picked)) == number
    sizes = np.bincount(labels[picked], minlength=7)
    quotas = np.bincount(labels) * number / len(labels)
    assert (np.abs(sizes - quotas) < 1).all()


def test_choice_rounds_the_largest_remainders_up():
  labels = np.repeat([0, 1, 2], [7, 2, 1])
  # Of 4 the shares are 2.8, 0.8 and 0.4.
  picked = labels[embeddings.choose(labels, 4)]
  np.testing.assert_array_equal(picked, [0, 0, 0, 1])


def test_choice_of_few_is_all_and_repeats_itself_otherwise():
  labels = np.zeros(50, int)
  np.testing.assert_array_equal(embeddings.choose(labels, 50), np.arange(50))
  first = embeddings.choose(labels, 10)
  np.testing.assert_array_equal(embeddings.choose(labels, 10), first)
  with pytest.raises(ValueError, match='at least 1'):
    embeddings.choose(labels, 0)


def test_projection_keeps_clusters_apart_and_repeats_itself():
  vectors, labels = _clusters(40.0)
  points = embeddings.project(vectors)
  assert points.shape == (36, 2) and points.dtype == np.float32
  assert embeddings.separation(points, labels)['neighbor_accuracy'] == 100
  np.testing.assert_array_equal(embeddings.project(vectors), points)


def test_projection_of_few_or_float32_vectors():
  vectors, _ = _clusters(3.0, each=2)
  points = embeddings.project(vectors.astype(np.float32))
  assert points.shape == (6, 2) and np.isfinite(points).all()


def test_perfectly_separated_classes():
  vectors, labels = _clusters(1e4)
  found = embeddings.separation(vectors, labels)
  assert found['neighbor_accuracy'] == 100
  assert found['silhouette'] == pytest.approx(1.0, abs=1e-3)


def test_separation_by_hand():
  # Distances within 1, between 3 and 4 or 4 and 5 (from the outer ones).
  vectors, labels = [[0.0], [1.0], [4.0], [5.0]], [0, 0, 1, 1]
  found = embeddings.separation(vectors, labels)
  outer, inner = 1 - 1 / 4.5, 1 - 1 / 3.5
  assert found['silhouette'] == pytest.approx((outer + inner) / 2)
  # Three others each: one of the own class, two of the other.
  assert found['neighbor_accuracy'] == 0


def test_a_tie_among_neighbours_goes_to_the_nearer():
  vectors = [[0.0], [1.0], [1.5], [9.0], [11.0]]
  # The first has 2 of its own class at 1 and 1.5, then 2 of the other.
  found = embeddings.separation(vectors, [7, 7, 7, 2, 2])
  # All of class 7 win their ties; class 2 is outvoted three to one.
  assert found['neighbor_accuracy'] == pytest.approx(60)


def test_classes_that_are_not_there_to_tell_apart():
  vectors, labels = _clusters(0.0, each=300)
  found = embeddings.separation(vectors, labels)
  assert found['neighbor_accuracy'] == pytest.approx(100 / 3, abs=6)
  assert abs(found['silhouette']) < 0.02


@pytest.mark.parametrize('scale', [1e-200, 0.5, 1e200])
def test_separation_does_not_depend_on_scale_or_shift(scale):
  vectors, labels = _clusters(2.0, each=40)
  expected = embeddings.separation(vectors, labels)
  assert 40 < expected['neighbor_accuracy'] < 99
  found = embeddings.separation(scale * (vectors + 7), labels)
  assert found['neighbor_accuracy'] == expected['neighbor_accuracy']
  assert found['silhouette'] == pytest.approx(expected['silhouette'], abs=1e-6)


def test_separation_does_not_depend_on_the_names_of_classes():
  vectors, labels = _clusters(2.0, each=40)
  expected = embeddings.separation(vectors, labels)
  named = np.array([40, -3, 7])[labels]
  assert embeddings.separation(vectors, named) == pytest.approx(expected)


@pytest.mark.parametrize(
  ('vectors', 'labels', 'message'),
  [
    (np.eye(4), [1, 1, 1, 1], 'Number of labels is 1'),
    (np.eye(4), [0, 1, 2, 3], 'Number of labels is 4'),
    (np.eye(4), [0, 1], r'inconsistent numbers of samples: \[4, 2\]'),
    (np.ones((4, 3)), [0, 0, 1, 1], 'all 4 vectors are equal'),
    (np.diag([1.0, np.nan, 1.0, 1.0]), [0, 0, 1, 1], 'contains NaN'),
  ],
)
def test_mistakes_in_separation_are_named(vectors, labels, message):
  with pytest.raises(ValueError, match=message):
    embeddings.separation(vectors, labels)


def _arrays(num_classes=10, each=20):
  rng = np.random.default_rng(0)
  label = np.repeat(np.arange(num_classes), each)
  names = np.array([f'{i} is a class with a name' for i in range(num_classes)])
  points = {key: rng.normal(size=(len(label), 2)) for key in PANELS}
  return {'label': label, 'class_names': names, **points}


SEPARATION = {
  key: {'silhouette': 0.4 - 0.2 * i, 'neighbor_accuracy': 99.0 - i}
  for i, key in enumerate(PANELS)
}


def _dots(arrays):
  """The points of each panel, and the legend."""
  *panels, legend = embeddings.figure(arrays, {}).draw()
  return [panel.axes[0].collections[0] for panel in panels], legend


def test_every_point_is_drawn_once_in_the_colour_of_its_class():
  arrays = _arrays()
  dots, legend = _dots(arrays)
  lines = legend.legends[0].get_lines()
  shown = [colors.to_hex(line.get_color()) for line in lines]
  assert len(set(shown)) == 10
  expected_colors = np.array(shown)[arrays['label']]
  for found, key in zip(dots, PANELS, strict=True):
    drawn = {
      (*point, colors.to_hex(color))
      for point, color in zip(
        found.get_offsets().tolist(), found.get_facecolors(), strict=True
      )
    }
    expected = {
      (*point, color)
      for point, color in zip(
        arrays[key].tolist(), expected_colors.tolist(), strict=True
      )
    }
    assert len(drawn) == 200 and drawn == expected


def test_no_class_is_drawn_over_all_others():
  dots, _ = _dots(_arrays())
  drawn = [colors.to_hex(color) for color in dots[0].get_facecolors()]
  assert len(set(drawn[-20:])) > 4


def test_class_colours_are_seen_on_light_and_dark_ground():
  def luminance(color):
    rgb = np.array(colors.to_rgb(color))
    linear = np.where(
      rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722]

  sheet = document.resource('report.css')
  grounds = re.findall(r'--ground: (#[0-9a-f]{6});', sheet)
  assert len(grounds) == 2
  for color in embeddings.CLASS_COLORS:
    for ground in grounds:
      pair = sorted([luminance(color), luminance(ground)])
      assert (pair[1] + 0.05) / (pair[0] + 0.05) > 3


def test_many_classes_share_colours_and_the_figure_says_so():
  shown = embeddings.figure(_arrays(num_classes=100, each=2), {})
  assert len(shown.draw()) == 4  # No legend.
  assert '100 classes share 10 colours' in shown.caption
  assert 'share' not in embeddings.figure(_arrays(), {}).caption


def test_panels_have_the_numbers_and_no_units():
  *panels, _ = embeddings.figure(_arrays(), SEPARATION).draw()
  for panel, key in zip(panels, PANELS, strict=True):
    (axes,) = panel.axes
    numbers = SEPARATION[key]
    text = axes.get_xlabel().replace('−', '-')
    assert f'silhouette {numbers["silhouette"]:.2f}' in text
    assert f'{numbers["neighbor_accuracy"]:.1f}%' in text
    assert not axes.get_xticks().size and not axes.get_yticks().size


def test_alternative_text_has_the_numbers():
  text = embeddings.figure(_arrays(), SEPARATION).alt
  assert '200 test images of 10 classes' in text
  assert (
    'Nasty: logits: silhouette −0.20, neighbours of one class 96.0%' in text
  )
  assert 'silhouette' not in embeddings.figure(_arrays(), {}).alt


def test_points_are_pixels_not_shapes():
  panel, *_ = embeddings.figure(_arrays(), {}).draw()
  text = draw.svg(panel, 'a-')
  assert text.count('<use') < 20 and text.count('<image') == 1
