"""Keypoints of one person that the graph decoded itself."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.runtimes.tasks.decoders.arithmetic import matrix
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, decoder
from edgekit.runtimes.tasks.decoders.points import one_person


class PointTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a table of keypoints is written: the order of a row's values, and whether places are shares of the input."""

    order: Literal["xys", "yxs"] = "xys"
    normalized: bool = True


@decoder("keypoints", task="pose")
def keypoints(heads: Heads, options: PointTable, frame: Frame, threshold: float) -> Candidates:
    """Keypoints decoded by the graph, role ``predictions`` (..., k, 3), of one person. MoveNet as published: yxs."""
    (predictions,) = heads["predictions"]
    points = matrix(predictions).astype(np.float32)
    if points.shape[1] != 3:
        raise ValueError(f"{points.shape[1]} values for each keypoint, but 3 are needed")
    points = points[:, [options.order.index(letter) for letter in "xys"]]
    if options.normalized:
        points[:, :2] *= np.array([frame.width, frame.height], np.float32)
    return one_person(points, frame, threshold)
