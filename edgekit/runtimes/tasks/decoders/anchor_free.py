"""YOLOv8, 11 and 26: boxes as distances from the centre of a cell; keypoints and mask coefficients beside them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders.arithmetic import (
    at_anchors,
    cell_corners,
    gather,
    grid_of,
    logit,
    planes,
    sigmoid,
    softmax,
    survivors,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Count, Frame, Heads, Positive, attached, decoder
from edgekit.runtimes.tasks.decoders.points import points_of


class AnchorFree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first; ``reg_max`` bins of the distance distribution, 1 for plain distances.

    ``reg_max`` counts bins: GFL and NanoDet call the largest distance so, 7 where there are 8 bins. Distances count
    from ``cell_offset`` of a cell, its centre; NanoDet-Plus has 0, its corner.

    Keypoints of a pose head are at ``(value * keypoint_scale + cell + keypoint_offset) * stride``: 2 and 0 in YOLOv8
    and 11, 1 and 0.5 in YOLO26.
    """

    strides: tuple[Count, ...]
    reg_max: Count = 16
    keypoint_scale: Positive = 2.0
    keypoint_offset: float = 0.0
    cell_offset: float = 0.5


def _anchor_free_fused(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> Decoder | None:
    fits = len(shape) == 3 and shape[1] == 4 + classes
    return Decoder(name="decoded", options={"box_format": "xywh"}) if fits else None


def _anchor_free_channels(options: AnchorFree, classes: int) -> dict[str, int]:
    return {"boxes": 4 * options.reg_max, "classes": classes}


def check_bins(options: AnchorFree, channels: int) -> None:
    """Refuse boxes of another number of bins.

    Raises:
        ValueError: says what ``reg_max`` would fit.
    """
    bins, rest = divmod(channels, 4)
    if bins == options.reg_max and not rest:
        return
    fits = f": reg_max: {bins}" if not rest else ""
    papers = " (GFL and NanoDet call the largest distance reg_max, and have one bin more)"
    raise ValueError(
        f"reg_max: {options.reg_max} wants {4 * options.reg_max} channels of boxes, but there are {channels}{fits}"
        + (papers if bins == options.reg_max + 1 and not rest else "")
    )


@decoder("anchor_free", channels=_anchor_free_channels, fused=_anchor_free_fused)
def anchor_free(heads: Heads, options: AnchorFree, frame: Frame, threshold: float) -> Candidates:
    """YOLOv8, 11 (with DFL) and 26 (without): distances left, top, right, bottom from the cell's centre, in strides.

    Distribution focal loss heads give each distance as logits over ``reg_max`` bins, whose expectation is the
    distance (Li et al., Generalized Focal Loss, 2020).
    """
    cut, parts, first = logit(threshold), [], 0
    bins = np.arange(options.reg_max, dtype=np.float32)[None, :, None]
    for stride, boxes, classes in zip(options.strides, heads["boxes"], heads["classes"], strict=True):
        rows, columns = size = grid_of(classes, frame, stride)
        found = survivors(planes(classes, frame.classes, size), cut)
        check_bins(options, boxes.shape[1])
        distances = planes(boxes, 4 * options.reg_max, size)[:, found.cells].reshape(4, options.reg_max, -1)
        # A sum, not a matrix product: BLAS threads would go on spinning on the core the next inference needs.
        reach = (softmax(distances, 1) * bins).sum(1) if options.reg_max > 1 else distances[:, 0]
        column, row = cell_corners(found.cells, columns)
        x, y, half = column, row, np.float32(options.cell_offset)
        corners = np.stack([x + half - reach[0], y + half - reach[1], x + half + reach[2], y + half + reach[3]], 1)
        parts.append(
            Candidates(corners * np.float32(stride), sigmoid(found.logits), found.class_ids, found.cells + first)
        )
        first += rows * columns
    return gather(parts)


@attached("anchor_free", "coefficients")
def _anchor_free_coefficients(heads: Heads, options: AnchorFree, frame: Frame, anchors: Ints) -> Floats:
    """Mask coefficients (n, m) of a prototype head (YOLACT, Bolya et al. 2019)."""
    return at_anchors(heads["coefficients"], anchors)[0]


@attached("anchor_free", "keypoints")
def _anchor_free_keypoints(heads: Heads, options: AnchorFree, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints of the anchors (n, k, 3); a head of two values a keypoint gives each the score 1."""
    values, levels = at_anchors(heads["keypoints"], anchors)
    points = points_of(values, frame.keypoints)
    if points.shape[2] == 3 and values.shape[1] == 3 * frame.keypoints:
        points[..., 2] = sigmoid(points[..., 2])
    grids = np.array([head.shape[2:] for head in heads["keypoints"]])
    first = np.concatenate([[0], grids.prod(1).cumsum()[:-1]])
    cells, columns = anchors - first[levels], grids[levels, 1]
    corner = np.stack([cells % columns, cells // columns], 1).astype(np.float32)[:, None]
    stride = np.array(options.strides, np.float32)[levels][:, None, None]
    scale, offset = np.float32(options.keypoint_scale), np.float32(options.keypoint_offset)
    points[..., :2] = (points[..., :2] * scale + (corner + offset)) * stride
    return points
