"""Masks: a translucent fill and an outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import UsageError
from edgekit.runtimes.drawing.colors import color_of
from edgekit.runtimes.drawing.lines import fresh_canvas, line_width


def draw_masks(
    image: Image,
    crops: Sequence[NDArray[np.bool_]],
    corners: NDArray[np.int64],
    color_ids: Sequence[int] | NDArray[np.int64],
    opacity: float = 0.45,
    thickness: int | None = None,
) -> Image:
    """A copy of ``image`` with masks filled and outlined; later ones lie over earlier ones.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        crops, corners: bitmaps and their top-left pixels, as in `edgekit.results.Masks`.
        color_ids: (n,) class or track ids, which choose the colours.
        opacity: of the fill, from 0 (outline only) to 1.
        thickness: of the outline in pixels; by default half of `line_width`.

    Raises:
        UsageError: an opacity outside 0..1.
    """
    import cv2

    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity must be 0..1, not {opacity}")
    canvas = fresh_canvas(image)
    thick = thickness or max(1, line_width(canvas.shape[1], canvas.shape[0]) // 2)
    for crop, (left, top), color_id in zip(crops, corners.tolist(), color_ids, strict=True):
        if not crop.any():  # OpenCV takes no array without pixels
            continue
        color = color_of(int(color_id))
        region = canvas[top : top + crop.shape[0], left : left + crop.shape[1]]
        plain = np.full_like(region, color)
        bitmap = crop.astype(np.uint8)
        cv2.copyTo(cv2.addWeighted(region, 1 - opacity, plain, opacity, 0), bitmap, region)
        found, _ = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, found, -1, color, thick, offset=(left, top))
    return canvas
