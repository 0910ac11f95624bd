"""A Tiny-ImageNet of noise, in the layout of the official archive."""

import functools
import io
import zipfile

import numpy as np
import PIL.Image

ROOT = 'tiny-imagenet-200/'
WNIDS = [f'n{10_000_000 + 7 * i}' for i in range(200)]


@functools.cache
def jpeg(mode='RGB', size=(64, 64)):
  """A small JPEG."""
  content = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  image = PIL.Image.fromarray(noise).resize(size).convert(mode)
  image.save(content, format='JPEG', quality=50)
  return content.getvalue()


def files():
  """{name: content} of the archive: one image a class, and split."""
  found = {
    # Not sorted, as in the official archive.
    'wnids.txt': '\n'.join(WNIDS[::-1]).encode(),
    'words.txt': b'n00001740\tentity\n'
    + b''.join(f'{w}\tthing {w[-4:]}, stuff\n'.encode() for w in WNIDS),
    'val/val_annotations.txt': b''.join(
      f'val_{i}.JPEG\t{w}\t0\t0\t63\t63\n'.encode()
      for i, w in enumerate(WNIDS[::-1])
    ),
    'test/images/test_0.JPEG': b'never read',
  }
  for index, wnid in enumerate(WNIDS):
    found[f'train/{wnid}/{wnid}_boxes.txt'] = b'boxes'
    found[f'train/{wnid}/images/{wnid}_0.JPEG'] = jpeg()
    found[f'val/images/val_{index}.JPEG'] = jpeg()
  found[f'train/{WNIDS[3]}/images/{WNIDS[3]}_0.JPEG'] = jpeg('L')
  return {ROOT + name: content for name, content in found.items()}


def write(path, contents):
  """A zip of {name: content}; returns its path."""
  with zipfile.ZipFile(path, 'w') as file:
    for name, content in contents.items():
      file.writestr(name, content)
  return path
