"""Arithmetic of oriented boxes: similarity, suppression, and the way back from a resized image.

An oriented box is centre x, centre y, width, height and angle. The angle is in radians, from the x axis to the side
called width, clockwise on the screen (y points down).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results.oriented import AnyFloats, corners_of, half_sides
from edgekit.runtimes.tasks.similarity import box_iou

_MOST = 30_000
"""Candidates that suppression looks at, best first: a bound for thresholds near zero."""

SQUARE = 1.1
"""Up to this ratio of its sides a box counts as a square, which looks the same after a quarter of a turn."""

_TINY = 1e-9


def enclosing(boxes: AnyFloats) -> Floats:
    """The smallest upright boxes (n, 4) xyxy around oriented boxes (n, 5)."""
    along, across = half_sides(boxes)
    reach = np.abs(along) + np.abs(across)
    upright = np.concatenate([boxes[:, :2] - reach, boxes[:, :2] + reach], 1)
    return np.asarray(upright, np.float32)


def canonical(boxes: AnyFloats) -> AnyFloats:
    """The same oriented boxes (n, 5) with the longer side as width and the angle in [-pi/2, pi/2)."""
    written = np.array(boxes)
    tall = written[:, 3] > written[:, 2]
    written[tall, 2:4] = written[tall, 3:1:-1]
    turned = written[:, 4].astype(np.float64) + np.where(tall, np.pi / 2, 0)
    angles = (np.mod(turned + np.pi / 2, np.pi) - np.pi / 2).astype(written.dtype)
    written[:, 4] = np.where(angles >= np.pi / 2, -np.pi / 2, angles)  # what rounding made of the largest one
    return written


def to_original(boxes: Floats, mapping: Transform) -> Floats:
    """Oriented boxes (n, 5) from input pixels to original pixels, also outside the image.

    Both sides are mapped as vectors. Where an image was stretched they are no longer at right angles; then the result
    is the rectangle whose sides are the closest to them (least squares), so that a long side keeps its direction.
    """
    along, across = half_sides(boxes.astype(np.float64))
    scale = np.array([mapping.scale_x, mapping.scale_y])
    along, across = along / scale, across / scale
    # The direction e that maximises (along . e)^2 + (across . e turned by a quarter)^2, as twice its angle.
    double = _doubled(along) - _doubled(across)
    angle = np.where(np.abs(double).max(1) > 0, np.arctan2(double[:, 1], double[:, 0]) / 2, boxes[:, 4])
    width, height = 2 * np.abs(_along(along, angle)), 2 * np.abs(_along(across, angle + np.pi / 2))
    centre = (boxes[:, :2] - np.array([mapping.offset_x, mapping.offset_y])) / scale
    return np.column_stack([centre, width, height, angle]).astype(np.float32)


def _doubled(vectors: AnyFloats) -> NDArray[np.float64]:
    """Vectors (n, 2) of twice the angle and the squared length."""
    x, y = vectors.T
    return np.asarray(np.stack([x * x - y * y, 2 * x * y], 1), np.float64)


def _along(vectors: AnyFloats, angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length (n,) of vectors (n, 2) in the directions of angles (n,)."""
    return np.asarray(vectors[:, 0] * np.cos(angle) + vectors[:, 1] * np.sin(angle))


# --- similarity ---


def probabilistic_iou(first: AnyFloats, second: AnyFloats) -> Floats:
    """ProbIoU (n, m) of oriented boxes (n, 5) and (m, 5): 1 less the Hellinger distance of the two boxes as Gaussians
    (Llerena et al., Gaussian Bounding Boxes and Probabilistic Intersection-over-Union, 2021)."""
    (a1, b1, c1), (a2, b2, c2) = _covariance(first), _covariance(second)
    a, b, c = np.add.outer(a1, a2), np.add.outer(b1, b2), np.add.outer(c1, c2)
    x, y = (np.subtract.outer(first[:, k].astype(np.float64), second[:, k].astype(np.float64)) for k in (0, 1))
    joint = np.maximum(a * b - c * c, _TINY)
    apart = (a * y * y + b * x * x - 2 * c * x * y) / (4 * joint)
    alone = np.sqrt(np.multiply.outer(np.maximum(a1 * b1 - c1 * c1, _TINY), np.maximum(a2 * b2 - c2 * c2, _TINY)))
    shape = np.log(np.maximum(joint / (4 * alone), 1)) / 2
    distance = np.sqrt(-np.expm1(-(apart + shape)))
    return np.asarray(1 - distance, np.float32)


