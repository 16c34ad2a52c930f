"""Painting placed shapes onto a background, anti-aliased, and the sensor that looks at the result.

Outlines are filled on a grid finer than the pixels (SUPERSAMPLING per axis) and averaged down, so that a pixel's colour
follows the fraction of it that is covered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekit.shapes.backgrounds import pixel_grid, scale_pixels
from edgekit.shapes.outlines import CLASSES, ORIENTATION_DOTS, Points, place, unit_outline
from edgekit.shapes.types import ShapePlacement

Image = npt.NDArray[np.float32]

SUPERSAMPLING = 4
SHIFT = 6  # fractional bits of the coordinates given to cv2
MARGIN = 6  # pixels around a shape, for its shadow


def subpixel_polygon(outline: Points, left: int, top: int) -> npt.NDArray[np.int32]:
    """Fixed-point polygon of an outline on the fine grid whose corner is at pixel (left, top).

    cv2 puts integer coordinates at pixel CENTRES, the world at pixel corners: hence the half.
    """
    fine = (outline - (left, top)) * SUPERSAMPLING - 0.5
    return np.round(fine * (1 << SHIFT)).astype(np.int32)


def coverage(outline: Points, left: int, top: int, height: int, width: int, thickness: int = 0) -> Image:
    """Fraction of each pixel (height, width) inside the outline, or under its edge when a thickness is given."""
    import cv2

    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), dtype=np.uint8)
    polygon = subpixel_polygon(outline, left, top)
    if thickness:
        cv2.polylines(fine, [polygon], True, 255, thickness, cv2.LINE_8, SHIFT)
    else:
        cv2.fillPoly(fine, [polygon], 255, cv2.LINE_8, SHIFT)
        # fillPoly also sets every cell that the edge touches; half of each lies inside on average.
        cv2.polylines(fine, [polygon], True, 128, 1, cv2.LINE_8, SHIFT)
    average = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(average, dtype=np.float32) * np.float32(1 / 255)


def _fill(placement: ShapePlacement, left: int, top: int, height: int, width: int) -> Image:
    """The paint (height, width, 3) of a shape: its colour, shaded along one direction, with a faint texture."""
    style = placement.style
    x = (np.arange(left, left + width, dtype=np.float32) + 0.5 - placement.centre[0])[None, :] / placement.radius
    y = (np.arange(top, top + height, dtype=np.float32) + 0.5 - placement.centre[1])[:, None] / placement.radius
    across = np.asarray(x * math.cos(style.shade_angle) + y * math.sin(style.shade_angle), dtype=np.float32)
    light = 1 + np.float32(style.shade) * across
    if style.texture == "stripes":
        light += np.float32(0.10) * np.sign(np.sin(across * np.float32(11)))
    elif style.texture == "rings":
        light += np.float32(0.08) * np.sin(np.sqrt(x * x + y * y) * np.float32(16))
    return np.asarray(light[:, :, None] * np.array(style.bgr, dtype=np.float32), dtype=np.float32)


def _dot(placement: ShapePlacement, paint: Image, left: int, top: int) -> None:
    """Put the orientation mark on the paint: dark on light colours, light on dark ones."""
    mark = ORIENTATION_DOTS.get(CLASSES[placement.class_id])
    if mark is None:
        return
    distance, radius = mark
    at = place(np.array([[0.0, -distance]]), placement.centre, placement.radius, placement.rotation)[0]
    x = np.arange(left, left + paint.shape[1], dtype=np.float32)[None, :] + np.float32(0.5 - at[0])
    y = np.arange(top, top + paint.shape[0], dtype=np.float32)[:, None] + np.float32(0.5 - at[1])
    cover = np.clip(np.float32(radius * placement.radius + 0.5) - np.sqrt(x * x + y * y), 0, 1)[:, :, None]
    blue, green, red = placement.style.bgr
    tone = np.float32(20.0 if 0.11 * blue + 0.59 * green + 0.30 * red > 110 else 235.0)
    paint += cover * (tone - paint)


def _clip(start: int, size: int, limit: int) -> tuple[slice, slice]:
    """Slices (in the image, in the patch) of the part of a patch that lies in the image along one axis."""
    low, high = max(start, 0), min(start + size, limit)
    return slice(low, max(high, low)), slice(low - start, max(high, low) - start)


def paint_shape(image: Image, placement: ShapePlacement) -> None:
    """Blend one shape, with its shadow and edge, over the image float32 (H, W, 3) in place."""
    import cv2

    outline = place(unit_outline(placement.class_id), placement.centre, placement.radius, placement.rotation)
    left, top = (int(value) - MARGIN for value in np.floor(outline.min(axis=0)))
    right, bottom = (int(value) + MARGIN for value in np.ceil(outline.max(axis=0)))
    height, width = bottom - top, right - left
    rows, patch_rows = _clip(top, height, image.shape[0])
    columns, patch_columns = _clip(left, width, image.shape[1])
    if rows.start == rows.stop or columns.start == columns.stop:
        return
    cover = coverage(outline, left, top, height, width)
    paint = _fill(placement, left, top, height, width)
    if placement.style.edge > 0:
        thickness = max(2, round(placement.style.edge * SUPERSAMPLING))
        edge = coverage(outline, left, top, height, width, thickness)[:, :, None]
        paint *= 1 - np.float32(0.55) * edge
    _dot(placement, paint, left, top)
    target = image[rows, columns]
    if placement.style.shadow > 0:
        shift = np.array([[1, 0, 2.5], [0, 1, 3.0]], dtype=np.float32)
        shadow = cv2.warpAffine(cv2.GaussianBlur(cover, (0, 0), 2.0), shift, (width, height))
        target *= 1 - np.float32(placement.style.shadow) * shadow[patch_rows, patch_columns, None]
    alpha = cover[patch_rows, patch_columns, None]
    target += alpha * (paint[patch_rows, patch_columns] - target)


@functools.lru_cache(maxsize=1)
def _grain() -> Image:
    """A fixed tile of unit normal noise: drawing it anew would cost as much as the rest of a scene."""
    return np.random.default_rng(20240229).standard_normal((512, 512, 3), dtype=np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, frame: int) -> Image:
    """Unit normal noise (height, width, 3): a window of the tile, or fresh where the tile is too small."""
    if frame:
        rng = np.random.default_rng([int(rng.integers(1 << 32)), frame])
    tile = _grain()
    if height > tile.shape[0] or width > tile.shape[1]:
        return rng.standard_normal((height, width, 3), dtype=np.float32)
    top = int(rng.integers(0, tile.shape[0] - height + 1))
    left = int(rng.integers(0, tile.shape[1] - width + 1))
    return tile[top : top + height, left : left + width]


def sense(rng: np.random.Generator, image: Image, frame: int = 0) -> npt.NDArray[np.uint8]:
    """Look at a painted image through a mild camera: uneven light, slight blur, noise; uint8 (H, W, 3).

    With the same generator state, frames of a moving scene get the same light and blur, and each its own noise.
    """
    import cv2

    height, width = image.shape[:2]
    x, y = pixel_grid(height, width)
    slope = rng.uniform(-0.18, 0.18, 2) / (width, height)
    light = np.float32(rng.uniform(0.85, 1.12)) + x * np.float32(slope[0]) + y * np.float32(slope[1])
    image = scale_pixels(image, light)
    blur = float(rng.uniform(-0.5, 0.9))
    if blur > 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (5, 5), blur), dtype=np.float32)
    strength = float(rng.uniform(0.5, 6.0))
    image = cv2.scaleAdd(_noise(rng, height, width, frame), strength, image).astype(np.float32, copy=False)
    return quantise(image)


def quantise(image: Image) -> npt.NDArray[np.uint8]:
    """Round a painted image (H, W, 3) to uint8."""
    rounded = image + np.float32(0.5)
    return np.clip(rounded, 0, 255, out=rounded).astype(np.uint8)


def index_map(placements: Sequence[ShapePlacement], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Which shape is nearest in each cell of the fine grid: uint8 (H * S, W * S), 0 = none, i + 1 = placement i."""
    import cv2

    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), dtype=np.uint8)
    for index, item in enumerate(placements):
        outline = place(unit_outline(item.class_id), item.centre, item.radius, item.rotation)
        cv2.fillPoly(fine, [subpixel_polygon(outline, 0, 0)], index + 1, cv2.LINE_8, SHIFT)
    return fine
