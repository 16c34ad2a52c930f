"""The plainest tracker: each track takes the detection that overlaps it most."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tracking.base import Tracker
from edgekit.runtimes.tracking.detections import Observed
from edgekit.runtimes.tracking.options import Share, TrackerOptions


class NearestOptions(TrackerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the tracker, beside those of every tracker."""

    min_score: Share = 0.3


class Nearest(Tracker):
    """One assignment by IoU."""

    Options: ClassVar[type[TrackerOptions]] = NearestOptions

    def _match(self, similarity: Floats, found: Observed, time: float, matches: Ints) -> None:
        self._stage(similarity, np.arange(len(matches)), np.arange(len(found)), matches, similarity > 0)


TRACKER = Nearest
