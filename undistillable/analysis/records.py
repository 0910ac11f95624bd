"""The dicts that the modules of this package hand on: plain JSON, all of it.

Their keys are listed where they are made, in `summary.summarize`.
"""

from collections.abc import Mapping
from typing import Any

Run = Mapping[str, Any]  # One run, as a study writes it.
RunsById = Mapping[str, Run]
Stat = dict[str, Any]  # Of `stats.stat`.
Entry = dict[str, Any]  # A teacher, a student or an attack of a summary.
Summary = dict[str, Any]  # What `summary.summarize` returns.
Metrics = Mapping[str, list[dict[str, Any]]]  # {run id: its epochs' metrics}.
