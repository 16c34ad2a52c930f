"""YOLOv8, 11 and 26: boxes as distances from a cell's centre; keypoints, mask coefficients or angles beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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
    and 11, 1 and 0.5 in YOLO26. The head of angles gives ``(sigmoid - 1/4) * pi`` in YOLOv8 and 11, ``radians`` in
    YOLO26.
    """

    strides: tuple[Count, ...]
    reg_max: Count = 16
    keypoint_scale: Positive = 2.0
    keypoint_offset: float = 0.0
    cell_offset: float = 0.5
    angle: Literal["sigmoid", "radians"] = "sigmoid"


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
        f"reg_max: {options.reg_max} needs {4 * options.reg_max} channels of boxes, but there are {channels}{fits}"
        + (papers if bins == options.reg_max + 1 and not rest else "")
    )


@decoder("anchor_free", channels=_anchor_free_channels, fused=_anchor_free_fused)
def anchor_free(heads: Heads, options: AnchorFree, frame: Frame, threshold: float) -> Candidates:
    """YOLOv8, 11 (with DFL) and 26 (without): distances left, top, right, bottom from the cell's centre, in strides.

    Distribution focal loss heads give each distance as logits over ``reg_max`` bins, whose expectation is the
    distance (Li et al., Generalized Focal Loss, 2020).
    """
    cut, parts, first = logit(threshold), [], 0
    for stride, boxes, classes in zip(options.strides, heads["boxes"], heads["classes"], strict=True):
        rows, columns = size = grid_of(classes, frame, stride)
        found = survivors(planes(classes, frame.classes, size), cut)
        check_bins(options, boxes.shape[1])
        reach = _reach(planes(boxes, 4 * options.reg_max, size)[:, found.cells], options.reg_max)
        column, row = cell_corners(found.cells, columns)
        x, y, half = column, row, np.float32(options.cell_offset)
        corners = np.stack([x + half - reach[0], y + half - reach[1], x + half + reach[2], y + half + reach[3]], 1)
        parts.append(
            Candidates(corners * np.float32(stride), sigmoid(found.logits), found.class_ids, found.cells + first)
        )
        first += rows * columns
    return gather(parts)


def _reach(values: Floats, bins: int) -> Floats:
    """Distances (4, n) left, top, right, bottom in strides, from the values (4 * bins, n) of the boxes."""
    distances = values.reshape(4, bins, -1)
    if bins == 1:
        return distances[:, 0]
    # A sum, not a matrix product: BLAS threads would go on spinning on the core the next inference needs.
    reach: Floats = (softmax(distances, 1) * np.arange(bins, dtype=np.float32)[None, :, None]).sum(1)
    return reach


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
    corner = _corners(heads["keypoints"], anchors, levels)[:, None]
    stride = np.array(options.strides, np.float32)[levels][:, None, None]
    scale, offset = np.float32(options.keypoint_scale), np.float32(options.keypoint_offset)
    points[..., :2] = (points[..., :2] * scale + (corner + offset)) * stride
    return points


@attached("anchor_free", "angles")
def _anchor_free_angles(heads: Heads, options: AnchorFree, frame: Frame, anchors: Ints) -> Floats:
    """Oriented boxes (n, 5) of the anchors: centre, width, height and angle, in pixels and radians.

    Distances are along axes that are turned by the angle around the place that they count from.

    Raises:
        ValueError: another number of channels than one for the angle.
    """
    boxes, levels = at_anchors(heads["boxes"], anchors)
    raw, _ = at_anchors(heads["angles"], anchors)
    if raw.shape[1] != 1:
        raise ValueError(f"{raw.shape[1]} channels of angles, but 1 is needed")
    left, top, right, bottom = _reach(boxes.T, options.reg_max)
    angle = raw[:, 0] if options.angle == "radians" else (sigmoid(raw[:, 0]) - np.float32(0.25)) * np.float32(np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    away_x, away_y = (right - left) / 2, (bottom - top) / 2
    shift = np.stack([away_x * cos - away_y * sin, away_x * sin + away_y * cos], 1)
    stride = np.array(options.strides, np.float32)[levels][:, None]
    centre = (_corners(heads["boxes"], anchors, levels) + np.float32(options.cell_offset) + shift) * stride
    return np.concatenate([centre, np.stack([left + right, top + bottom], 1) * stride, angle[:, None]], 1)


def _corners(heads: Sequence[Floats], anchors: Ints, levels: Ints) -> Floats:
    """Column and row (n, 2) of the cells of anchors on their levels."""
    grids = np.array([head.shape[2:] for head in heads])
    first = np.concatenate([[0], grids.prod(1).cumsum()[:-1]])
    return np.stack(cell_corners(anchors - first[levels], grids[levels, 1]), 1)
