"""Trackers: which detection is which object, from frame to frame. One file per tracker, registered by ``TRACKER``.

    tracker = edgekit.tracking.ByteTrack()          # or open_tracker("bytetrack"); one for each stream
    tracks = tracker.update(boxes, scores, class_ids, time=seconds)
    for track_id, box in zip(tracks.visible.track_ids, tracks.visible.boxes): ...

numpy alone is needed; the solver of ``lap`` or SciPy is used where installed, with the same result.
"""

from __future__ import annotations

from typing import Any

from edgekit import registry
from edgekit.errors import UsageError, choices
from edgekit.runtimes.tracking.base import Tracker as Tracker
from edgekit.runtimes.tracking.state import State as State
from edgekit.runtimes.tracking.state import Tracks as Tracks


def trackers() -> dict[str, type[Tracker]]:
    """All trackers by name."""
    return {name: module.TRACKER for name, module in registry.declared(__name__, "TRACKER").items()}


def tracker_names() -> tuple[str, ...]:
    """Names of all trackers."""
    return tuple(trackers())


def open_tracker(name: str, **options: Any) -> Tracker:
    """A new tracker, for one stream.

    Args:
        name: one of `tracker_names`.
        options: those of the tracker, see docs/TRACKING.md.

    Raises:
        UsageError: no tracker of that name, an unknown option, or a value out of range.
    """
    known = trackers()
    if name not in known:
        raise UsageError(f"tracker {choices(name, tuple(known))}")
    return known[name](**options)
