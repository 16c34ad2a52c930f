"""Trackers: which detection is which object, from frame to frame. One file per tracker, registered by ``TRACKER``.

    tracker = edgekit.tracking.ByteTrack()          # or open_tracker("bytetrack"); one for each stream
    tracks = tracker.update(boxes, scores, class_ids, time=seconds)
    for track_id, box in zip(tracks.visible.track_ids, tracks.visible.boxes): ...

numpy alone is needed; the solver of ``lap`` or SciPy is used where installed, with the same result.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.errors import UsageError, choices
from edgekit.runtimes.tracking._tracker import Tracker as Tracker
from edgekit.runtimes.tracking._tracks import State as State
from edgekit.runtimes.tracking._tracks import Tracks as Tracks

if TYPE_CHECKING:
    from edgekit.runtimes.tracking.botsort import BoTSort as BoTSort
    from edgekit.runtimes.tracking.bytetrack import ByteTrack as ByteTrack
    from edgekit.runtimes.tracking.ocsort import OCSort as OCSort
    from edgekit.runtimes.tracking.sort import Sort as Sort

_WHERE = {"BoTSort": "botsort", "ByteTrack": "bytetrack", "OCSort": "ocsort", "Sort": "sort"}

__all__ = ["BoTSort", "ByteTrack", "OCSort", "Sort", "State", "Tracker", "Tracks", "open_tracker", "tracker_names"]


def tracker_names() -> tuple[str, ...]:
    """Names of all trackers."""
    return tuple(registry.declared(__name__, "TRACKER"))


def open_tracker(name: str, **options: Any) -> Tracker:
    """A new tracker, for one stream.

    Args:
        options: those of the tracker, see docs/TRACKING.md.

    Raises:
        UsageError: no tracker of that name, an unknown option, or a value out of range.
    """
    trackers = registry.declared(__name__, "TRACKER")
    if name not in trackers:
        raise UsageError(f"tracker {choices(name, tuple(trackers))}")
    opened: Tracker = trackers[name].TRACKER(**options)
    return opened


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
