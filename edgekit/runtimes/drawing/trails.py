"""Trails: where tracked objects came from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError
from edgekit.runtimes.drawing.colors import color_of
from edgekit.runtimes.drawing.lines import SHIFT, fixed_point, fresh_canvas, line_width


def draw_trails(
    image: Image, paths: Sequence[Floats], ids: Sequence[int] | NDArray[np.int64], thickness: int | None = None
) -> Image:
    """A copy of ``image`` with one line per track, which gets thinner towards its past.

    Args:
        image: uint8 (height, width, 3) BGR; not changed.
        paths: per track (m, 2) x, y of its past centres in continuous pixels of ``image``, the oldest first.
        ids: as many track ids, which choose the colours.
        thickness: of the newest end in pixels; by default twice `edgekit.runtimes.drawing.line_width`.

    Raises:
        UsageError: not one id per path, or a path of another shape.
    """
    import cv2

    if len(paths) != len(ids):
        raise UsageError(f"ids must be as many as paths, {len(paths)}, not {len(ids)}")
    canvas = fresh_canvas(image)
    thick = thickness or 2 * line_width(canvas.shape[1], canvas.shape[0])
    for path, track_id in zip(paths, ids, strict=True):
        points = np.asarray(path, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise UsageError(f"the path of track {track_id} must be finite numbers (m, 2), not {points.shape}")
        places = [(int(x), int(y)) for x, y in fixed_point(points)]
        for number, (start, end) in enumerate(pairwise(places), 1):
            weight = max(1, round(thick * number / (len(places) - 1)))
            cv2.line(canvas, start, end, color_of(int(track_id)), weight, cv2.LINE_AA, SHIFT)
    return canvas
