"""What each ablation varies: (run, its teacher) -> the value, or None."""

from typing import Any

from undistillable.analysis import records, sweeps


def adversary(run: records.Run, teacher: records.Run | None) -> str | None:
  """The network that undermined a teacher, or that of a student."""
  parents = (teacher or run)['config']['parents']
  # An id is role-model-hash.
  return parents['adversary'].split('-')[1] if 'adversary' in parents else None


def omega(run: records.Run, teacher: records.Run | None) -> float | None:
  """The omega of a protected teacher, or of that of a student."""
  return (teacher or run)['config']['settings'].get('omega')


def share(run: records.Run, teacher: records.Run | None) -> float:
  """What part of the training set a run has seen; a control's too."""
  return run['config']['dataset']['fraction']


def setting(name: str) -> sweeps.ValueFn:
  """A setting of the attack; a control does not depend on it."""

  def value(run: records.Run, teacher: records.Run | None) -> Any:
    return run['config']['settings'][name] if teacher else None

  return value
