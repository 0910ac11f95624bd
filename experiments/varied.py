"""What each ablation varies: (an entry, all by id) -> the value, or None."""

from collections.abc import Mapping
from typing import Any

from undistillable.report import sweeps
from undistillable.report.stats import Entry

_ById = Mapping[str, Entry]


def adversary(entry: Entry, by_id: _ById) -> str | None:
  """The network that undermined a teacher, or that of a student."""
  undermined = _owner(entry, by_id)['parents'].get('adversary')
  return by_id[undermined]['model'] if undermined else None


def of_owner(name: str) -> sweeps.ValueFn:
  """A setting of a protected teacher, or of that of a student."""

  def value(entry: Entry, by_id: _ById) -> Any:
    return _owner(entry, by_id)['config']['settings'].get(name)

  return value


def share(entry: Entry, by_id: _ById) -> float | None:
  """What part of the training set a network has seen; a control's too."""
  config = entry['config']
  # The first edition, of which some results are recorded, called it dataset.
  return config.get('learns_from', config.get('dataset', {})).get('fraction')


def setting(name: str) -> sweeps.ValueFn:
  """A setting of the attack; a control does not depend on it."""

  def value(entry: Entry, by_id: _ById) -> Any:
    return entry['config']['settings'][name] if entry['teacher'] else None

  return value


def _owner(entry: Entry, by_id: _ById) -> Entry:
  """The teacher that it is or learned from; a student alone itself."""
  return by_id.get(entry['teacher'], entry)
