"""Text on filled plates, wholly inside the image."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.arrays import Image
from edgekit.runtimes.drawing.colors import Color, color_of, text_color_on
from edgekit.runtimes.drawing.lines import fresh_canvas

SMALLEST_FONT = 0.32
"""Font scale (of OpenCV's Hershey simplex) under which a label cannot be read and is left out."""


@dataclass(frozen=True)
class _Plate:
    """A text that was measured: sizes in pixels, of the plate with its padding ``pad``."""

    text: str
    scale: float
    weight: int
    width: int
    height: int
    pad: int
    baseline: int

    def put(self, canvas: Image, left: int, top: int, color: Color) -> None:
        """Draw it with its top-left pixel at (left, top), wholly inside the canvas."""
        import cv2

        canvas[top : top + self.height, left : left + self.width] = color
        origin = (left + self.pad, top + self.baseline)
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(canvas, self.text, origin, font, self.scale, text_color_on(color), self.weight, cv2.LINE_AA)


def font_scale(width: int, height: int) -> float:
    """Font scale that suits an image of this size."""
    return min(max(0.42, (width + height) / 2 / 1200), 4.0)


def plate_above(canvas: Image, corner: tuple[int, int], label: str, color: Color, scale: float) -> None:
    """Write a label on a filled plate above the corner of its box, or below where there is no room above.

    It is written smaller where it does not fit into the image, and not at all where it could not be read.

    Args:
        canvas: uint8 (height, width, 3) BGR; is drawn on.
        corner: x, y of the top-left pixel of the box.
        label: text, on one line.
        color: of the plate; the text is black or white.
        scale: of the font, as OpenCV counts it.
    """
    height, width = canvas.shape[:2]
    plate = _fitting(label, scale, width, height)
    if plate is None:
        return
    left = min(max(corner[0], 0), width - plate.width)
    top = corner[1] - plate.height if corner[1] >= plate.height else min(corner[1], height - plate.height)
    plate.put(canvas, left, top, color)


def draw_list(image: Image, labels: Sequence[str], color_ids: Sequence[int]) -> Image:
    """A copy of ``image`` with one plate under the other in its top-left corner; those that do not fit are left out.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        labels: texts from top to bottom.
        color_ids: as many, which choose the colours.
    """
    canvas = fresh_canvas(image)
    height, width = canvas.shape[:2]
    top = 0
    scale = font_scale(width, height)
    for label, color_id in zip(labels, color_ids, strict=True):
        plate = _fitting(label, scale, width, height - top)
        if plate is None:
            break
        plate.put(canvas, 0, top, color_of(color_id))
        top += plate.height
    return canvas


def _fitting(label: str, scale: float, width: int, height: int) -> _Plate | None:
    """A plate of at most this size in pixels, in a smaller font where needed; None where it could not be read."""
    text = _drawable(label)
    plate = _measured(text, scale)
    while plate.width > width or plate.height > height:
        scale *= 0.8
        if scale < SMALLEST_FONT:
            return None
        plate = _measured(text, scale)
    return plate


def _measured(text: str, scale: float) -> _Plate:
    import cv2

    weight = max(1, round(scale * 1.4))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    pad = max(3, round(height * 0.35))
    # Descenders of g and p hang below the baseline, into the lower padding and perhaps further.
    return _Plate(text, scale, weight, width + 2 * pad, pad + height + max(pad, below + 1), pad, pad + height)


def _drawable(text: str) -> str:
    """Text as the font at hand can show it: OpenCV 4 has ASCII only and prints a row of ? for one accented letter."""
    import cv2

    if text.isascii() or int(cv2.__version__.split(".")[0]) >= 5:
        return text
    bare = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in bare)
