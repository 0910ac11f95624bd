"""Prepares a folder through tfds, whole or not at all."""

import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

from undistillable.data import dataset, folders, tfds_quiet


def write(
  source: dataset.Source,
  data_dir: pathlib.Path,
  content: dataset.Content,
  progress_fn: dataset.ProgressFn,
) -> pathlib.Path:
  """Prepares `data_dir/name/version` in array_record format.

  Everything is written beside its place and renamed into it. Of several
  processes that do so at once the first wins; the others use its folder.

  Args:
    source: the data set.
    data_dir: made where it does not exist.
    content: what to write.
    progress_fn: wraps the examples of a split.

  Returns:
    The folder.

  Raises:
    dataset.DataError: what is in the place already is damaged.
    OSError: the folder cannot be written.
  """
  builder_class = _builder_class(source, content, progress_fn)
  data_dir.mkdir(parents=True, exist_ok=True)
  path = data_dir / source.name / source.version
  # Named before it is made, so that a signal finds no gap to fall into.
  temp = data_dir / f'incomplete.{secrets.token_hex(4)}_{source.name}'
  try:
    temp.mkdir()
    with tfds_quiet.quiet():
      builder = builder_class(data_dir=str(temp), file_format='array_record')
      builder.download_and_prepare(download_dir=str(temp / 'downloads'))
    path.parent.mkdir(exist_ok=True)
    try:
      (temp / source.name / source.version).rename(path)
    except OSError:
      if not path.is_dir():
        raise
  finally:
    if temp.exists():
      shutil.rmtree(temp)
  folders.check(source, data_dir)
  return path


def _builder_class(
  source: dataset.Source,
  content: dataset.Content,
  progress_fn: dataset.ProgressFn,
) -> Any:
  """The tfds builder, which needs no TensorFlow and no network."""
  import tensorflow_datasets as tfds

  # Not registered: tfds has builders of some of these names.
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes what it is given."""

    VERSION = tfds.core.Version(source.version)

    def _info(self) -> tfds.core.DatasetInfo:
      labels = {
        key: tfds.features.ClassLabel(names=names)
        for key, names in content.class_names.items()
      }
      return tfds.core.DatasetInfo(
        builder=self,
        description=source.description,
        features=tfds.features.FeaturesDict(
          {
            'id': tfds.features.Text(),
            'image': tfds.features.Image(shape=source.image_shape),
            **labels,
          }
        ),
        supervised_keys=('image', 'label'),
      )

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
      del dl_manager
      return {
        split: self._generate_examples(split) for split in content.num_examples
      }

    def _generate_examples(self, split: str) -> Iterator[dataset.Example]:
      yield from progress_fn(
        content.examples_fn(split),
        desc=split,
        total=content.num_examples[split],
      )

  Builder.name = source.name
  return Builder
