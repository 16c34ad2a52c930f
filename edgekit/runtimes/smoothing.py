"""Smooth the keypoints of a video with the One-Euro filter, per track."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from edgekit.arrays import Doubles
from edgekit.errors import UsageError
from edgekit.runtimes.results import Poses


@dataclasses.dataclass
class _Past:
    """The last filtered state of a track: time, positions (k, 2) in pixels and speeds (k, 2) in pixels/s."""

    time: float
    places: Doubles
    speeds: Doubles


class OneEuro:
    """The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012): steady when slow, without lag when fast.

    Places are low-pass filtered with a cutoff of ``cutoff + beta * speed``, the speed in object sizes per second, so
    that near and far people are smoothed alike.

    Args:
        cutoff: Hz at rest; lower is steadier.
        beta: how much the cutoff grows with the speed; higher lags less.
        speed_cutoff: Hz of the filter of the speed; 1 in the paper.
        forget_seconds: a track that was away for longer starts anew.

    Raises:
        UsageError: a value that is not positive (``beta`` may be 0).
    """

    def __init__(
        self, cutoff: float = 1.0, beta: float = 4.0, speed_cutoff: float = 1.0, forget_seconds: float = 1.0
    ) -> None:
        for name, value in (("cutoff", cutoff), ("speed_cutoff", speed_cutoff), ("forget_seconds", forget_seconds)):
            if not value > 0:
                raise UsageError(f"{name} must be positive, not {value:g}")
        if not beta >= 0:
            raise UsageError(f"beta must be 0 or more, not {beta:g}")
        self._cutoff, self._beta, self._speed_cutoff, self._forget = cutoff, beta, speed_cutoff, forget_seconds
        self._past: dict[int, _Past] = {}

    def __call__(self, poses: Poses) -> Poses:
        """The poses of one frame, smoothed; scores stay as they are.

        Raises:
            UsageError: poses without track ids or without a time.
        """
        if poses.track_ids is None or poses.time is None:
            raise UsageError("smoothing needs track ids and the time of the frame; take the results of model.track()")
        now = float(poses.time)
        points = poses.keypoints.copy()
        for row, track in enumerate(poses.track_ids.tolist()):
            size = math.sqrt(max(float(np.prod(poses.boxes[row, 2:] - poses.boxes[row, :2])), 1.0))
            points[row, :, :2] = self._filtered(track, points[row, :, :2].astype(np.float64), now, size)
        self._past = {track: past for track, past in self._past.items() if now - past.time <= self._forget}
        return dataclasses.replace(poses, keypoints=points)

    def _filtered(self, track: int, places: Doubles, now: float, size: float) -> Doubles:
        past = self._past.get(track)
        if past is None or not 0 < now - past.time <= self._forget:
            self._past[track] = _Past(now, places, np.zeros_like(places))
            return places
        passed = now - past.time
        weight = _weight(self._speed_cutoff, passed)
        speeds = past.speeds + weight * ((places - past.places) / passed - past.speeds)
        speed = np.linalg.norm(speeds, axis=1, keepdims=True) / size
        smooth = past.places + _weight(self._cutoff + self._beta * speed, passed) * (places - past.places)
        self._past[track] = _Past(now, smooth, speeds)
        return smooth


def _weight(cutoff: float | Doubles, passed: float) -> float | Doubles:
    """Weight of a new value in a first-order low-pass filter, after the given seconds."""
    step = 2 * math.pi * cutoff * passed
    return step / (step + 1)
