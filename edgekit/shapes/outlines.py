"""Analytic outlines of the shape classes: polygons, exact boxes and keypoints.

Local frame: x to the right, y down, origin at the shape's centre, unit radius. A placed outline is the local one
rotated clockwise (as seen on screen) by `rotation` degrees, scaled by `radius` pixels and moved to `centre`. All
coordinates are continuous pixel coordinates: (0, 0) is the top-left corner of the top-left pixel.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

CLASSES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "heart", "arrow")
KEYPOINTS: tuple[str, ...] = ("centre", "top", "right", "bottom", "left")
SKELETON: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (0, 3), (0, 4))

CIRCLE_RADIUS = 0.85

# Shapes that map onto themselves under some rotation carry a dot below their top, or their keypoints could not be told
# apart: (distance of the dot from the centre towards the top, radius of the dot), in unit radii.
ORIENTATION_DOTS: dict[str, tuple[float, float]] = {
    "circle": (0.50, 0.17),
    "square": (0.43, 0.16),
    "triangle": (0.42, 0.15),
    "star": (0.42, 0.14),
    "cross": (0.60, 0.16),
}

Points = npt.NDArray[np.float64]


def _regular(count: int, radius: float) -> Points:
    """Vertices of a regular polygon whose first vertex is at the top."""
    angles = 2.0 * np.pi * np.arange(count) / count
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1)


def _star() -> Points:
    outer, inner = _regular(5, 1.0), -_regular(5, 0.48)[[3, 4, 0, 1, 2]]
    return np.stack([outer, inner], axis=1).reshape(10, 2)


def _heart() -> Points:
    t = 2.0 * np.pi * np.arange(72) / 72
    x = 16.0 * np.sin(t) ** 3
    y = -(13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t))
    points = np.stack([x, y - 2.5], axis=1)
    return np.asarray(points / np.linalg.norm(points, axis=1).max(), dtype=np.float64)


@functools.cache
def unit_outline(class_id: int) -> Points:
    """Return the closed polygon (n, 2) of a class in the local frame, read-only."""
    name = CLASSES[class_id]
    if name == "circle":
        points = _regular(96, CIRCLE_RADIUS)
    elif name == "square":
        points = np.array([(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)])
    elif name == "triangle":
        points = _regular(3, 1.0)
    elif name == "star":
        points = _star()
    elif name == "cross":
        a, b = 0.30, 0.92
        points = np.array(
            [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        )
    elif name == "heart":
        points = _heart()
    else:
        head, neck, shaft = 0.80, -0.10, 0.32
        points = np.array(
            [(0, -1), (head, neck), (shaft, neck), (shaft, 0.92), (-shaft, 0.92), (-shaft, neck), (-head, neck)],
            dtype=np.float64,
        )
    points.flags.writeable = False
    return points


def _farthest_crossing(outline: Points, direction: tuple[float, float]) -> float:
    """Distance from the origin to the farthest crossing of a ray with the outline."""
    along = outline @ np.array(direction)
    across = outline @ np.array((-direction[1], direction[0]))
    best = 0.0
    for i in range(len(outline)):
        j = (i + 1) % len(outline)
        a, b = across[i], across[j]
        if abs(a) < 1e-9:
            best = max(best, float(along[i]))
        elif a * b < 0:
            best = max(best, float(along[i] + (along[j] - along[i]) * a / (a - b)))
    return best


@functools.cache
def unit_keypoints(class_id: int) -> Points:
    """Return the keypoints (5, 2) in the local frame: the centre and the outline's far crossings with the axes."""
    outline = unit_outline(class_id)
    directions = ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))
    points = np.zeros((len(KEYPOINTS), 2))
    for index, direction in enumerate(directions, start=1):
        points[index] = np.array(direction) * _farthest_crossing(outline, direction)
    points.flags.writeable = False
    return points


@functools.cache
def unit_area(class_id: int) -> float:
    """Return the area of a class at unit radius (shoelace formula), without its holes (there are none)."""
    x, y = unit_outline(class_id).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2.0)


@functools.cache
def unit_perimeter(class_id: int) -> float:
    """Return the length of a class's outline at unit radius."""
    outline = unit_outline(class_id)
    return float(np.linalg.norm(outline - np.roll(outline, -1, axis=0), axis=1).sum())


def place(points: Points, centre: tuple[float, float], radius: float, rotation: float) -> Points:
    """Rotate (degrees, clockwise on screen), scale and move local points (n, 2) into the image."""
    angle = math.radians(rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]]) * radius
    return np.asarray(points @ matrix + np.array(centre), dtype=np.float64)


def exact_box(class_id: int, centre: tuple[float, float], radius: float, rotation: float) -> npt.NDArray[np.float32]:
    """Return the exact, unclipped box xyxy (4,) of a placed shape."""
    if CLASSES[class_id] == "circle":
        r = CIRCLE_RADIUS * radius
        return np.array([centre[0] - r, centre[1] - r, centre[0] + r, centre[1] + r], dtype=np.float32)
    outline = place(unit_outline(class_id), centre, radius, rotation)
    return np.concatenate([outline.min(axis=0), outline.max(axis=0)]).astype(np.float32)
