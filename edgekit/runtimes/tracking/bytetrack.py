"""ByteTrack (Zhang et al., arXiv 2110.06864): every detection counts; weak ones may only continue known tracks.

The paper's second matching leaves out lost tracks. Here they take part: in a crowd, who comes back into sight is half
hidden at first and weakly detected, and would stay lost until nobody stands in front any more.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import UsageError
from edgekit.runtimes.tracking.base import Tracker
from edgekit.runtimes.tracking.detections import Observed
from edgekit.runtimes.tracking.options import Share, TrackerOptions
from edgekit.runtimes.tracking.state import TENTATIVE


class ByteTrackOptions(TrackerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of ByteTrack, besides those of every tracker. Defaults are the paper's and its code's.

    Args:
        high_score: detections from here on are matched first, with all tracks; 0.6 in the paper.
        low_score: detections between this and ``high_score`` are matched with what then is left; 0.1.
        new_score: detections from here on may begin a track; ``high_score`` + 0.1 in the paper.
        min_similarity: of the first matching, IoU times score; 0.2 (a cost of at most 0.8).
        min_iou: of the second matching, with weak detections; 0.5.
        tentative_similarity: IoU times score of the matching of tentative tracks; 0.3 (a cost of at most 0.7).
    """

    high_score: Share = 0.6
    low_score: Share = 0.1
    new_score: Share = 0.7
    min_similarity: Share = 0.2
    min_iou: Share = 0.5
    tentative_similarity: Share = 0.3

    def __post_init__(self) -> None:
        """Refuse thresholds in the wrong order."""
        if not self.low_score <= self.high_score <= self.new_score:
            raise UsageError(
                "low_score <= high_score <= new_score must hold, not "
                f"{self.low_score:g}, {self.high_score:g}, {self.new_score:g}"
            )


class ByteTrack(Tracker):
    """ByteTrack."""

    Options: ClassVar[type[TrackerOptions]] = ByteTrackOptions
    options: ByteTrackOptions

    def _begins(self, found: Observed) -> NDArray[np.bool_]:
        return found.scores >= self.options.new_score

    def _match(self, similarity: Floats, found: Observed, time: float, matches: Ints) -> None:
        options, states = self.options, self._table.states
        high = found.scores >= options.high_score
        fused = self._closeness(similarity, found)
        known = (states != TENTATIVE).nonzero()[0]
        self._stage(fused, known, high.nonzero()[0], matches, fused >= options.min_similarity)
        weak = (~high & (found.scores > options.low_score)).nonzero()[0]
        if len(weak):
            self._stage(similarity, known[matches[known] < 0], weak, matches, similarity >= options.min_iou)
        if len(known) < len(matches):
            high[matches[matches >= 0]] = False
            tentative = (states == TENTATIVE).nonzero()[0]
            self._stage(fused, tentative, high.nonzero()[0], matches, fused >= options.tentative_similarity)

    def _closeness(self, similarity: Floats, found: Observed) -> Floats:
        """Similarity (n, m) of the first and third matching: IoU times score."""
        return similarity * found.scores


TRACKER = ByteTrack
