"""HOTA, IDF1 and MOTA of tracks against ground truth, by trackeval (https://github.com/JonathonLuiten/TrackEval)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation.metrics import TrackMetrics
from edgekit.runtimes.inputs.media import count, frames
from edgekit.runtimes.results import Detections, Result
from edgekit.runtimes.tasks.similarity import box_iou
from edgekit.runtimes.tracking import Tracker
from edgekit.runtimes.tracking.mot import MotFrame, read

Tracked = str | os.PathLike[str] | Sequence[MotFrame]
"""A file in the MOT format, or the frames of one."""


def evaluate_tracks(
    model: Callable[[Image], Result],
    tracker: Tracker,
    truth: Tracked,
    video: object,
    *,
    fps: float = 25.0,
    classes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> TrackMetrics:
    """Run a model and a tracker over a video and measure the tracks.

    Args:
        model: image uint8 (h, w, 3) BGR -> the objects in it.
        tracker: a new one.
        truth: of all frames, numbered from 1.
        video: anything `edgekit.runtimes.inputs.media.frames` opens; images are frames in their order.
        fps: frames a second where the video does not tell the times, as folders of images do not.
        classes: names of the classes that the truth has; all where there are none.
        progress: told how many frames are done, and of how many (0: not known).

    Raises:
        InputError: as `measure_tracks`; the video cannot be read or is shorter than the truth, or the model is not of
            objects. UsageError: as `measure_tracks`; an unknown class, or ``fps`` is not positive.
    """
    if not fps > 0:
        raise UsageError(f"fps must be above 0, not {fps}")
    true = list(_frames(truth, "the ground truth").values())
    found = []
    images = count(video) or 0
    for number, frame in enumerate(frames(video), 1):
        result = model(frame.image)
        if not isinstance(result, Detections):
            raise InputError(
                f"a {type(result).__name__.lower()} has no boxes to track; give a model that finds objects"
            )
        seen = result.filter(classes=classes) if classes else result
        time = (number - 1) / fps if frame.time is None else frame.time
        tracks = tracker.update(seen.boxes, seen.scores, seen.class_ids, time=time, image=frame.image).visible
        found.append(MotFrame(number, tracks.track_ids, tracks.boxes, tracks.scores))
        if progress is not None:
            progress(number, images)
    last = max((frame.frame for frame in true if len(frame.track_ids)), default=0)
    if len(found) < last:
        raise InputError(f"the video has {len(found)} frames, the ground truth goes on to frame {last}")
    return measure_tracks(true, found)


def measure_tracks(truth: Tracked, found: Tracked) -> TrackMetrics:
    """Measure the tracks of one sequence whatever their class, as the MOT Challenge does.

    Args:
        truth: what is there; boxes with the score 0 are not counted (nor is what is found in their place excused: the
            challenge's list of distractor classes is not applied).
        found: the tracks. A frame that one of both lacks is empty in it.

    Raises:
        InputError: a file cannot be read, an id is twice in one frame or is none (-1), or there is no truth.
        UsageError: trackeval is not installed.
    """
    true, ours = _frames(truth, "the ground truth"), _frames(found, "the tracks")
    true = {number: _counted(frame) for number, frame in true.items()}
    if not any(len(frame.track_ids) for frame in true.values()):
        raise InputError("the ground truth has no object, so there is nothing to measure against")
    data = _sequence(true, ours)
    hota, identity, clear = _computed(data)
    return TrackMetrics(
        hota=float(np.mean(hota["HOTA"])),
        det_a=float(np.mean(hota["DetA"])),
        ass_a=float(np.mean(hota["AssA"])),
        idf1=float(identity["IDF1"]),
        mota=float(clear["MOTA"]),
        switches=int(clear["IDSW"]),
        frames=data["num_timesteps"],
        objects=data["num_gt_dets"],
        found=data["num_tracker_dets"],
    )


def _frames(given: Tracked, what: str) -> dict[int, MotFrame]:
    frames = read(os.fspath(given)) if isinstance(given, str | os.PathLike) else given
    for frame in frames:
        ids, counts = np.unique(frame.track_ids, return_counts=True)
        if (ids < 0).any():
            raise InputError(f"{what}: there is a box without an id (-1) in frame {frame.frame}; these are detections")
        if (counts > 1).any():
            raise InputError(f"{what}: there is the id {ids[counts > 1][0]} twice in frame {frame.frame}")
    known = {frame.frame: frame for frame in frames}
    if len(known) != len(frames):
        raise InputError(f"{what}: there is a frame number twice")
    return known


def _counted(frame: MotFrame) -> MotFrame:
    keep = frame.scores > 0
    return MotFrame(frame.frame, frame.track_ids[keep], frame.boxes[keep], frame.scores[keep])


def _sequence(true: dict[int, MotFrame], ours: dict[int, MotFrame]) -> dict[str, Any]:
    """Both in the form that trackeval's measures take: ids counted from 0, and the IoU of all pairs of each frame."""
    blank = MotFrame(0, np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    numbers = sorted(true.keys() | ours.keys())
    pairs = [(true.get(number, blank), ours.get(number, blank)) for number in numbers]
    true_ids, true_count = _renumbered([one.track_ids for one, _ in pairs])
    our_ids, our_count = _renumbered([two.track_ids for _, two in pairs])
    return {
        "num_timesteps": max(numbers),
        "num_gt_ids": true_count,
        "num_tracker_ids": our_count,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, our_ids)),
        "gt_ids": true_ids,
        "tracker_ids": our_ids,
        "similarity_scores": [box_iou(one.boxes, two.boxes).astype(np.float64) for one, two in pairs],
    }


def _renumbered(ids: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.intp]], int]:
    every = np.unique(np.concatenate(ids))
    return [np.searchsorted(every, one) for one in ids], len(every)


def _computed(data: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise UsageError(f"HOTA needs the package trackeval ({error}); pip install trackeval") from error
    with contextlib.redirect_stdout(io.StringIO()):  # it reports on stdout, which belongs to the caller's own output
        measures = (HOTA(), Identity({"PRINT_CONFIG": False}), CLEAR({"PRINT_CONFIG": False}))
        return [measure.eval_sequence(data) for measure in measures]
