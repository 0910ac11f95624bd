"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels."""

from undistillable.data import dataset

_COUNTS = {'train': 50_000, 'test': 10_000}


CIFAR10 = dataset.Source(
  name='cifar10',
  version='3.0.2',
  image_shape=(32, 32, 3),
  num_classes=10,
  num_examples=_COUNTS,
  # As released; the std of the pixels themselves is .2470 .2435 .2616.
  mean=(0.4914, 0.4822, 0.4465),
  std=(0.247, 0.243, 0.261),
  builder_fn=None,
  archives=('cifar-10-binary.tar.gz', 'cifar-10-python.tar.gz'),
)

CIFAR100 = dataset.Source(
  name='cifar100',
  version='3.0.2',
  image_shape=(32, 32, 3),
  num_classes=100,
  num_examples=_COUNTS,
  # Its own; the released code normalises it with the constants of CIFAR-10.
  mean=(0.5071, 0.4865, 0.4409),
  std=(0.2673, 0.2564, 0.2762),
  builder_fn=None,
  archives=('cifar-100-binary.tar.gz', 'cifar-100-python.tar.gz'),
)
