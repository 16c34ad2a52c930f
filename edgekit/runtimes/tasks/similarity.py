"""How alike two objects are, 0..1: boxes by IoU, keypoints by OKS, masks by IoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Bools, Floats

AREA_SHARE = 0.53
"""Area of a person's outline as a share of its box, where only the box is known (the usual figure of OKS-NMS)."""


_LEAST = np.float32(1e-18)
"""Pixels that a box without a width or height is taken to have, lest a union be zero; float32 holds its square."""


def box_areas(boxes: Floats) -> Floats:
    """Areas (n,) of boxes (n, 4) xyxy; 0 for those without one."""
    areas: Floats = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    return areas


def box_iou(first: Floats, second: Floats) -> Floats:
    """IoU of each box of one set with each of another: (n, 4) and (m, 4) xyxy -> float32 (n, m); 0 where empty.

    In few numpy calls and in place, because trackers do this for every frame.
    """
    count = len(first)
    corners = np.ascontiguousarray(np.concatenate([first, second]).T)
    low, high = corners[:2], corners[2:]
    extents = np.maximum(high - low, _LEAST)
    areas = extents[0] * extents[1]
    shared: Floats = np.minimum(high[:, :count, None], high[:, None, count:])  # (2, n, m), across and down
    shared -= np.maximum(low[:, :count, None], low[:, None, count:])
    np.maximum(shared, 0, out=shared)
    overlap: Floats = np.multiply(shared[0], shared[1], out=shared[0])
    union = areas[:count, None] + areas[count:]
    union -= overlap
    overlap /= union
    return overlap


def box_agreement(first: Floats, second: Floats) -> Floats:
    """How alike boxes of two runs are (n, m): their IoU; of two without an area, as untrained networks give, the IoU of
    what is between their corners, half a pixel more on each side, so that equal boxes agree."""
    overlap = box_iou(first, second)
    empty = np.logical_and.outer(box_areas(first) <= 0, box_areas(second) <= 0)
    return np.where(empty, box_iou(_between(first), _between(second)), overlap) if empty.any() else overlap


def _between(boxes: Floats) -> Floats:
    half = np.float32(0.5)
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]) - half, np.maximum(boxes[:, :2], boxes[:, 2:]) + half
    return np.concatenate([low, high], 1)


def keypoint_similarity(first: Floats, second: Floats, areas: Floats, sigmas: Sequence[float]) -> Floats:
    """Object keypoint similarity of every pose of one set with every pose of another (n, m).

    The mean over keypoints of exp(-d^2 / (2 area (2 sigma)^2)), as COCO scores keypoints
    (https://cocodataset.org/#keypoints-eval), all keypoints counted alike.

    Args:
        first: (n, k, 3) x, y and score, in any unit.
        second: (m, k, 3), the same.
        areas: (n,) of the first ones' objects in that unit squared.
        sigmas: (k,).
    """
    away = first[:, None, :, :2] - second[None, :, :, :2]
    spread = (2 * np.asarray(sigmas, np.float32)) ** 2
    distance = (away**2).sum(3) / (2 * spread * np.maximum(areas, 1e-6)[:, None, None])
    result: Floats = np.exp(-distance).mean(2, dtype=np.float32)
    return result


def mask_iou(first: Bools, second: Bools) -> Floats:
    """IoU of every mask of one set with every mask of another: (n, h, w) and (m, h, w) bool -> (n, m)."""
    result = np.zeros((len(first), len(second)), np.float32)
    areas = [masks.sum((1, 2), dtype=np.int64) for masks in (first, second)]
    for row, mask in enumerate(first):
        overlap = (mask & second).sum((1, 2), dtype=np.int64)
        union = areas[0][row] + areas[1] - overlap
        result[row] = overlap / np.maximum(union, 1)
    return result


def keypoint_suppression(
    keypoints: Floats, scores: Floats, areas: Floats, sigmas: Sequence[float], limit: float
) -> NDArray[np.int64]:
    """Indices of the poses that survive greedy NMS by OKS, best score first.

    Boxes of one person differ more than its keypoints do, so that top-down pipelines drop their doubles by OKS (as
    SimpleBaselines does, Xiao et al. 2018).

    Args:
        keypoints: (n, k, 3).
        scores: (n,).
        areas: (n,) of the objects, in the keypoints' unit squared.
        sigmas: (k,).
        limit: poses with a higher OKS to a better one are dropped.
    """
    order = np.argsort(-scores, kind="stable")
    alike = keypoint_similarity(keypoints[order], keypoints[order], areas[order], sigmas)
    free = np.ones(len(order), np.bool_)
    for row in range(len(order)):
        if free[row]:
            free[row + 1 :] &= alike[row, row + 1 :] <= limit
    kept: NDArray[np.int64] = order[free]
    return kept
