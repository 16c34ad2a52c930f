"""Tracks and detections as MOT Challenge text: ``frame,id,left,top,width,height,confidence,-1,-1,-1``, frames from 1.

https://motchallenge.net/instructions. The text has no sub-pixel convention of its own; coordinates are written as they
are here, continuous pixels from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arrays import Doubles, Floats, Ints
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.tracking.state import Tracks


@dataclass(frozen=True, eq=False)
class MotFrame:
    """One frame of a MOT file.

    Args:
        frame: its number, from 1.
        track_ids: int64 (n,); -1 in files of detections.
        boxes: float32 (n, 4) xyxy in pixels.
        scores: float32 (n,); in a ground-truth file, 0 marks objects to ignore.
    """

    frame: int
    track_ids: Ints
    boxes: Floats
    scores: Floats


def lines(frame: int, tracks: Tracks) -> list[str]:
    """The confirmed tracks that are in sight in a frame, as lines without line ends.

    Raises:
        UsageError: frames are counted from 1.
    """
    if frame < 1:
        raise UsageError(f"MOT frames are counted from 1, not {frame}")
    seen = tracks.visible
    return rows(frame, seen.track_ids, seen.boxes, seen.scores)


def rows(frame: int, track_ids: Ints, boxes: Floats, scores: Floats) -> list[str]:
    """Tracks of a frame as lines without line ends.

    Args:
        frame: its number, from 1.
        track_ids: (n,). boxes: (n, 4) xyxy in pixels. scores: (n,).
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    entries = zip(track_ids.tolist(), boxes.tolist(), sizes.tolist(), scores.tolist(), strict=True)
    return [
        f"{frame},{track_id},{box[0]:.3f},{box[1]:.3f},{size[0]:.3f},{size[1]:.3f},{score:.6g},-1,-1,-1"
        for track_id, box, size, score in entries
    ]


def write(path: str | Path, frames: Iterable[tuple[int, Tracks]]) -> int:
    """Write (frame number, tracks) of a whole video to a file; returns the number of lines.

    Raises:
        UsageError: a frame number below 1. InputError: the file cannot be written.
    """
    count = 0
    try:
        with Path(path).open("w", encoding="ascii") as file:
            for frame, tracks in frames:
                written = lines(frame, tracks)
                file.writelines(f"{line}\n" for line in written)
                count += len(written)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return count


def read(path: str | Path) -> list[MotFrame]:
    """The frames of a MOT file of tracks, detections or ground truth, from 1 to the last; empty ones included.

    Raises:
        InputError: the file cannot be read, or a line (its number is given) is not of this format.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    rows = [_row(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    table = np.array(rows, np.float64).reshape(-1, 7)
    table = table[np.argsort(table[:, 0], kind="stable")]
    last = int(table[-1, 0]) if len(table) else 0
    ends = np.searchsorted(table[:, 0], np.arange(last + 1), side="right")
    return [_frame(number, table[ends[number - 1] : ends[number]]) for number in range(1, last + 1)]


def _frame(number: int, rows: Doubles) -> MotFrame:
    boxes = rows[:, 2:6].copy()
    boxes[:, 2:] += boxes[:, :2]
    return MotFrame(number, rows[:, 1].astype(np.int64), boxes.astype(np.float32), rows[:, 6].astype(np.float32))


LAST_FRAME = 5_000_000
"""A greater frame number is taken for a damaged line: 46 hours of video at 30 frames/s."""


def _row(path: str | Path, number: int, line: str) -> list[float]:
    parts = line.split(",")
    try:
        values = [float(part) for part in parts[:7]]
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}") from error
    if len(values) < 6:
        raise InputError(
            f"{path}, line {number}: {len(parts)} values; expected frame,id,left,top,width,height,confidence"
        )
    values += [1.0] * (7 - len(values))  # confidence may be left out
    if not all(map(math.isfinite, values)):
        raise InputError(f"{path}, line {number}: {line.strip()!r} has a value that is not finite")
    if values[0] != int(values[0]) or not 1 <= values[0] <= LAST_FRAME or values[1] != int(values[1]):
        raise InputError(f"{path}, line {number}: frame {values[0]:g}, id {values[1]:g}; expected whole numbers from 1")
    if values[4] < 0 or values[5] < 0:
        raise InputError(f"{path}, line {number}: a box of {values[4]:g} x {values[5]:g} pixels")
    return values
