"""Boxes, upright or at any angle, with label plates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.runtimes.drawing.colors import Color, color_of
from edgekit.runtimes.drawing.lines import SHIFT, fixed_point, fresh_canvas, line_width
from edgekit.runtimes.drawing.plates import font_scale, plate_above


def draw_boxes(
    image: Image,
    boxes: Floats,
    color_ids: Sequence[int] | NDArray[np.int64],
    labels: Sequence[str] | None = None,
    thickness: int | None = None,
) -> Image:
    """A copy of ``image`` with boxes, and on top of all boxes their label plates, each wholly inside the image.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        boxes: (n, 4) xyxy, or the corners (n, 4, 2) of boxes at any angle, in turn, in continuous pixels of ``image``;
            later ones are drawn over earlier ones.
        color_ids: (n,) class or track ids, which choose the colours.
        labels: one text per box, or None for boxes only.
        thickness: of the lines in pixels; by default `line_width`.
    """
    canvas = fresh_canvas(image)
    height, width = canvas.shape[:2]
    thick = thickness or line_width(width, height)
    colors = [color_of(int(one)) for one in color_ids]
    outline = _upright if boxes.ndim == 2 else _turned
    corners = [outline(canvas, box, color, thick) for box, color in zip(boxes, colors, strict=True)]
    if labels is not None:
        scale = font_scale(width, height)
        for corner, color, label in zip(corners, colors, labels, strict=True):
            plate_above(canvas, corner, label, color, scale)
    return canvas


def _upright(canvas: Image, box: Floats, color: Color, thickness: int) -> tuple[int, int]:
    """Draw one box with its line inside the image; returns its top-left corner."""
    import cv2

    height, width = canvas.shape[:2]
    # A line is centred on its pixels: half of it must not fall off the edge of the image.
    inset = thickness // 2
    # The right edge x2 is the end of pixel x2 - 1 (continuous coordinates).
    limits = np.array([width, height, width, height]) - 1
    pixels = np.clip(np.rint(np.asarray(box, np.float64)) - (0, 0, 1, 1), 0, limits).astype(int)
    left, top = np.minimum(pixels[:2] + inset, limits[:2])
    right, bottom = np.maximum(pixels[2:] - inset, 0)
    cv2.rectangle(canvas, (int(left), int(top)), (int(max(right, left)), int(max(bottom, top))), color, thickness)
    return int(pixels[0]), int(pixels[1])


def _turned(canvas: Image, corners: Floats, color: Color, thickness: int) -> tuple[int, int]:
    """Draw one box by its corners (4, 2); returns the highest one."""
    import cv2

    height, width = canvas.shape[:2]
    cv2.polylines(canvas, [fixed_point(corners)], True, color, thickness, cv2.LINE_AA, SHIFT)
    x, y = np.clip(corners[corners[:, 1].argmin()], 0, (width - 1, height - 1)).astype(int).tolist()
    return x, y
