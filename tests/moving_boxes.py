"""Boxes that move in continuous time, with crossings, occlusion, misses and false positives; seen at any frame times.

What is detected at a time depends on the scene and that time alone, so that the same world can be filmed at 5 or 60
frames per second, or with frames dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from edgekit.runtimes.tracking import Tracker, Tracks

WIDTH, HEIGHT, DURATION = 60.0, 120.0, 8.0


@dataclass(frozen=True)
class Seen:
    """Detections of one frame; ``truth`` (n,) is the object of each, -1 for a false positive."""

    time: float
    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Street:
    """Pairs of people in lanes of their own: one walks right in front, one left behind it, who is hidden meanwhile."""

    pairs: int = 4
    speed: float = 70.0
    jitter: float = 1.5
    miss: float = 0.03
    seed: int = 0

    @property
    def count(self) -> int:
        return 2 * self.pairs

    def boxes(self, time: float) -> np.ndarray:
        """True boxes (count, 4) xyxy; the first of a pair is in front."""
        lanes = np.repeat(np.arange(self.pairs), 2)
        right = np.tile([1.0, -1.0], self.pairs)
        pace = self.speed * (1 + 0.15 * lanes)
        x = 450 + right * pace * (time - DURATION / 2)
        foot = 200 + 260 * lanes + 10 * right
        half = WIDTH / 2
        return np.stack([x - half, foot - HEIGHT, x + half, foot], 1)

    def at(self, time: float) -> Seen:
        """What a detector finds at this time: false positives last for one frame and are never where another was."""
        rng = np.random.default_rng([self.seed, round(time * 1e6)])
        boxes = self.boxes(time)
        overlap = 1 - np.abs(boxes[0::2, 0] - boxes[1::2, 0]) / WIDTH
        seen = rng.random(self.count) >= self.miss
        seen[1::2] &= overlap < 0.5
        kept = np.flatnonzero(seen)
        found = boxes[kept] + rng.normal(0, self.jitter, (len(kept), 4))
        scores = rng.uniform(0.75, 0.95, len(kept))
        place = np.array([1500 + round(time * 1e3) % 97 * 100, 50.0 + round(time * 1e3) % 89 * 150])
        false = np.array([[*place, *(place + np.array([50, 100]))]])
        count = len(kept) + (time > 0)  # what is in a stream's first frame is believed at once
        order = rng.permutation(count)
        return Seen(
            time,
            np.concatenate([found, false])[order],
            np.append(scores, 0.8)[order],
            np.zeros(count, np.int64),
            np.append(kept, -1)[order],
        )


@dataclass
class Followed:
    """Which ids each object got, and all tracks by frame."""

    ids: dict[int, set[int]] = field(default_factory=dict)
    frames: list[Tracks] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of ids given."""
        return len({int(one) for tracks in self.frames for one in tracks.track_ids if one > 0})


def follow(tracker: Tracker, frames: Iterable[Seen]) -> Followed:
    """Run a tracker over frames."""
    found = Followed()
    for frame in frames:
        tracks = tracker.update(frame.boxes, frame.scores, frame.class_ids, time=frame.time)
        found.frames.append(tracks)
        seen = tracks.visible
        for track_id, row in zip(seen.track_ids.tolist(), seen.detections.tolist(), strict=True):
            found.ids.setdefault(int(frame.truth[row]), set()).add(track_id)
    return found
