"""Package metadata; tool settings live in pyproject.toml."""

import pathlib

import setuptools

_ROOT = pathlib.Path(__file__).parent

setuptools.setup(
  name='undistillable',
  version='0.1.0',
  description=(
    'Models that cannot be stolen by knowledge distillation, in JAX/Flax: '
    'protect a classifier, audit it, report.'
  ),
  long_description=(_ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['undistillable*']),
  package_data={'undistillable': ['py.typed', '*.html', '*.css']},
  install_requires=[
    'absl-py',
    'array_record',
    'chex>=0.1.90',
    'flax>=0.12',
    # Preparing a data set with tfds imports it, but tfds does not require it.
    'importlib_resources',
    'jax>=0.8',
    'matplotlib>=3.8',
    'ml-collections>=1.0',
    'numpy>=2.0',
    'optax>=0.2.5',
    'orbax-checkpoint>=0.11.20',
    'pillow',
    'safetensors',
    'scikit-learn>=1.4',
    'tensorboardX>=2.6',
    'tensorflow-datasets>=4.9.8',
    'tqdm',
  ],
  extras_require={
    'test': ['mypy', 'pytest>=8', 'pytest-xdist', 'ruff'],
  },
)
