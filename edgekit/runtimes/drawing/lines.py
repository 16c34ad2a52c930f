"""Line widths, and points where OpenCV draws them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.arrays import Image

SHIFT = 4
"""Bits after the point of the coordinates that OpenCV is given, for lines that do not jump from pixel to pixel."""

FARTHEST = 1e6
"""Coordinates are cut off here, far outside any image, so that they fit OpenCV's 32 bits."""


def line_width(width: int, height: int) -> int:
    """Thickness of box lines in pixels that suits an image of this size."""
    return max(1, round((width + height) / 2 / 240))


def fresh_canvas(image: Image) -> Image:
    """A copy of an image that OpenCV can draw on, whatever the layout of the image in memory."""
    return np.ascontiguousarray(image).copy()


def fixed_point(points: ArrayLike) -> NDArray[np.int32]:
    """Continuous coordinates (..., 2) as OpenCV's whole numbers with ``SHIFT`` bits after the point.

    OpenCV counts from the centre of the first pixel, half a pixel off its corner.
    """
    inside = np.clip(np.asarray(points, np.float64), -FARTHEST, FARTHEST)
    return np.asarray(np.rint((inside - 0.5) * (1 << SHIFT)), np.int32)
