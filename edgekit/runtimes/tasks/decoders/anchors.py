"""YOLOv3, YOLOv5 and YOLOv7: boxes as changes of anchors, several in each cell."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders.arithmetic import (
    cell_corners,
    check_finite,
    from_centres,
    gather,
    grid_of,
    logit,
    planes,
    sigmoid,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Count, Counts, Frame, Heads, Positive, decoder


class Anchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first, and per level the (width, height) in pixels of each anchor.

    ``sizes``: ``squared`` is YOLOv5 and YOLOv7, where an anchor grows to its fourfold at most; ``exponential`` YOLOv3.
    """

    strides: tuple[Count, ...]
    anchors: tuple[tuple[tuple[Positive, Positive], ...], ...]
    sizes: Literal["squared", "exponential"] = "squared"


def _anchors_channels(options: Anchors, classes: int) -> dict[str, Counts]:
    return {"predictions": tuple(len(level) * (5 + classes) for level in options.anchors)}


def _anchors_fused(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> Decoder | None:
    fits = len(shape) == 3 and shape[2] == 5 + classes
    return Decoder(name="decoded", options={"layout": "rows", "objectness": True}) if fits else None


@decoder("anchors", channels=_anchors_channels, fused=_anchors_fused)
def anchors(heads: Heads, options: Anchors, frame: Frame, threshold: float) -> Candidates:
    """One convolution a level, anchor after anchor: x, y, width, height, objectness, classes.

    score = sigmoid(objectness) * sigmoid(class). In YOLOv5 (github.com/ultralytics/yolov5, release 6) and YOLOv7 (Wang
    et al. 2022) the centre is (2 sigmoid(x, y) - 0.5 + cell) * stride, the size (2 sigmoid(w, h))^2 * anchor; in YOLOv3
    (Redmon and Farhadi, 2018) they are (sigmoid(x, y) + cell) * stride and exp(w, h) * anchor.
    """
    parts, first, cut = [], 0, np.float32(logit(threshold))
    for stride, sizes, head in zip(options.strides, options.anchors, heads["predictions"], strict=True):
        rows, columns = size = grid_of(head, frame, stride)
        values = planes(head, len(sizes) * (5 + frame.classes), size).reshape(len(sizes), 5 + frame.classes, -1)
        presence, best = values[:, 4], values[:, 5:].max(1)
        check_finite(presence)
        check_finite(best)
        kind, cells = np.nonzero((presence > cut) & (best > cut))  # a product passes only where both factors do
        scores = sigmoid(presence[kind, cells]) * sigmoid(best[kind, cells])
        keep = scores > threshold
        kind, cells = kind[keep], cells[keep]
        chosen = values[kind, :, cells]
        check_finite(chosen[:, :4])  # the sigmoid makes innocent numbers of infinities
        column, row = cell_corners(cells, columns)
        x, y, width, height = _boxes(chosen[:, :4], np.array(sizes, np.float32)[kind], options.sizes).T
        step = np.float32(stride)
        corners = from_centres((x + column) * step, (y + row) * step, width, height)
        class_ids = chosen[:, 5:].argmax(1)
        parts.append(Candidates(corners, scores[keep], class_ids, first + kind * (rows * columns) + cells))
        first += rows * columns * len(sizes)
    return gather(parts)


def _boxes(values: np.ndarray, sizes: np.ndarray, way: str) -> np.ndarray:
    """Centres in cells from the cell's corner, and sizes in pixels: (n, 4)."""
    if way == "exponential":
        return np.concatenate([sigmoid(values[:, :2]), np.exp(values[:, 2:]) * sizes], 1)
    doubled = np.float32(2) * sigmoid(values)
    return np.concatenate([doubled[:, :2] - np.float32(0.5), doubled[:, 2:] ** 2 * sizes], 1)
