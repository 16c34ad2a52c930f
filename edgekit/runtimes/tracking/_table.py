"""The tracks of one stream as columns: one row per track, oldest first."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Floats, Ints
from edgekit.runtimes.tracking import _kalman


@dataclass
class TrackTable:
    """Columns with one entry per track.

    ``motion`` (6, n, 4) is the state of `_kalman` as of ``seen``, the time of the track's newest detection. It is never
    advanced in place: what is expected at any later time is computed from it, so that a lost track keeps the state it
    was lost with, and a frame without detections costs nothing.
    """

    motion: Doubles = field(default_factory=lambda: np.zeros((6, 0, 4)))
    boxes: Floats = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    scores: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    class_ids: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    track_ids: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    states: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    born: Doubles = field(default_factory=lambda: np.zeros(0))
    seen: Doubles = field(default_factory=lambda: np.zeros(0))
    slots: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    embeddings: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """Unit vectors of appearance (n, d); zeros for a track that has none."""

    def __len__(self) -> int:
        return len(self.track_ids)

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the tracks where ``mask`` (n,) is False."""
        rows = np.flatnonzero(mask)
        self.motion = self.motion.take(rows, axis=1)
        for name in _ROWS:
            setattr(self, name, getattr(self, name).take(rows, axis=0))

    def extend(self, other: TrackTable) -> None:
        """Add the tracks of another table behind these."""
        self.widen(other.embeddings.shape[1])
        other.widen(self.embeddings.shape[1])
        self.motion = np.concatenate([self.motion, other.motion], axis=1)
        for name in _ROWS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))

    def widen(self, dimensions: int) -> None:
        """Make room for embeddings of this many dimensions where there were none."""
        if self.embeddings.shape[1] == 0 and dimensions:
            self.embeddings = np.zeros((len(self), dimensions), np.float32)

    def predicted(self, time: float) -> Doubles:
        """Expected states (6, n, 4) at a time in seconds, not before the newest detection."""
        return _kalman.predict(self.motion, time - self.seen)


_ROWS = tuple(column.name for column in fields(TrackTable) if column.name != "motion")
