"""Trackers under the name that users type: ``edgekit.tracking.ByteTrack``. They live in `edgekit.runtimes.tracking`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.runtimes import tracking as _tracking
from edgekit.runtimes.tracking import State as State
from edgekit.runtimes.tracking import Tracker as Tracker
from edgekit.runtimes.tracking import Tracks as Tracks
from edgekit.runtimes.tracking import open_tracker as open_tracker
from edgekit.runtimes.tracking import tracker_names as tracker_names

if TYPE_CHECKING:
    from edgekit.runtimes.tracking import BoTSort as BoTSort
    from edgekit.runtimes.tracking import ByteTrack as ByteTrack
    from edgekit.runtimes.tracking import OCSort as OCSort
    from edgekit.runtimes.tracking import Sort as Sort

__all__ = list(_tracking.__all__)


def __getattr__(name: str) -> Any:
    return getattr(_tracking, name)


def __dir__() -> list[str]:
    return dir(_tracking)
