"""Skeletons of poses: lines in the colour of the object, points in the colour of their side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.drawing.colors import Color, color_of
from edgekit.runtimes.drawing.lines import SHIFT, fixed_point, fresh_canvas, line_width

LEFT: Color = (80, 210, 60)
RIGHT: Color = (40, 110, 255)
MIDDLE: Color = (255, 200, 60)
"""Points by the first word of their names: green is the object's left, orange its right, so that a model which mixes
up the sides is seen to do so; blue is neither."""


def draw_skeletons(
    image: Image,
    keypoints: Floats,
    skeleton: Skeleton,
    color_ids: Sequence[int] | NDArray[np.int64],
    threshold: float = 0.3,
    thickness: int | None = None,
) -> Image:
    """A copy of ``image`` with skeletons; later ones are drawn over earlier ones.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        keypoints: (n, k, 3) x, y in continuous pixels of ``image`` and score.
        skeleton: names of the k keypoints and the pairs joined by a line.
        color_ids: (n,) class or track ids, which choose the colours of the lines.
        threshold: score under which a point, and each line to it, is left out.
        thickness: of the lines in pixels; by default `edgekit.runtimes.drawing.line_width`.
    """
    import cv2

    canvas = fresh_canvas(image)
    thick = thickness or line_width(canvas.shape[1], canvas.shape[0])
    radius = thick + 1
    sides = [_side(name) for name in skeleton.names]
    for pose, color_id in zip(keypoints, color_ids, strict=True):
        seen = (pose[:, 2] >= np.float32(threshold)).tolist()
        points = [(int(x), int(y)) for x, y in fixed_point(pose[:, :2])]
        for one, two in skeleton.edges:
            if seen[one] and seen[two]:
                cv2.line(canvas, points[one], points[two], color_of(int(color_id)), thick, cv2.LINE_AA, SHIFT)
        for point, shown, side in zip(points, seen, sides, strict=True):
            if shown:  # a dark ring sets it off from lines and image
                for size, color in ((radius + 1, (0, 0, 0)), (radius, side)):
                    cv2.circle(canvas, point, size << SHIFT, color, cv2.FILLED, cv2.LINE_AA, SHIFT)
    return canvas


def _side(name: str) -> Color:
    first = name.replace("-", "_").replace(" ", "_").partition("_")[0].lower()
    return {"left": LEFT, "right": RIGHT}.get(first, MIDDLE)
