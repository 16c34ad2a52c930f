"""RTMDet, SCRFD and FCOS: boxes as plain distances from a place in each cell, five landmarks of a face beside them."""

from __future__ import annotations

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import (
    at_places,
    cell_corners,
    check_finite,
    gather,
    grid_of,
    logit,
    planes,
    sigmoid,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Count, Frame, Heads, Positive, attached, decoder
from edgekit.runtimes.tasks.decoders.points import points_of


class Distances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first; ``per_cell`` boxes in each cell (2 in SCRFD).

    Distances count from ``cell_offset`` of a cell (0 its corner, 0.5 its centre), in strides; their exponential is
    taken first where ``exponential`` is set (RTMDet's larger models). With ``centerness`` a head of one channel
    multiplies the scores, and ``power`` is taken of the product: 0.5 in torchvision's FCOS.
    """

    strides: tuple[Count, ...]
    per_cell: Count = 1
    cell_offset: float = 0.0
    exponential: bool = False
    centerness: bool = False
    power: Positive = 1.0


def _channels(options: Distances, classes: int) -> dict[str, int]:
    channels = {"boxes": 4 * options.per_cell, "classes": classes * options.per_cell}
    return channels | ({"centerness": options.per_cell} if options.centerness else {})


@decoder("distances", channels=_channels, per_cell=lambda options: options.per_cell)
def distances(heads: Heads, options: Distances, frame: Frame, threshold: float) -> Candidates:
    """Distances left, top, right, bottom, in strides; score = (sigmoid(class) * sigmoid(centerness)) ^ power, without a
    centerness sigmoid(class) ^ power.

    (RTMDet, Lyu et al. 2022, as in mmdet's RTMDetSepBNHead; SCRFD, Guo et al. 2021, as in insightface; FCOS, Tian et
    al. 2019, with torchvision's square root.)
    """
    parts, first, kinds = [], 0, options.per_cell
    least = threshold ** (1 / options.power) if threshold > 0 else threshold
    cut = np.float32(logit(least))  # a product passes only where both factors do
    for level, stride in enumerate(options.strides):
        boxes, classes = heads["boxes"][level], heads["classes"][level]
        rows, columns = size = grid_of(classes, frame, stride)
        logits = planes(classes, kinds * frame.classes, size).reshape(kinds, frame.classes, -1)
        best = logits.max(1)
        check_finite(best)
        kind, cells = np.nonzero(best > cut)
        scores = sigmoid(best[kind, cells])
        if options.centerness:
            central = planes(heads["centerness"][level], kinds, size)[kind, cells]
            check_finite(central)
            scores = scores * sigmoid(central)
        scores = scores if options.power == 1 else (scores ** np.float32(options.power)).astype(np.float32)
        keep = scores > threshold
        kind, cells, scores = kind[keep], cells[keep], scores[keep]
        reach = planes(boxes, 4 * kinds, size).reshape(kinds, 4, -1)[kind, :, cells]
        check_finite(reach)  # the exponential makes an innocent 0 of a negative infinity
        reach = np.exp(reach) if options.exponential else reach
        place = np.stack(cell_corners(cells, columns), 1) + np.float32(options.cell_offset)
        corners = np.concatenate([place - reach[:, :2], place + reach[:, 2:]], 1) * np.float32(stride)
        class_ids = logits[kind, :, cells].argmax(1)
        parts.append(Candidates(corners, scores, class_ids, first + cells * kinds + kind))
        first += rows * columns * kinds
    return gather(parts)


@attached("distances", "keypoints")
def _keypoints(heads: Heads, options: Distances, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints (n, k, 3) at (value + cell + cell_offset) * stride."""
    at = at_places(heads["keypoints"], anchors, [options.per_cell] * len(options.strides))
    points = points_of(at.values, frame.keypoints)
    stride = np.array(options.strides, np.float32)[at.levels][:, None, None]
    points[..., :2] = (points[..., :2] + at.corners[:, None] + np.float32(options.cell_offset)) * stride
    return points
