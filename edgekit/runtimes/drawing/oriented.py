"""Oriented boxes with label plates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.runtimes.drawing.colors import color_of
from edgekit.runtimes.drawing.lines import SHIFT, fixed_point, fresh_canvas, line_width
from edgekit.runtimes.drawing.plates import font_scale, plate_above


def draw_oriented(
    image: Image,
    corners: Floats,
    color_ids: Sequence[int] | NDArray[np.int64],
    labels: Sequence[str] | None = None,
    thickness: int | None = None,
) -> Image:
    """A copy of ``image`` with oriented boxes, and on top of all boxes their label plates, at their highest corners.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        corners: (n, 4, 2) in continuous pixels of ``image``, in turn; later boxes are drawn over earlier ones.
        color_ids: (n,) class or track ids, which choose the colours.
        labels: one text per box, or None for boxes only.
        thickness: of the lines in pixels; by default `edgekit.runtimes.drawing.line_width`.
    """
    import cv2

    canvas = fresh_canvas(image)
    height, width = canvas.shape[:2]
    thick = thickness or line_width(width, height)
    colors = [color_of(int(one)) for one in color_ids]
    for outline, color in zip(corners, colors, strict=True):
        cv2.polylines(canvas, [fixed_point(outline)], True, color, thick, cv2.LINE_AA, SHIFT)
    for outline, color, label in zip(corners, colors, labels or (), strict=labels is not None):
        x, y = np.clip(outline[outline[:, 1].argmin()], 0, (width - 1, height - 1)).astype(int).tolist()
        plate_above(canvas, (x, y), label, color, font_scale(width, height))
    return canvas
