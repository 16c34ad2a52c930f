"""Oriented boxes: detections whose boxes are turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.runtimes.results.columns import column
from edgekit.runtimes.results.detections import Detections

AnyFloats = NDArray[np.floating[Any]]
"""Boxes in float32, or in float64 where differences of areas matter."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OrientedBoxes(Detections):
    """The objects found in one image, each in a box at any angle.

    Args:
        oriented: float32 (n, 5): centre x, centre y, width, height in continuous pixels of the ORIGINAL image, and the
            angle in radians from the x axis to the width, clockwise on the screen. A task gives the longer side as the
            width, and angles in [-pi/2, pi/2). They may reach out of the image.

    ``boxes`` are the upright boxes around them, inside the image. The others are those of `Detections`.

    Raises:
        UsageError: as `Detections`.
    """

    oriented: Floats = field(metadata=column("oriented", np.float32, (5,)))

    @property
    def corners(self) -> Floats:
        """The corners float32 (n, 4, 2) of the oriented boxes, in turn, clockwise on the screen."""
        return corners_of(self.oriented).astype(np.float32)

    @property
    def degrees(self) -> NDArray[np.float32]:
        """The angles float32 (n,) in degrees."""
        turned: Floats = np.degrees(self.oriented[:, 4])
        return turned

    def _outlines(self) -> Floats:
        return self.corners

    def _coco(self) -> Sequence[dict[str, Any]]:
        """``segmentation`` as the polygon of the four corners; ``oriented`` as the five numbers."""
        polygons, boxes = self.corners.reshape(len(self), 8).tolist(), self.oriented.tolist()
        return [
            {**row, "segmentation": [polygon], "oriented": box}
            for row, polygon, box in zip(super()._coco(), polygons, boxes, strict=True)
        ]

    def to_supervision(self) -> Any:
        """As `Detections.to_supervision`, with the corners (n, 4, 2) as ``data["xyxyxyxy"]``."""
        other = super().to_supervision()
        other.data["xyxyxyxy"] = self.corners
        return other


def corners_of(boxes: AnyFloats) -> AnyFloats:
    """The corners (n, 4, 2) of oriented boxes (n, 5), in turn, clockwise on the screen."""
    along, across = half_sides(boxes)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [boxes[:, :2] + first * along + second * across for first, second in signs]
    return np.stack(corners, 1)


def half_sides(boxes: AnyFloats) -> tuple[AnyFloats, AnyFloats]:
    """Half of each side of oriented boxes (n, 5) as a vector: (n, 2) along the width and (n, 2) along the height."""
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    half = boxes[:, 2:4] / 2
    return np.stack([cos, sin], 1) * half[:, :1], np.stack([-sin, cos], 1) * half[:, 1:]
