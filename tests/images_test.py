"""The pictures of images that were made up: all of them, and what is said."""

import numpy as np

from undistillable.report import images

NUMBERS = {
  'normal': {
    '0': {'teacher_accuracy': 98.0, 'judge_accuracy': 50.0},
    '1': {'teacher_accuracy': 100.0, 'judge_accuracy': 60.0},
  },
  'nasty': {'0': {'teacher_accuracy': 80.0, 'judge_accuracy': 40.0}},
}


def _arrays(channels):
  rng = np.random.default_rng(0)
  arrays = {}
  for name in NUMBERS:
    arrays[name] = rng.integers(0, 256, (6, 8, 8, channels), np.uint8)
    arrays[f'{name}_label'] = np.array([0, 1, 2, 0, 1, 2])
  return arrays


def test_every_image_is_drawn_in_the_column_of_its_class():
  for channels in (1, 3):
    arrays = _arrays(channels)
    panels = images.figure(arrays, NUMBERS).draw()
    for panel, name in zip(panels, ('normal', 'nasty'), strict=True):
      (drawn,) = panel.axes[0].images
      pixels = np.asarray(drawn.get_array()).reshape(17, 26, channels)
      for index, image in enumerate(arrays[name]):
        top, left = 9 * (index // 3), 9 * (index % 3)
        cell = pixels[top : top + 8, left : left + 8]
        np.testing.assert_array_equal(cell, image)


def test_the_text_gives_the_means_over_seeds():
  text = images.figure(_arrays(1), NUMBERS).alt
  assert 'normal teacher, 6 images: recognised by the teacher 99 %' in text
  assert 'by the judge 55 %' in text
  assert 'nasty teacher, 6 images' in text
