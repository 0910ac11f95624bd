"""Tiny-ImageNet: 110,000 labelled images of 64x64 pixels in 200 classes."""

from undistillable.data import dataset

TINY_IMAGENET = dataset.Source(
  name='tiny_imagenet',
  version='1.0.0',
  image_shape=(64, 64, 3),
  num_classes=200,
  # 'test' is the official validation set; the official test set has no labels.
  num_examples={'train': 100_000, 'test': 10_000},
  # As released; the std of the pixels themselves is .2770 .2691 .2821.
  mean=(0.4802, 0.4481, 0.3975),
  std=(0.2302, 0.2265, 0.2262),
  builder_fn=None,
  archives=('tiny-imagenet-200.zip',),
)
