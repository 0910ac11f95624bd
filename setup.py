"""Package metadata; tool settings live in pyproject.toml."""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py

_ROOT = pathlib.Path(__file__).parent


class _WithConfigs(build_py.build_py):
  """Puts configs/ into the package, so that --config=digits finds them."""

  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      folder = pathlib.Path(self.build_lib, 'undistillable', 'configs')
      shutil.copytree(_ROOT / 'configs', folder, dirs_exist_ok=True)


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
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Operating System :: OS Independent',
    'Programming Language :: Python :: 3 :: Only',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Security',
  ],
  project_urls={'Article': 'https://arxiv.org/abs/2105.07381'},
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['undistillable*']),
  entry_points={
    'console_scripts': ['undistillable = undistillable.__main__:main']
  },
  cmdclass={'build_py': _WithConfigs},
  package_data={
    'undistillable': ['py.typed'],
    'undistillable.report': ['*.css', '*.html', '*.md'],
  },
  # Nothing below a floor is tested. Where no other reason is given, it is the
  # version in Colab's TPU and GPU runtimes (August 2026; .ci/colab.txt): with
  # a higher one pip would replace what is there.
  install_requires=[
    'absl-py>=1.4',
    # Where it has no wheel (Windows, Macs with Intel), pip would take 0.4.1,
    # whose wheel is for all platforms, and can be imported on Linux alone.
    'array_record>=0.8.3',
    'chex>=0.1.90',
    # Writing and reading a file of jax.export needs it, but jax does not
    # require it.
    'flatbuffers',
    'flax>=0.11.2',
    # Preparing a data set with tfds imports it, but tfds does not require it.
    'importlib_resources',
    # A replaced jax leaves its libtpu or CUDA plugin behind, and then finds no
    # accelerator.
    'jax>=0.7.2',
    'matplotlib>=3.8.4',  # The first that is built for NumPy 2.
    'ml-collections>=1.0',  # The first with types.
    'numpy>=2.1.3',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.4',
    'pillow',
    'psutil',
    'safetensors',
    'scikit-learn>=1.4.2',  # The first that is built for NumPy 2.
    'tensorboardX>=2.6.2.2',  # The first that has no upper bound for protobuf.
    'tensorflow-datasets>=4.9.10',
    'tqdm',
  ],
  extras_require={
    'docs': [
      'myst-nb',
      'sphinx',
      'sphinx-book-theme',
      'sphinx-copybutton',
      'sphinx-design',
    ],
    'notebooks': [
      'ipykernel',
      'ipywidgets',
      'jupytext',
      'nbclient',
      'nbformat',
    ],
    # For reading PyTorch's older kinds of checkpoints; see interop.
    'torch': ['torch'],
    'test': ['hypothesis', 'mypy', 'pytest>=8', 'pytest-xdist', 'ruff'],
  },
)
