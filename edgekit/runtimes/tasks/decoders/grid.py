"""YOLOX: no anchors, boxes as offsets and sizes in strides, with an objectness."""

from __future__ import annotations

import msgspec
import numpy as np

from edgekit.runtimes.tasks.decoders.arithmetic import (
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
from edgekit.runtimes.tasks.decoders.base import Candidates, Count, Frame, Heads, decoder


class GridOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first."""

    strides: tuple[Count, ...]


@decoder("grid", channels=lambda options, classes: {"boxes": 4, "objectness": 1, "classes": classes}, align="corner")
def grid(heads: Heads, options: GridOptions, frame: Frame, threshold: float) -> Candidates:
    """YOLOX: centre offsets and log sizes in strides; score = sigmoid(objectness) * sigmoid(class).

    (Ge et al., YOLOX, 2021.)
    """
    parts, first, cut = [], 0, logit(threshold)
    levels = zip(options.strides, heads["boxes"], heads["objectness"], heads["classes"], strict=True)
    for stride, boxes, objectness, classes in levels:
        rows, columns = size = grid_of(classes, frame, stride)
        (presence,) = planes(objectness, 1, size)
        check_finite(presence)
        found = survivors(planes(classes, frame.classes, size), cut)  # a product passes only where both factors do
        scores = sigmoid(found.logits) * sigmoid(presence[found.cells])
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
