"""The parts of a scene of shapes: options, placements, and the truth about each visible object."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.shapes.outlines import CLASSES

# The colours that captions and questions name, as BGR.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (40, 35, 215),
    "orange": (20, 135, 245),
    "yellow": (40, 225, 245),
    "green": (60, 165, 45),
    "blue": (215, 85, 30),
    "purple": (170, 45, 130),
    "white": (242, 242, 242),
    "black": (28, 28, 28),
}

BACKGROUNDS: tuple[str, ...] = ("plain", "gradient", "noise", "stripes", "checker", "photographic")


@dataclass(frozen=True)
class SceneOptions:
    """The contents of scenes. Sizes are diameters of the circumscribed circle, as fractions of the shorter side.

    `photographs` is a folder of images; when given, the background kind "photograph" draws crops of them.
    Every object of a still scene shows at least `min_visibility` of its area. Objects are of `classes`, turned by at
    most `most_rotation` degrees either way, and without texture, shading, rim and shadow where `plain`. With a `grid`
    of n each stands near the middle of a cell of n x n, and no two in one.
    """

    min_objects: int = 1
    max_objects: int = 6
    min_size: float = 0.125
    max_size: float = 0.42
    min_visibility: float = 0.55
    backgrounds: tuple[str, ...] = BACKGROUNDS
    photographs: Path | None = None
    distractors: int = 4
    sensor: bool = True
    classes: tuple[str, ...] = CLASSES
    most_rotation: float = 180.0
    plain: bool = False
    grid: int = 0


@dataclass(frozen=True)
class Style:
    """How a shape is painted: its colour with a little variation (BGR), shading, texture, edge and shadow."""

    bgr: tuple[float, float, float]
    shade_angle: float
    shade: float
    texture: str
    edge: float
    shadow: float


@dataclass(frozen=True)
class ShapePlacement:
    """One shape to paint: centre and radius in pixels, rotation in degrees clockwise, 0 = top up."""

    class_id: int
    colour: str
    centre: tuple[float, float]
    radius: float
    rotation: float
    style: Style
    track_id: int


@dataclass(frozen=True, eq=False)
class SceneObject:
    """The truth about one visible shape.

    box: float32 (4,) xyxy, tight around the visible part, continuous pixel coordinates, inside the image.
    full_box: float32 (4,) xyxy of the whole outline, analytic, unclipped and without regard to occlusion.
    mask: bool (H, W), the visible pixels: covered by more than half, so that no pixel is in two masks.
    visibility: visible area / whole area, 0..1.
    keypoints: float32 (5, 3) x, y, v in the order of KEYPOINTS; v as in COCO: 2 visible, 1 occluded, 0 outside the
    image (then x = y = 0). rotation: degrees clockwise in [0, 360).
    """

    class_id: int
    name: str
    colour: str
    box: npt.NDArray[np.float32]
    full_box: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    visibility: float
    keypoints: npt.NDArray[np.float32]
    rotation: float
    track_id: int


@dataclass(frozen=True, eq=False)
class Scene:
    """An image uint8 (H, W, 3) BGR with its objects, farthest first: a later object hides an earlier one."""

    image: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    seed: int
    background: str
    frame: int = field(default=0)
