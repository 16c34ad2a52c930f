"""From placed shapes to the truth about them: visible boxes, masks, visibility and keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekit.shapes.outlines import CLASSES, exact_box, place, unit_area, unit_keypoints, unit_perimeter
from edgekit.shapes.render import SUPERSAMPLING, index_map
from edgekit.shapes.types import SceneObject, ShapePlacement

# A side of the visible box this close (pixels) to the analytic one IS the analytic one; otherwise an occluder made it.
SNAP = 0.6
FREE = 0.98  # visibility from which nothing can have cut a shape into slivers
EDGE_CELLS = 0.45  # width of the rim that fillPoly adds around an outline, in cells of the fine grid


def _window(box: npt.NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
    """Pixel bounds (left, top, right, bottom) of a box, one pixel wider, inside the image."""
    left, top = max(int(np.floor(box[0])) - 1, 0), max(int(np.floor(box[1])) - 1, 0)
    return left, top, min(int(np.ceil(box[2])) + 1, width), min(int(np.ceil(box[3])) + 1, height)


def _visible_box(cells: npt.NDArray[np.bool_], left: int, top: int) -> npt.NDArray[np.float32]:
    """Box xyxy of the set cells of a window of the fine grid whose corner is the pixel (left, top)."""
    columns, rows = np.flatnonzero(cells.any(axis=0)), np.flatnonzero(cells.any(axis=1))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    return np.asarray(corners / SUPERSAMPLING + np.array([left, top, left, top]), dtype=np.float32)


def _without_slivers(cells: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The fine cells no farther than a pixel from the mask: a strip thinner than half a pixel is not seen."""
    import cv2

    near = cv2.dilate(mask.view(np.uint8), np.ones((3, 3), dtype=np.uint8))
    fine = cv2.resize(near, (cells.shape[1], cells.shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cells & (np.asarray(fine) > 0), dtype=np.bool_)


def _keypoints(item: ShapePlacement, index: int, fine: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Keypoints (5, 3) with COCO flags; a point on the outline counts as seen when the spot just inside it is."""
    height, width = fine.shape
    local = unit_keypoints(item.class_id)
    points = place(local, item.centre, item.radius, item.rotation)
    inner = place(local * (1 - 1.0 / item.radius), item.centre, item.radius, item.rotation)
    result = np.zeros((len(points), 3), dtype=np.float32)
    for row, (point, probe) in enumerate(zip(points, inner, strict=True)):
        if not (0 <= point[0] * SUPERSAMPLING < width and 0 <= point[1] * SUPERSAMPLING < height):
            continue
        column_index = min(max(int(probe[0] * SUPERSAMPLING), 0), width - 1)
        row_index = min(max(int(probe[1] * SUPERSAMPLING), 0), height - 1)
        result[row] = (point[0], point[1], 2 if fine[row_index, column_index] == index + 1 else 1)
    return result


def _object(item: ShapePlacement, index: int, fine: npt.NDArray[np.uint8]) -> SceneObject | None:
    """The truth about one placement, or None where it covers no pixel by more than half."""
    import cv2

    height, width = fine.shape[0] // SUPERSAMPLING, fine.shape[1] // SUPERSAMPLING
    full = exact_box(item.class_id, item.centre, item.radius, item.rotation)
    left, top, right, bottom = _window(full, height, width)
    if left >= right or top >= bottom:
        return None
    s = SUPERSAMPLING
    cells = fine[top * s : bottom * s, left * s : right * s] == index + 1
    count = int(np.count_nonzero(cells))
    cover = cv2.resize(cells.view(np.uint8) * 255, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top:bottom, left:right] = np.asarray(cover) > 128
    if not mask.any():
        return None
    # fillPoly also sets the cells that the edge touches; half of each lies outside on average.
    radius = item.radius * s
    whole = unit_area(item.class_id) * radius**2 + unit_perimeter(item.class_id) * radius * EDGE_CELLS
    visibility = min(1.0, count / whole)
    if visibility < FREE:
        cells = _without_slivers(cells, mask[top:bottom, left:right])
    limit = np.array([width, height, width, height], dtype=np.float32)
    seen, clipped = _visible_box(cells, left, top), np.clip(full, 0, limit)
    box = np.where(np.abs(seen - clipped) <= SNAP, clipped, np.clip(seen, 0, limit)).astype(np.float32)
    return SceneObject(
        class_id=item.class_id,
        name=CLASSES[item.class_id],
        colour=item.colour,
        box=box,
        full_box=full,
        mask=mask,
        visibility=visibility,
        keypoints=_keypoints(item, index, fine),
        rotation=item.rotation,
        track_id=item.track_id,
    )


def objects(placements: Sequence[ShapePlacement], height: int, width: int) -> tuple[SceneObject, ...]:
    """Return the truth about every placement of which a pixel or more can be seen, farthest first.

    Takes at most 254 placements (they are told apart in 8 bits).
    """
    fine = index_map(placements, height, width)
    found = (_object(item, index, fine) for index, item in enumerate(placements))
    return tuple(item for item in found if item is not None)
