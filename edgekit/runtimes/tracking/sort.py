"""SORT (Bewley et al., arXiv 1602.00763): Kalman filter, IoU, one assignment. The baseline."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tracking.assignment import assign
from edgekit.runtimes.tracking.base import Tracker
from edgekit.runtimes.tracking.detections import Observed
from edgekit.runtimes.tracking.options import Seconds, Share, TrackerOptions


class SortOptions(TrackerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of SORT, besides those of every tracker.

    Args:
        min_score: detections below it are ignored; 0.5 in the paper.
        min_iou: of a detection with where its track is expected; 0.3 in the paper's code.
        confirm_seconds: the third frame in a row confirms (``min_hits`` of 3), at the papers' 30 frames/s.
    """

    min_score: Share = 0.5
    min_iou: Share = 0.3
    confirm_seconds: Seconds = 2 / 30


class Sort(Tracker):
    """SORT, with tracks that live on for ``lost_seconds`` like everyone's (the paper drops them at the first miss)."""

    Options: ClassVar[type[TrackerOptions]] = SortOptions
    options: SortOptions

    def _begins(self, found: Observed) -> NDArray[np.bool_]:
        return found.scores >= self.options.min_score

    def _match(self, similarity: Floats, found: Observed, time: float, matches: Ints) -> None:
        strong = np.count_nonzero(found.scores >= self.options.min_score)  # the first: the best scores come first
        gains = similarity[:, :strong]
        rows, columns = assign(gains)
        close = gains[rows, columns] >= self.options.min_iou
        matches[rows[close]] = columns[close]


TRACKER = Sort
