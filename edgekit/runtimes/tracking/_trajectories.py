"""Where each track was seen: the newest observations of every track, in memory that does not grow with the video."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Floats, Ints


class Trajectories:
    """Rings of (time, box), one per slot. A track holds a slot from its first to its last day.

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
        at = self._counts[slots] % self.length
        self._times[slots, at] = time
        self._boxes[slots, at] = boxes
        self._counts[slots] += 1

    def read(self, slot: int) -> tuple[Doubles, Floats]:
        """Times (k,) in seconds and boxes float32 (k, 4) of one slot, oldest first."""
        count = int(self._counts[slot])
        at = np.arange(max(count - self.length, 0), count) % self.length
        return self._times[slot, at], self._boxes[slot, at]

    def at_or_before(self, slots: Ints, times: Doubles, reach: int = 16) -> tuple[Floats, NDArray[np.bool_]]:
        """The newest observation that is not newer than ``times`` (k,), else the oldest within reach.

        Returns:
            Boxes float32 (k, 4), and (k,) whether there is more than this one observation.

        Args:
            reach: how many observations to look back; 16 are 0.1 s of 160 frames per second.
        """
        reach = min(reach, self.length)
        counts = self._counts[slots]
        back = counts[:, None] - 1 - np.arange(reach)  # newest first
        ring = back % self.length
        late = self._times[slots[:, None], ring] > times[:, None]
        late &= back >= 0
        steps = np.minimum(late.sum(1), np.minimum(counts, reach) - 1)
        return self._boxes[slots, (counts - 1 - steps) % self.length], counts > 1
