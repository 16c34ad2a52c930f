"""The tracks of one stream: what a tracker returns of them, the table it keeps them in, and where each was seen."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Floats, Ints
from edgekit.runtimes.tracking import kalman


class State(enum.IntEnum):
    """Life-cycle state of a track.

    TENTATIVE: seen, but not for long enough to be believed; its id is -1. TRACKED: believed, and seen in the newest
    update. LOST: believed, but not seen in the newest update; ends after ``lost_seconds``.
    """

    TENTATIVE = 0
    TRACKED = 1
    LOST = 2


TENTATIVE, TRACKED, LOST = map(int, State)
"""The same as plain integers: numpy takes four times as long to compare an array with a member of an enumeration."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """All tracks of a stream at one moment, oldest first; arrays with one entry per track.

    Args:
        time: seconds, as given.
        track_ids: int64 (n,), counted from 1 in the order in which tracks were confirmed; -1 while tentative.
        boxes: float32 (n, 4) xyxy in pixels: where the filter takes the track to be after its detection (the
            detection's own box with the option ``boxes="detection"``), or without one, where it is expected.
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
        return self[self.states == TRACKED]

    @property
    def refound(self) -> NDArray[np.bool_]:
        """(n,), which tracks were lost until this frame."""
        return self.gaps > 0


_ROW = np.dtype(
    [
        ("boxes", np.float32, 4),
        ("scores", np.float32),
        ("states", np.int8),
        ("class_ids", np.int64),
        ("track_ids", np.int64),
        ("slots", np.int64),
        ("born", np.float64),
        ("seen", np.float64),
    ],
    align=True,
)


class TrackTable:
    """Columns with one entry per track.

    ``motion`` (6, 4, n) is the state of `kalman` as of ``seen``, the time of the track's newest detection. It is never
    advanced in place: what is expected at any later time is computed from it, so that a lost track keeps the state it
    was lost with, and a frame without detections costs nothing. ``embeddings`` (n, d) are unit vectors of appearance,
    zeros for a track that has none. The other columns are views of one array, so that tracks come and go in few calls.

    Args:
        count: of tracks, whose columns are zeros at first.
    """

    boxes: Floats
    scores: Floats
    states: NDArray[np.int8]
    class_ids: Ints
    track_ids: Ints
    slots: Ints
    born: Doubles
    seen: Doubles

    def __init__(self, count: int = 0) -> None:
        self.motion: Doubles = np.zeros((6, 4, count))
        self.embeddings: Floats = np.zeros((count, 0), np.float32)
        self._set(np.zeros(count, _ROW))

    def __len__(self) -> int:
        return len(self._rows)

    def _set(self, rows: NDArray[np.void]) -> None:
        self._rows = rows
        for name in _ROW.names or ():
            setattr(self, name, rows[name])

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the tracks where ``mask`` (n,) is False."""
        rows = mask.nonzero()[0]
        self.motion = self.motion.take(rows, axis=2)
        self.embeddings = self.embeddings.take(rows, axis=0)
        self._set(self._rows[rows])

    def extend(self, other: TrackTable) -> None:
        """Add the tracks of another table behind these."""
        self.widen(other.embeddings.shape[1])
        other.widen(self.embeddings.shape[1])
        self.motion = np.concatenate([self.motion, other.motion], axis=2)
        self.embeddings = np.concatenate([self.embeddings, other.embeddings])
        self._set(np.concatenate([self._rows, other._rows]))

    def widen(self, dimensions: int) -> None:
        """Make room for embeddings of this many dimensions where there were none."""
        if self.embeddings.shape[1] == 0 and dimensions:
            self.embeddings = np.zeros((len(self), dimensions), np.float32)

    def predicted(self, time: float) -> Doubles:
        """Expected states (6, 4, n) at a time in seconds, not before the newest detection."""
        return kalman.predict(self.motion, time - self.seen)


REACH = 16
"""Observations that are looked back: 0.1 s of 160 frames per second."""
_STEPS = np.arange(REACH)


class Trajectories:
    """The newest observations of every track, in memory that does not grow with the video: rings of (time, box).

    Each has a slot. A track holds a slot from its first to its last day.

    Args:
        length: observations kept per track; older ones are overwritten.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._times = np.zeros((0, length))
        self._boxes = np.zeros((0, length, 4), np.float32)
        self._counts = np.zeros(0, np.int64)
        self._free = np.zeros(0, np.int64)

    def take(self, count: int) -> Ints:
        """``count`` empty slots (count,)."""
        if len(self._free) < count:
            self._grow(count - len(self._free))
        slots, self._free = self._free[:count], self._free[count:]
        self._counts[slots] = 0
        return slots

    def give_back(self, slots: Ints) -> None:
        """Slots (k,) of tracks that ended; the next that need some get them."""
        self._free = np.concatenate([self._free, slots])

    def _grow(self, missing: int) -> None:
        old = len(self._counts)
        more = max(missing, old, 16)
        self._times = np.concatenate([self._times, np.zeros((more, self.length))])
        self._boxes = np.concatenate([self._boxes, np.zeros((more, self.length, 4), np.float32)])
        self._counts = np.concatenate([self._counts, np.zeros(more, np.int64)])
        self._free = np.concatenate([self._free, np.arange(old, old + more)])

    def append(self, slots: Ints, time: float, boxes: Floats) -> None:
        """Note that the tracks of these slots (k,) were seen at ``time`` in these boxes (k, 4)."""
        counts = self._counts[slots]
        at = counts % self.length
        self._times[slots, at] = time
        self._boxes[slots, at] = boxes
        self._counts[slots] = counts + 1

    def read(self, slot: int) -> tuple[Doubles, Floats]:
        """Times (k,) in seconds and boxes float32 (k, 4) of one slot, oldest first."""
        count = int(self._counts[slot])
        at = np.arange(max(count - self.length, 0), count) % self.length
        return self._times[slot, at], self._boxes[slot, at]

    def at_or_before(self, slots: Ints, times: Doubles, reach: int = REACH) -> tuple[Floats, NDArray[np.bool_]]:
        """The newest observation that is not newer than ``times`` (k,), else the oldest within reach.

        Returns:
            Boxes float32 (k, 4), and (k,) whether there is more than this one observation.

        Args:
            reach: how many observations to look back, at most `REACH`.
        """
        reach = min(reach, self.length)
        counts = self._counts[slots]
        newest = counts - 1
        back = newest[:, None] - _STEPS[:reach]  # newest first
        late = self._times[slots[:, None], back % self.length] > times[:, None]
        late &= back >= 0
        steps = np.minimum(np.add.reduce(late, 1), np.minimum(newest, reach - 1))
        return self._boxes[slots, (newest - steps) % self.length], newest > 0
