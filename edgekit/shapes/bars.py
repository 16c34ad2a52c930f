"""Scenes of long things at any angle with their oriented boxes: bars, ellipses and triangles on painted grounds.

The world's own shapes are about as wide as they are high, so their boxes hardly have a direction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.shapes.backgrounds import background
from edgekit.shapes.outlines import Points
from edgekit.shapes.render import coverage, sense
from edgekit.shapes.sampling import contrasting_colour
from edgekit.shapes.types import COLOURS, SceneOptions
from edgekit.shapes.world import check_size

LONG_CLASSES: tuple[str, ...] = ("bar", "ellipse", "triangle")

RATIO = (1.6, 4.5)
"""Of the longer side to the shorter one."""

LONGER = (0.16, 0.55)
"""The longer side as a share of the shorter side of the scene."""

MOST, ATTEMPTS = 9, 30


@dataclass(frozen=True, eq=False)
class LongScene:
    """An image uint8 (H, W, 3) BGR; oriented boxes float32 (n, 5), no two of which overlap; and classes int64 (n,).

    A box is centre x, centre y, width, height and the angle in radians, clockwise from the x axis to the width, which
    is the longer side.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]


def long_scene(seed: int, size: tuple[int, int] = (256, 256)) -> LongScene:
    """Draw the scene of a seed at (height, width); the same arguments give the same bytes.

    Raises:
        UsageError: a size under 48 pixels.
    """
    check_size(size)
    height, width = size
    rng = np.random.default_rng([seed, 5])
    canvas, _ = background(rng, height, width, SceneOptions())
    boxes: list[list[float]] = []
    class_ids: list[int] = []
    outlines: list[Points] = []
    for _ in range(int(rng.integers(2, MOST + 1))):
        for _ in range(ATTEMPTS):
            box = _box(rng, height, width)
            around = outline_of(0, box)
            if _is_free(around, outlines, height, width):
                class_id = int(rng.integers(len(LONG_CLASSES)))
                _paint(rng, canvas, outline_of(class_id, box))
                boxes.append(box)
                class_ids.append(class_id)
                outlines.append(around)
                break
    table = np.array(boxes, np.float32).reshape(-1, 5)
    return LongScene(sense(rng, canvas), table, np.array(class_ids, np.int64))


def _box(rng: np.random.Generator, height: int, width: int) -> list[float]:
    side = min(height, width)
    longer = side * math.exp(rng.uniform(math.log(LONGER[0]), math.log(LONGER[1])))
    shorter = max(longer / rng.uniform(*RATIO), 8.0)
    centre_x, centre_y = rng.uniform(0, width), rng.uniform(0, height)
    return [float(centre_x), float(centre_y), float(longer), float(shorter), float(rng.uniform(-np.pi / 2, np.pi / 2))]


def outline_of(class_id: int, box: Sequence[float]) -> Points:
    """The outline (k, 2) of a class that fills an oriented box."""
    name = LONG_CLASSES[class_id]
    if name == "bar":
        unit = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    elif name == "ellipse":
        turn = 2 * np.pi * np.arange(64) / 64
        unit = np.stack([np.cos(turn), np.sin(turn)], 1) / 2
    else:
        unit = np.array([(-0.5, -0.5), (0.5, 0.0), (-0.5, 0.5)])
    x, y, width, height, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (unit * (width, height)) @ np.array([[cos, sin], [-sin, cos]])
    return np.asarray(turned + np.array((x, y)), np.float64)


def _is_free(around: Points, others: Sequence[Points], height: int, width: int) -> bool:
    """Whether a box is inside the image and touches no other."""
    import cv2

    if (around < 1).any() or (around > (width - 1, height - 1)).any():
        return False
    grown = (around - around.mean(0)) * 1.1 + around.mean(0)
    return all(cv2.intersectConvexConvex(grown.astype(np.float32), one.astype(np.float32))[0] <= 0 for one in others)


def _paint(rng: np.random.Generator, canvas: npt.NDArray[np.float32], outline: Points) -> None:
    left, top = (max(0, int(one)) for one in outline.min(0))
    right, bottom = (int(one) + 1 for one in outline.max(0))
    target = canvas[top:bottom, left:right]
    colour = COLOURS[contrasting_colour(rng, target.mean((0, 1)))]
    paint = np.array(colour, np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
    cover = coverage(outline, left, top, *target.shape[:2])[:, :, None]
    target += cover * (paint - target)


def write_long_scenes(folder: str | Path, seeds: Sequence[int], size: tuple[int, int] = (256, 256)) -> Path:
    """Write the scenes of some seeds as PNG images with annotations.json, whose segmentations are the four corners of
    the oriented boxes; return that file's path.

    Raises:
        InputError: a file cannot be written.
    """
    import cv2

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        drawn = long_scene(seed, size)
        name = f"{seed:08d}.png"
        if not cv2.imwrite(str(place / name), drawn.image):
            raise InputError(f"cannot write {place / name}: check that the folder is writable and has room")
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for box, class_id in zip(drawn.boxes.tolist(), drawn.class_ids.tolist(), strict=True):
            annotations.append(_annotation(len(annotations) + 1, number, class_id, box))
    categories = [{"id": class_id, "name": name} for class_id, name in enumerate(LONG_CLASSES)]
    path = place / "annotations.json"
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    path.write_text(text, encoding="utf-8")
    return path


def _annotation(number: int, image_id: int, class_id: int, box: list[float]) -> dict[str, Any]:
    corners = outline_of(0, box)
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": class_id,
        "bbox": [round(float(one), 3) for one in (left, top, right - left, bottom - top)],
        "area": box[2] * box[3],
        "iscrowd": 0,
        "segmentation": [[round(float(one), 3) for one in corners.ravel()]],
    }
