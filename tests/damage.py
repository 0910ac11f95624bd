"""What happens to files: a bit flips, or the end is missing."""


def flipped(data, rng, index=None):
  """The same bytes but for one bit, of the byte `index` or any."""
  changed = bytearray(data)
  index = rng.randrange(len(changed)) if index is None else index
  changed[index] ^= 1 << rng.randrange(8)
  return bytes(changed)


def flip(path, rng):
  """Flips a bit of a file."""
  path.write_bytes(flipped(path.read_bytes(), rng))


def cut(path, rng=None):
  """Leaves half of a file."""
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])


CHANGES = {'flip': flip, 'cut': cut}