def _covariance(boxes: AnyFloats) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Variance along x, along y, and covariance (n,) each of points spread evenly over the boxes (n, 5)."""
    width, height, angle = boxes[:, 2:].astype(np.float64).T
    cos, sin = np.cos(angle), np.sin(angle)
    wide, high = width**2 / 12, height**2 / 12
    return wide * cos**2 + high * sin**2, wide * sin**2 + high * cos**2, (wide - high) * cos * sin


def rotated_iou(first: AnyFloats, second: AnyFloats) -> Floats:
    """IoU (n, m) of oriented boxes (n, 5) and (m, 5): the area of their intersection over that of their union."""
    result = np.zeros((len(first), len(second)), np.float32)
    rows, columns = np.nonzero(box_iou(enclosing(first), enclosing(second)) > 0)
    if len(rows):
        one, other = first[rows].astype(np.float64), second[columns].astype(np.float64)
        shared = _shared_area(one, other)
        union = _area(one) + _area(other) - shared
        result[rows, columns] = np.where(union > 0, shared / np.maximum(union, _TINY), 0)
    return result


def _area(boxes: AnyFloats) -> NDArray[np.float64]:
    return np.asarray(np.abs(boxes[:, 2] * boxes[:, 3]), np.float64)


def rotated_agreement(first: Floats, second: Floats) -> Floats:
    """How alike oriented boxes of two runs are (n, m): their IoU. Sides under a pixel, as untrained networks give,
    count as one pixel, so that equal boxes agree."""

    def sized(boxes: Floats) -> Floats:
        return np.column_stack([boxes[:, :2], np.maximum(np.abs(boxes[:, 2:4]), 1), boxes[:, 4]])

    return rotated_iou(sized(first), sized(second))


def _shared_area(first: AnyFloats, second: AnyFloats) -> NDArray[np.float64]:
    """Area (p,) of the intersection of pairs of oriented boxes (p, 5).

    The corners of the intersection are corners of one box inside the other, and crossings of their sides. Sorted by
    their angle around the middle they are the outline, whose area the shoelace formula gives.
    """
    middle = (first[:, :2] + second[:, :2]) / 2  # near the origin products of coordinates lose no digits
    first, second = first.copy(), second.copy()
    first[:, :2] -= middle
    second[:, :2] -= middle
    one, other = corners_of(first), corners_of(second)
    crossings, crossed = _crossings(one, other)
    points = np.concatenate([one, other, crossings], 1)
    there = np.concatenate([_inside(one, second), _inside(other, first), crossed], 1)
    count = there.sum(1)
    centre = (points * there[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    points = np.where(there[..., None], points - centre[:, None], 0)
    angles = np.where(there, np.arctan2(points[..., 1], points[..., 0]), np.inf)
    order = np.argsort(angles, 1)
    points = np.take_along_axis(points, order[..., None], 1)
    there = np.take_along_axis(there, order, 1)
    points = np.where(there[..., None], points, points[:, :1])  # what is not there repeats the first one
    following = np.roll(points, -1, 1)
    twice = (points[..., 0] * following[..., 1] - points[..., 1] * following[..., 0]).sum(1)
    area = np.where(count > 2, np.abs(twice) / 2, 0)
    return np.minimum(area, np.minimum(_area(first), _area(second)))


def _inside(points: AnyFloats, boxes: AnyFloats) -> NDArray[np.bool_]:
    """Whether points (p, k, 2) are in the box (p, 5) of their pair, its border included."""
    cos, sin = np.cos(boxes[:, 4])[:, None], np.sin(boxes[:, 4])[:, None]
    x, y = points[..., 0] - boxes[:, :1], points[..., 1] - boxes[:, 1:2]
    half = np.abs(boxes[:, 2:4]) / 2
    slack = 1e-9 * (1 + half.sum(1, keepdims=True))
    within = (np.abs(x * cos + y * sin) <= half[:, :1] + slack) & (np.abs(y * cos - x * sin) <= half[:, 1:] + slack)
    return np.asarray(within, np.bool_)


def _crossings(one: AnyFloats, other: AnyFloats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where the sides of boxes with corners (p, 4, 2) cross: points (p, 16, 2), and whether there is one."""
    start, side = one[:, :, None], (np.roll(one, -1, 1) - one)[:, :, None]
    from_, across = other[:, None], (np.roll(other, -1, 1) - other)[:, None]
    turn = side[..., 0] * across[..., 1] - side[..., 1] * across[..., 0]
    gap = from_ - start
    parallel = np.abs(turn) <= 1e-12 * (np.abs(side).sum(-1) * np.abs(across).sum(-1) + _TINY)
    divisor = np.where(parallel, 1, turn)
    along = (gap[..., 0] * across[..., 1] - gap[..., 1] * across[..., 0]) / divisor
    far = (gap[..., 0] * side[..., 1] - gap[..., 1] * side[..., 0]) / divisor
    crossed = ~parallel & (along >= 0) & (along <= 1) & (far >= 0) & (far <= 1)
    points = start + along[..., None] * side
    return np.asarray(points.reshape(len(one), 16, 2), np.float64), crossed.reshape(len(one), 16)


def angle_between(first: AnyFloats, second: AnyFloats) -> NDArray[np.float64]:
    """The angle (n,) in degrees between pairs of oriented boxes (n, 5), as far as it can be seen.

    It is between the longer sides, 0..90. Where one of the two is nearly square (`SQUARE`) it is 0..45.
    """
    one, other = canonical(first), canonical(second)
    away = np.abs(np.mod(np.degrees(one[:, 4].astype(np.float64) - other[:, 4]) + 90, 180) - 90)
    square = np.zeros(len(one), np.bool_)
    for boxes in (one, other):
        square |= boxes[:, 2] <= SQUARE * boxes[:, 3]
    return np.asarray(np.where(square, np.minimum(away, 90 - away), away))


# --- suppression ---


def rotated_suppression(
    boxes: Floats, scores: Floats, class_ids: Ints, limit: float, *, class_agnostic: bool = False
) -> Ints:
    """Indices of the oriented boxes that survive greedy NMS by ProbIoU, best score first.

    Args:
        boxes: (n, 5), any unit.
        scores: (n,).
        class_ids: (n,).
        limit: a box with a higher ProbIoU to a better, kept one of its class (of any, when ``class_agnostic``) goes.
    """
    left = np.argsort(-scores, kind="stable")[:_MOST]
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        alike = probabilistic_iou(boxes[best][None], boxes[left])[0] > limit
        left = left[~(alike & (class_agnostic | (class_ids[left] == class_ids[best])))]
    return np.array(kept, np.int64)
