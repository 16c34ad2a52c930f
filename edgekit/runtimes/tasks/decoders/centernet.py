"""CenterNet and CenterFace: an object is a peak of its class's heatmap, with its size and its offset in the cell."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import (
    at_anchors,
    cell_corners,
    check_finite,
    from_centres,
    grid_of,
    logit,
    planes,
    sigmoid,
    survivors,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Count, Frame, Heads, attached, decoder
from edgekit.runtimes.tasks.decoders.points import points_of


class CenterNet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the heads of a CenterNet are written; the defaults are CenterNet's own, in brackets CenterFace's.

    ``sizes``: ``plain``, in cells (``exponential``). ``order`` of sizes, offsets and keypoints: ``xy`` (``yx``).
    ``cell_offset``: where in a cell offsets count from, 0 (0.5). ``keypoints`` count in cells from the cell's corner,
    ``cell``, or in sizes of the box from its top-left corner (``box``). ``peaks``: only cells that are the largest of
    their 3x3 neighbours are objects; without it NMS alone leaves one of each.
    """

    stride: Count = 4
    sizes: Literal["plain", "exponential"] = "plain"
    order: Literal["xy", "yx"] = "xy"
    cell_offset: float = 0.0
    keypoints: Literal["cell", "box"] = "cell"
    peaks: bool = True


@decoder("centernet", channels=lambda options, classes: {"classes": classes, "sizes": 2, "offsets": 2})
def centernet(heads: Heads, options: CenterNet, frame: Frame, threshold: float) -> Candidates:
    """One level: score = sigmoid(heatmap), centre = (cell + offset) * stride, size = size * stride.

    (Zhou et al., Objects as Points, 2019; Xu et al., CenterFace, 2019, whose size is the exponential.) Of a cell the
    best class alone is a candidate.
    """
    (classes,) = heads["classes"]
    grid = grid_of(classes, frame, options.stride)
    heat = planes(classes, frame.classes, grid)
    found = survivors(heat, logit(threshold))
    cells, class_ids, logits = found
    if options.peaks:
        keep = logits >= _neighbours(heat.reshape(frame.classes, *grid), cells, class_ids)
        cells, class_ids, logits = cells[keep], class_ids[keep], logits[keep]
    return Candidates(_boxes(heads, options, grid, cells), sigmoid(logits), class_ids, cells)


def _neighbours(heat: Floats, cells: Ints, class_ids: Ints) -> Floats:
    """The largest logit of the 3x3 cells around each of these cells, in their class's map (classes, rows, columns)."""
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    row, column = np.divmod(cells, heat.shape[2])
    around = [padded[class_ids, row + down, column + right] for down in range(3) for right in range(3)]
    largest: Floats = np.max(around, 0)
    return largest


def _boxes(heads: Heads, options: CenterNet, grid: tuple[int, int], cells: Ints) -> Floats:
    """Boxes (n, 4) of these cells in input pixels."""
    (sizes,), (offsets,) = heads["sizes"], heads["offsets"]
    values = np.concatenate([planes(offsets, 2, grid)[:, cells], planes(sizes, 2, grid)[:, cells]])
    check_finite(values)  # the exponential makes an innocent 0 of a negative infinity
    x, y, width, height = values if options.order == "xy" else values[[1, 0, 3, 2]]
    if options.sizes == "exponential":
        width, height = np.exp(width), np.exp(height)
    column, row = cell_corners(cells, grid[1])
    base, step = np.float32(options.cell_offset), np.float32(options.stride)
    return from_centres((column + base + x) * step, (row + base + y) * step, width * step, height * step)


@attached("centernet", "keypoints")
def _keypoints(heads: Heads, options: CenterNet, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints (n, k, 3) of the cells."""
    values, _ = at_anchors(heads["keypoints"], anchors)
    points = points_of(values, frame.keypoints)
    if options.order == "yx":
        points[..., :2] = points[..., [1, 0]]
    (classes,) = heads["classes"]
    grid = grid_of(classes, frame, options.stride)
    if options.keypoints == "box":
        boxes = _boxes(heads, options, grid, anchors)[:, None]
        points[..., :2] = boxes[..., :2] + points[..., :2] * (boxes[..., 2:] - boxes[..., :2])
        return points
    corner = np.stack(cell_corners(anchors, grid[1]), 1)[:, None]
    points[..., :2] = (points[..., :2] + corner) * np.float32(options.stride)
    return points
