"""OC-SORT (Cao et al., arXiv 2203.14360): observation-centric, so that filter errors do not build up when lost."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Floats, Ints
from edgekit.runtimes.tasks.similarity import box_iou
from edgekit.runtimes.tracking import kalman
from edgekit.runtimes.tracking.assignment import compete
from edgekit.runtimes.tracking.base import Tracker
from edgekit.runtimes.tracking.detections import Observed
from edgekit.runtimes.tracking.options import Seconds, Share, TrackerOptions
from edgekit.runtimes.tracking.state import LOST


class OCSortOptions(TrackerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of OC-SORT, besides those of every tracker. Defaults are the paper's and its code's.

    Args:
        min_score: detections below it are ignored; 0.6.
        min_iou: of a detection with where its track is expected, or was last seen; 0.3.
        direction_weight: what a detection straight ahead gains over one straight behind, times its score; 0.2.
        direction_seconds: over how long a direction is measured; 3 frames at 30 frames/s.
        confirm_seconds: the third frame in a row confirms (``min_hits`` of 3), at the papers' 30 frames/s.
    """

    min_score: Share = 0.6
    min_iou: Share = 0.3
    direction_weight: Share = 0.2
    direction_seconds: Seconds = 0.1
    confirm_seconds: Seconds = 2 / 30


class OCSort(Tracker):
    """OC-SORT: observation-centric momentum (OCM), recovery (OCR) and re-update (ORU)."""

    Options: ClassVar[type[TrackerOptions]] = OCSortOptions
    options: OCSortOptions

    def reset(self) -> None:
        """Forget everything, for a new stream; ids count from 1 again."""
        super().reset()
        self._updates = deque[float]()

    def _begins(self, found: Observed) -> NDArray[np.bool_]:
        return found.scores >= self.options.min_score

    def _match(self, similarity: Floats, found: Observed, time: float, matches: Ints) -> None:
        strong = found.scores >= self.options.min_score
        gains = self._with_momentum(similarity, found, time)
        every = np.arange(len(matches))
        self._stage(gains, every, strong.nonzero()[0], matches, similarity >= self.options.min_iou)
        strong[matches[matches >= 0]] = False
        rows, columns = (matches < 0).nonzero()[0], strong.nonzero()[0]
        if len(rows) and len(columns):  # OCR: perhaps it stayed where it was last seen
            again = box_iou(self._table.boxes, found.boxes)
            if self.options.class_aware:
                again[self._table.class_ids[:, None] != found.class_ids] = 0
            self._stage(again, rows, columns, matches, again >= self.options.min_iou)

    def _with_momentum(self, similarity: Floats, found: Observed, time: float) -> Floats:
        """OCM: the similarity (n, m) with, where there is any, how well a detection lies in its track's direction.

        The direction of a track is from where it was ``direction_seconds`` before it was last seen to there, and the
        direction to a detection is from where it was that long before now. Only pairs that overlap are worked out,
        and only where there is a choice: an arc cosine for every pair takes longer than all the rest.
        """
        table, ago = self._table, self.options.direction_seconds
        rows, columns = similarity.nonzero()
        if not self.options.direction_weight or not compete(rows, columns):
            return similarity
        earlier, anchor, moving = self._before(table.seen - ago + 1e-6, time - ago + 1e-6)
        heading = _unit(_middles(table.boxes) - _middles(earlier))
        wanted = _unit(_middles(found.boxes)[:, columns] - _middles(anchor)[:, rows])
        ahead = heading[0, rows] * wanted[0] + heading[1, rows] * wanted[1]
        angle = np.arccos(np.minimum(np.maximum(ahead, -1), 1))
        bonus = (0.5 - angle / np.pi) * self.options.direction_weight * found.scores[columns] * moving[rows]
        gains = similarity.copy()
        gains[rows, columns] = np.maximum(gains[rows, columns] + bonus, 1e-6)
        return gains

    def _before(self, moments: Doubles, moment: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Where the tracks (n,) were at a moment each, and at one moment: boxes (n, 4); which were seen several times.

        Both are looked up at once, because a look-up takes a dozen numpy calls.
        """
        count, slots = len(moments), self._table.slots
        every = np.empty(2 * count)
        every[:count], every[count:] = moments, moment
        boxes, several = self._trajectories.at_or_before(np.concatenate([slots, slots]), every)
        return boxes[:count], boxes[count:], several[:count]

    def _corrected(self, rows: Ints, expected: Doubles, found: Observed, at: Ints, time: float) -> Doubles:
        lost = self._table.states[rows] == LOST
        if np.count_nonzero(lost):
            expected[:, :, lost] = self._reupdated(rows[lost], found.boxes[at[lost]], time)
        return super()._corrected(rows, expected, found, at, time)

    def _reupdated(self, rows: Ints, boxes: Floats, time: float) -> Doubles:
        """ORU: expected states (6, 4, k) as if the lost tracks had been seen on a straight way to where they are now.

        A virtual observation for each update that missed them; the error that the filter piled up meanwhile is gone.
        """
        table = self._table
        since, start, goal = table.seen[rows], kalman.centred(table.boxes[rows]), kalman.centred(boxes)
        state, at = table.motion.take(rows, axis=2), since.copy()
        ways = (goal - start) / (time - since)
        longest = since.min()
        for moment in self._updates:
            if moment > longest:
                due = (moment > since).nonzero()[0]
                way = (start + (moment - since) * ways).take(due, axis=1)
                state[:, :, due] = kalman.correct(kalman.predict(state.take(due, axis=2), moment - at[due]), way)
                at[due] = moment
        return kalman.predict(state, time - at)

    def _advance(self, time: float) -> bool:
        if self._time is not None:
            self._updates.append(self._time)
            while self._updates[0] <= self._time - self.options.lost_seconds - 1:
                self._updates.popleft()
        return super()._advance(time)


def _middles(boxes: Floats) -> Floats:
    """(2, n) of boxes (n, 4)."""
    middles: Floats = (boxes[:, :2] + boxes[:, 2:]).T * np.float32(0.5)
    return middles


def _unit(vectors: Floats) -> Floats:
    """Vectors (2, n), scaled to length 1."""
    scaled: Floats = vectors / (np.sqrt(vectors[0] * vectors[0] + vectors[1] * vectors[1]) + np.float32(1e-6))
    return scaled


TRACKER = OCSort
