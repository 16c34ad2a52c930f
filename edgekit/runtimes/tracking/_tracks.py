"""What a tracker returns for one frame."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Floats, Ints


class State(enum.IntEnum):
    """What is known of a track.

    TENTATIVE: seen, but not for long enough to be believed; its id is -1. TRACKED: believed, and seen in the newest
    update. LOST: believed, but not seen in the newest update; ends after ``lost_seconds``.
    """

    TENTATIVE = 0
    TRACKED = 1
    LOST = 2


@dataclass(frozen=True, eq=False)
class Tracks:
    """All tracks of a stream at one moment, oldest first; arrays with one entry per track.

    Args:
        time: seconds, as given.
        track_ids: int64 (n,), counted from 1 in the order in which tracks were confirmed; -1 while tentative.
        boxes: float32 (n, 4) xyxy in pixels: the detection's own where there is one, else where the track is expected.
        scores: float32 (n,), of the newest detection of the track; so are ``class_ids``, int64 (n,).
        states: int8 (n,), values of `State`.
        ages: float64 (n,), seconds since the track was first seen.
        unseen: float64 (n,), seconds since it was last seen: 0 where it has a detection in this frame.
        gaps: float64 (n,), where it has a detection in this frame: seconds since the one before if an update had missed
            it in between (re-found), else 0; 0 everywhere else.
        detections: int64 (n,), row of the track's detection in the arrays given to this update, -1 without one.
    """

    time: float
    track_ids: Ints
    boxes: Floats
    scores: Floats
    class_ids: Ints
    states: NDArray[np.int8]
    ages: Doubles
    unseen: Doubles
    gaps: Doubles
    detections: Ints

    def __len__(self) -> int:
        return len(self.track_ids)

    def __getitem__(self, rows: NDArray[np.bool_] | Ints | slice) -> Tracks:
        """The chosen tracks: a mask (n,), indices or a slice."""
        columns = {name: value[rows] for name, value in vars(self).items() if name != "time"}
        return Tracks(time=self.time, **columns)

    @property
    def visible(self) -> Tracks:
        """The confirmed tracks that are in sight: state TRACKED, which is what counts and what is drawn."""
        return self[self.states == State.TRACKED]

    @property
    def refound(self) -> NDArray[np.bool_]:
        """(n,), which tracks were lost until this frame."""
        return self.gaps > 0
