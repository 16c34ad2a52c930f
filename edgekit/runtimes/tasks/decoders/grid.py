"""YOLOX and YuNet: no anchors, boxes as offsets and sizes in strides, with an objectness; landmarks beside them."""

from __future__ import annotations

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import (
    at_places,
    cell_corners,
    check_finite,
    from_centres,
    gather,
    grid_of,
    logit,
    planes,
    sigmoid,
    survivors,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Count, Frame, Heads, Positive, attached, decoder
from edgekit.runtimes.tasks.decoders.points import points_of


class GridOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first; ``power`` of the product of objectness and class, 0.5 in YuNet."""

    strides: tuple[Count, ...]
    power: Positive = 1.0


@decoder("grid", channels=lambda options, classes: {"boxes": 4, "objectness": 1, "classes": classes}, align="corner")
def grid(heads: Heads, options: GridOptions, frame: Frame, threshold: float) -> Candidates:
    """YOLOX: centre offsets and log sizes in strides; score = (sigmoid(objectness) * sigmoid(class)) ^ power.

    (Ge et al., YOLOX, 2021; Wu et al., YuNet, 2023, with the square root that OpenCV's FaceDetectorYN takes.)
    """
    least = threshold ** (1 / options.power) if threshold > 0 else threshold
    parts, first, cut = [], 0, logit(least)
    levels = zip(options.strides, heads["boxes"], heads["objectness"], heads["classes"], strict=True)
    for stride, boxes, objectness, classes in levels:
        rows, columns = size = grid_of(classes, frame, stride)
        (presence,) = planes(objectness, 1, size)
        check_finite(presence)
        found = survivors(planes(classes, frame.classes, size), cut)  # a product passes only where both factors do
        scores = sigmoid(found.logits) * sigmoid(presence[found.cells])
        scores = scores if options.power == 1 else (scores ** np.float32(options.power)).astype(np.float32)
        keep = scores > threshold
        cells, step = found.cells[keep], np.float32(stride)
        values = planes(boxes, 4, size)[:, cells]
        check_finite(values)  # the exponential makes an innocent 0 of a negative infinity
        offset_x, offset_y, log_width, log_height = values
        column, row = cell_corners(cells, columns)
        corners = from_centres(
            (column + offset_x) * step, (row + offset_y) * step, np.exp(log_width) * step, np.exp(log_height) * step
        )
        parts.append(Candidates(corners, scores[keep], found.class_ids[keep], cells + first))
        first += rows * columns
    return gather(parts)


@attached("grid", "keypoints")
def _keypoints(heads: Heads, options: GridOptions, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints (n, k, 3) at (value + cell) * stride, as YuNet has them."""
    at = at_places(heads["keypoints"], anchors, [1] * len(options.strides))
    points = points_of(at.values, frame.keypoints)
    if at.values.shape[1] == 3 * frame.keypoints:
        points[..., 2] = sigmoid(points[..., 2])
    stride = np.array(options.strides, np.float32)[at.levels][:, None, None]
    points[..., :2] = (points[..., :2] + at.corners[:, None]) * stride
    return points
