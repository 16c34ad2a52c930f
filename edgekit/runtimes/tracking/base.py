"""Base class of all trackers: the life cycle of tracks. A subclass adds the matching of detections with tracks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.arrays import Doubles, Floats, Image, Ints
from edgekit.errors import UsageError, choices
from edgekit.runtimes.inputs import images
from edgekit.runtimes.tasks.similarity import box_iou
from edgekit.runtimes.tracking import kalman
from edgekit.runtimes.tracking.assignment import assign, default_solver
from edgekit.runtimes.tracking.detections import Observed, observed
from edgekit.runtimes.tracking.fitting import TrackTally
from edgekit.runtimes.tracking.options import TrackerOptions, parsed
from edgekit.runtimes.tracking.state import LOST, TENTATIVE, TRACKED, Tracks, TrackTable, Trajectories

CLOCK = 1e-3
"""Seconds that time stamps may be off, from rounding to milliseconds."""


class Tracker(ABC):
    """Follows the objects of ONE stream; open another for each further stream.

    Args:
        options: those of the class's ``Options``, by name.

    Raises:
        UsageError: an unknown option (the valid ones are listed) or a value out of range.
    """

    Options: ClassVar[type[TrackerOptions]] = TrackerOptions
    uses_image: ClassVar[bool] = False
    uses_embeddings: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        self.options = parsed(self.Options, options)
        default_solver()  # importing SciPy takes long: better now than at the first crowded frame
        self.reset()

    @property
    def least_score(self) -> float:
        """The lowest score that this tracker can use: the threshold to run a detector with."""
        names = [name for name in ("low_score", "min_score") if hasattr(self.options, name)]
        return min(float(getattr(self.options, name)) for name in names)

    @property
    def begin_option(self) -> str:
        """The name of the threshold from which on a detection may begin a track; empty without one."""
        return next((name for name in ("new_score", "min_score") if hasattr(self.options, name)), "")

    def reset(self) -> None:
        """Forget everything, for a new stream; ids count from 1 again."""
        self._table = TrackTable()
        self.tally = TrackTally()
        self._trajectories = Trajectories(self.options.trajectory_points)
        self._time: float | None = None
        self._next_id = 1

    def update(
        self,
        boxes: ArrayLike,
        scores: ArrayLike,
        class_ids: ArrayLike,
        *,
        time: float,
        image: Image | None = None,
        embeddings: ArrayLike | None = None,
    ) -> Tracks:
        """Match the detections of a frame with the tracks.

        Args:
            boxes: (n, 4) xyxy in pixels. scores: (n,) in 0..1. class_ids: (n,) integers. In any order.
            time: of the frame, in seconds on any clock that runs forward; frames may come at any rate or be missing.
            image: uint8 (height, width, 3) BGR, for trackers with ``uses_image``; others ignore it.
            embeddings: (n, d) appearance of each detection, for trackers with ``uses_embeddings``; others ignore it.

        Raises:
            UsageError: arrays that do not fit together, NaN, or a time that is not later than that of the last update.
            InputError: an image that is none.
        """
        found = observed(boxes, scores, class_ids, embeddings if self.uses_embeddings else None)
        self._check_dimension(found)
        if image is not None and self.uses_image:
            images.check(image)
        first = self._advance(time)
        self._end(time - self._table.seen > self.options.lost_seconds + CLOCK)
        if image is not None and self.uses_image:
            self._see(image, found.boxes)
        expected = self._table.predicted(time)
        expected_boxes = kalman.corners(expected)
        matches = _unmatched(len(self._table))
        if len(matches) and len(found):
            similarity = box_iou(expected_boxes, found.boxes)
            if self.options.class_aware:
                similarity[self._table.class_ids[:, None] != found.class_ids] = 0
            self._match(similarity, found, time, matches)
        now = self._apply(time, found, matches, expected, expected_boxes, first)
        self.tally.add(found.scores, int(np.count_nonzero(now.states == TRACKED)))
        return now

    def predict(self, time: float, *, image: Image | None = None) -> Tracks:
        """Where the tracks are expected to be, for a frame in which nothing was detected on purpose.

        Nothing counts as missed: tracks keep their state. The next update may be of the same time or later.

        Args:
            image: as for `update`; with it, the motion of the camera is followed through this frame.

        Raises:
            UsageError: a time before that of the last update. InputError: an image that is none.
        """
        self._check_time(time)
        if self._time is not None and time < self._time:
            raise UsageError(f"time must not be before that of the last update, {self._time:g} s, but is {time:g} s")
        if image is not None and self.uses_image:
            self._see(image, kalman.corners(self._table.predicted(time)))
        table = self._table
        now = self._tracks(time, kalman.corners(table.predicted(time)), _unmatched(len(table)), np.zeros(len(table)))
        return now[now.unseen <= self.options.lost_seconds + CLOCK]

    def trajectory(self, track_id: int) -> tuple[Doubles, Floats]:
        """Where a track was seen: times (k,) in seconds and boxes float32 (k, 4) xyxy, oldest first.

        The newest ``trajectory_points`` of them, each in the pixels of its own frame, from before it was confirmed on.

        Raises:
            UsageError: no track of that id is alive.
        """
        rows = (self._table.track_ids == track_id).nonzero()[0]
        if track_id < 1 or not len(rows):
            alive = sorted(self._table.track_ids[self._table.track_ids > 0].tolist())
            raise UsageError(f"track {choices(track_id, alive)}; tracks are forgotten when they end")
        return self._trajectories.read(int(self._table.slots[rows[0]]))

    @abstractmethod
    def _match(self, similarity: Floats, found: Observed, time: float, matches: Ints) -> None:
        """Write into ``matches`` (n,), full of -1, the index of each track's detection.

        Args:
            similarity: IoU (n, m) of where the tracks are expected with the detections; 0 where they must not match.
        """

    def _begins(self, found: Observed) -> NDArray[np.bool_]:
        """Which detections (m,) may begin a track when none takes them."""
        return np.ones(len(found), np.bool_)

    def _see(self, image: Image, boxes: Floats) -> None:  # noqa: B027  (most trackers are blind)
        """Take in a frame, before its detections are matched."""

    def _corrected(self, rows: Ints, expected: Doubles, found: Observed, at: Ints, time: float) -> Doubles:
        """States (6, 4, k) of the tracks in these rows (k,) after they were seen as ``found[at]``."""
        return kalman.correct(expected, kalman.centred(found.boxes[at]))

    def _stage(self, gains: Floats, rows: Ints, columns: Ints, matches: Ints, close: NDArray[np.bool_]) -> None:
        """Match these tracks (rows) with these detections (columns): the pairs of the best total gain that are close.

        What is not close is rejected after the assignment, not before (SORT, section 3.3; ByteTrack, section 4.1): a
        detection that fits a lost track best, but not well enough, is not given to another that fits it less.

        Args:
            gains: (n, m), what a pair is worth. close: (n, m), whether it may be.
        """
        if not (len(rows) and len(columns)):
            return
        whole = (len(rows), len(columns)) == gains.shape
        chosen, partner = assign(gains if whole else gains[rows[:, None], columns])
        row, column = rows[chosen], columns[partner]
        kept = close[row, column]
        matches[row[kept]] = column[kept]

    def _check_dimension(self, found: Observed) -> None:
        if found.embeddings is None:
            return
        known, given = self._table.embeddings.shape[1], found.embeddings.shape[1]
        if known not in (0, given):
            raise UsageError(
                f"embeddings must keep their dimension: {known} so far, now {given}; reset() the tracker for another "
                "stream"
            )
        self._table.widen(given)

    def _check_time(self, time: float) -> None:
        if not isinstance(time, (int, float, np.number)) or not math.isfinite(time):
            raise UsageError(f"time must be a finite number of seconds, not {time!r}")

    def _advance(self, time: float) -> bool:
        """Set the clock; True for the first update of the stream."""
        self._check_time(time)
        if self._time is not None and not time > self._time:
            raise UsageError(
                f"time must be later than that of the last update, {self._time:g} s, but is {time:g} s; "
                "reset() the tracker for another stream"
            )
        first, self._time = self._time is None, float(time)
        return first

    def _end(self, over: NDArray[np.bool_]) -> None:
        if np.count_nonzero(over):
            self._trajectories.give_back(self._table.slots[over])
            self._table.keep(~over)

    def _apply(
        self, time: float, found: Observed, matches: Ints, expected: Doubles, boxes: Floats, first: bool
    ) -> Tracks:
        """Make the matches part of the tracks, begin and end tracks, and say what there is now."""
        table = self._table
        rows = (matches >= 0).nonzero()[0]
        at = matches[rows]
        gaps = np.zeros(len(table))
        if len(rows):
            found_again = rows[table.states[rows] == LOST]
            if len(found_again):
                gaps[found_again] = time - table.seen[found_again]
            boxes[rows] = self._take(rows, expected.take(rows, axis=2), found, at, time)
            table.states[found_again] = TRACKED
            matches[rows] = found.rows[at]
        if len(rows) < len(table):
            missed = matches < 0
            table.states[missed & (table.states == TRACKED)] = LOST
            stay = (table.states != TENTATIVE) | ~missed
            if np.count_nonzero(stay) < len(stay):
                self._end(~stay)
                matches, gaps, boxes = matches[stay], gaps[stay], boxes[stay]
        self._confirm(time)
        begun = self._begin(found, at, time, first)
        if len(begun):
            matches = np.concatenate([matches, found.rows[begun]])
            gaps = np.concatenate([gaps, np.zeros(len(begun))])
            boxes = np.concatenate([boxes, found.boxes[begun]])
        return self._tracks(time, boxes, matches, gaps)

    def _take(self, rows: Ints, expected: Doubles, found: Observed, at: Ints, time: float) -> Floats:
        """Note that the tracks in ``rows`` (k,) were seen as ``found[at]``; returns where they are, (k, 4)."""
        table, boxes = self._table, found.boxes.take(at, axis=0)
        motion = self._corrected(rows, expected, found, at, time)
        table.motion[:, :, rows] = motion
        table.boxes[rows] = boxes
        table.scores[rows] = found.scores[at]
        table.class_ids[rows] = found.class_ids[at]
        table.seen[rows] = time
        self._trajectories.append(table.slots[rows], time, boxes)
        return boxes if self.options.boxes == "detection" else kalman.corners(motion)

    def _confirm(self, time: float) -> None:
        table = self._table
        ready = table.states == TENTATIVE
        if np.count_nonzero(ready):
            ready &= time - table.born >= self.options.confirm_seconds - CLOCK
            self._name(table, ready)

    def _name(self, table: TrackTable, ready: NDArray[np.bool_]) -> None:
        count = int(np.count_nonzero(ready))
        table.track_ids[ready] = np.arange(self._next_id, self._next_id + count)
        table.states[ready] = TRACKED
        self._next_id += count

    def _begin(self, found: Observed, at: Ints, time: float, first: bool) -> Ints:
        """Begin tracks at detections that no track took; returns their indices (k,)."""
        may = self._begins(found)
        may[at] = False
        begun = may.nonzero()[0]
        count = len(begun)
        if not count:
            return begun
        new = TrackTable(count)
        new.boxes[:] = found.boxes[begun]
        new.motion = kalman.begin(kalman.centred(new.boxes))
        new.scores[:] = found.scores[begun]
        new.class_ids[:] = found.class_ids[begun]
        new.track_ids[:] = -1
        new.states[:] = TENTATIVE
        new.born[:] = new.seen[:] = time
        new.slots[:] = self._trajectories.take(count)
        if found.embeddings is not None:
            new.embeddings = found.embeddings[begun]
        if first or self.options.confirm_seconds == 0:
            self._name(new, np.ones(count, np.bool_))
        self._trajectories.append(new.slots, time, new.boxes)
        self._table.extend(new)
        return begun

    def _tracks(self, time: float, boxes: Floats, detections: Ints, gaps: Doubles) -> Tracks:
        table = self._table
        return Tracks(
            time=float(time),
            track_ids=table.track_ids.copy(),
            boxes=boxes,
            scores=table.scores.copy(),
            class_ids=table.class_ids.copy(),
            states=table.states.copy(),
            ages=time - table.born,
            unseen=time - table.seen,
            gaps=gaps,
            detections=detections,
        )


def _unmatched(count: int) -> Ints:
    """(count,), full of -1."""
    rows = np.empty(count, np.int64)
    rows.fill(-1)
    return rows
