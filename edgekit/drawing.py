"""Results drawn on images: boxes with label plates, in a stable colour per class."""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

from edgekit.images import Floats, Image

Color = tuple[int, int, int]

SMALLEST_FONT = 0.32
"""Font scale (of OpenCV's Hershey simplex) under which a label cannot be read and is left out."""


@cache
def color_of(class_id: int) -> Color:
    """BGR colour of a class id, the same in every image; neighbouring ids get clearly different hues.

    Hues step by the golden ratio, which spreads any number of classes evenly round the circle; saturation and
    brightness alternate, so that hues which come close after many classes still differ.
    """
    hue = (0.57 + class_id * 0.6180339887498949) % 1.0
    saturation, value = ((0.85, 1.0), (0.65, 0.95), (0.95, 0.8))[class_id // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def text_color_on(color: Color) -> Color:
    """Black or white BGR, whichever contrasts more with ``color`` (WCAG 2 relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)


def line_width(width: int, height: int) -> int:
    """Thickness of box lines in pixels that suits an image of this size."""
    return max(1, round((width + height) / 2 / 240))


def draw_boxes(
    image: Image,
    boxes: Floats,
    class_ids: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]],
    labels: Sequence[str] | None = None,
    thickness: int | None = None,
) -> Image:
    """A copy of ``image`` with boxes, and on top of all boxes their label plates, each wholly inside the image.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        boxes: (n, 4) xyxy in pixels of ``image``; later ones are drawn over earlier ones.
        class_ids: (n,), choose the colours.
        labels: one text per box, or None for boxes only.
        thickness: of the lines in pixels; by default `line_width`.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    thick = thickness or line_width(width, height)
    colors = [color_of(int(class_id)) for class_id in class_ids]
    corners = [_outline(canvas, box, color, thick) for box, color in zip(boxes, colors, strict=True)]
    if labels is not None:
        scale = min(max(0.42, (width + height) / 2 / 1200), 4.0)
        for corner, color, label in zip(corners, colors, labels, strict=True):
            _plate(canvas, corner, label, color, scale)
    return canvas


def _outline(canvas: Image, box: Floats, color: Color, thickness: int) -> tuple[int, int]:
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


def _plate(canvas: Image, corner: tuple[int, int], label: str, color: Color, scale: float) -> None:
    """Write a label on a filled plate above the corner of its box, or below where there is no room above."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    height, width = canvas.shape[:2]
    label = _drawable(label)
    while True:
        weight = max(1, round(scale * 1.4))
        (text_width, text_height), base = cv2.getTextSize(label, font, scale, weight)
        pad = max(3, round(text_height * 0.35))
        # Descenders of g and p hang below the baseline, into the lower padding and perhaps further.
        plate_width, plate_height = text_width + 2 * pad, pad + text_height + max(pad, base + 1)
        if plate_width <= width and plate_height <= height:
            break
        scale *= 0.8
        if scale < SMALLEST_FONT:
            return
    left = min(max(corner[0], 0), width - plate_width)
    top = corner[1] - plate_height if corner[1] >= plate_height else min(corner[1], height - plate_height)
    canvas[top : top + plate_height, left : left + plate_width] = color
    origin = (left + pad, top + pad + text_height)
    cv2.putText(canvas, label, origin, font, scale, text_color_on(color), weight, cv2.LINE_AA)


def _drawable(text: str) -> str:
    """Text as the font at hand can show it: OpenCV 4 has ASCII only and prints a row of ? for one accented letter."""
    import cv2

    if text.isascii() or int(cv2.__version__.split(".")[0]) >= 5:
        return text
    bare = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in bare)
