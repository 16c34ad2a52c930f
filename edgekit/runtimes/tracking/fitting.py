"""Thresholds of trackers for a detector whose scores are not those of the papers' detectors.

ByteTrack's and OC-SORT's thresholds are for a YOLOX, whose good detections score above 0.8. A detector that is as right
and less sure (NanoDet: 0.4 to 0.7) would have most of its detections discarded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.tracking.options import TrackerOptions

ENOUGH = 20
"""With fewer detections there is nothing to fit to."""

BEGIN = 0.25
"""The share of detections that may be too weak to begin a track."""

USUAL_NEW, USUAL_LEAST, STEP = 0.7, 0.6, 0.1
"""ByteTrack's ``new_score``, OC-SORT's ``min_score``, and how far ``high_score`` lies below ``new_score``."""

TOGETHER = 64
"""Frames whose scores a tally counts at once."""


def fitted(scores: Floats, least: float) -> dict[str, float]:
    """Options with which three of four detections may begin a track.

    Args:
        scores: of detections after NMS, in any order.
        least: the score from which on they count as detections.

    Returns:
        ``new_score``, ``high_score`` and, where they have to be lower too, ``min_score`` and ``low_score``; nothing
        where the papers' thresholds do, or with fewer than `ENOUGH` detections.
    """
    shown = scores[scores >= least]
    if len(shown) < ENOUGH:
        return {}
    new = math.floor(100 * float(np.quantile(shown, BEGIN))) / 100
    if new >= USUAL_NEW:
        return {}
    high = round(max(min(least, new), new - STEP), 2)
    found = {"new_score": new, "high_score": high}
    if new < USUAL_LEAST:
        found["min_score"] = min(new, 0.5)
    if high < 2 * STEP:
        found["low_score"] = round(high / 2, 2)
    return found


def known_to(options: type[TrackerOptions], given: Mapping[str, object]) -> dict[str, object]:
    """Those of the given options that a tracker has."""
    return {name: value for name, value in given.items() if name in options.__struct_fields__}


class TrackTally:
    """The detections that a tracker got so far, by score, and how many became part of a visible track."""

    def __init__(self) -> None:
        self._counts = np.zeros(101, np.int64)
        self._waiting: list[Floats] = []
        self.frames = 0
        self.tracked = 0

    def add(self, scores: Floats, tracked: int) -> None:
        """Count the detections of a frame, scores in 0..1, and how many of them were tracked."""
        self._waiting.append(scores)
        if len(self._waiting) == TOGETHER:
            self._count()
        self.frames += 1
        self.tracked += tracked

    def scores(self, least: float = 0.0) -> Floats:
        """All scores from ``least`` on, to two places."""
        self._count()
        scores: Floats = np.repeat(np.arange(101, dtype=np.float32) / 100, self._counts)
        return scores[scores >= np.float32(math.floor(100 * least + 1e-6) / 100)]

    def _count(self) -> None:
        if self._waiting:
            places = (100 * np.concatenate(self._waiting)).astype(np.int64)
            self._counts += np.bincount(places, minlength=101)
            self._waiting.clear()
