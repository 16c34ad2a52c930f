"""Helpers of pose decoders: keypoint tables, and the candidate of a single-person model."""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame

CENTRE = np.float32(0.5)
"""Heatmaps and SimCC are trained on places that count from the centre of the first pixel; edgekit's from its corner."""


def points_of(values: Floats, keypoints: int) -> Floats:
    """Values (n, 2 k or 3 k) as points (n, k, 3); without a third value the score is 1.

    Raises:
        ValueError: another number of values.
    """
    count = values.shape[1]
    if keypoints == 0 or count not in (2 * keypoints, 3 * keypoints):
        raise ValueError(f"{count} keypoint values, but {2 * keypoints} or {3 * keypoints} are needed")
    points = np.ones((len(values), keypoints, 3), np.float32)
    points[..., : count // keypoints] = values.reshape(len(values), keypoints, count // keypoints)
    return points


VISIBLE = 0.2
"""Keypoints above this score say where a person is; MoveNet's own cropping goes by the same figure."""


def one_person(points: Floats, frame: Frame, threshold: float) -> Candidates:
    """The one person of an input as a candidate: its score is its keypoints' mean, its box is round the sure ones.

    Args:
        points: (k, 3) x, y in input pixels and score 0..1.
        frame: of the contract.
        threshold: nobody is there when the score is not above it.

    Raises:
        ValueError: another number of keypoints than the contract's.
    """
    if len(points) != frame.keypoints:
        raise ValueError(f"{len(points)} keypoints, but the skeleton names {frame.keypoints}")
    check_finite(points)
    score = points[:, 2].mean(keepdims=True).astype(np.float32)
    keep = score > threshold
    sure = points[points[:, 2] > VISIBLE, :2] if (points[:, 2] > VISIBLE).any() else points[:, :2]
    box = np.concatenate([sure.min(0), sure.max(0)])[None].astype(np.float32)
    zero = np.zeros(1, np.int64)
    return Candidates(box[keep], score[keep], zero[keep], zero[keep], points[None][keep].astype(np.float32))
