"""Trackers under the names that users type: ``edgekit.tracking.ByteTrack``, ``edgekit.tracking.open_tracker``.

The classes are those of the files in `edgekit.runtimes.tracking`, found by their place:
``dir(edgekit.tracking)`` has all.
"""

from __future__ import annotations

from edgekit.runtimes.tracking import State as State
from edgekit.runtimes.tracking import Tracker as Tracker
from edgekit.runtimes.tracking import Tracks as Tracks
from edgekit.runtimes.tracking import open_tracker as open_tracker
from edgekit.runtimes.tracking import tracker_names as tracker_names
from edgekit.runtimes.tracking import trackers as trackers

_NAMES = ("State", "Tracker", "Tracks", "open_tracker", "tracker_names", "trackers")


def _classes() -> dict[str, type[Tracker]]:
    return {kind.__name__: kind for kind in trackers().values()}


def __getattr__(name: str) -> type[Tracker]:
    found = {} if name.startswith("_") else _classes()
    if name not in found:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found[name]


def __dir__() -> list[str]:
    return sorted((*_NAMES, *_classes()))
