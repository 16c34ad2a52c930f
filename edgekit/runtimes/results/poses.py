"""Poses: detections with keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError, choices
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.results.columns import Size, column
from edgekit.runtimes.results.detections import ColorBy, Detections
from edgekit.runtimes.results.result import converted

UNDEFINED = -1.0
"""The value of `Poses.angle` for a missing angle: outside 0..180 and, unlike NaN, equal to itself."""


class _Drawn(msgspec.Struct):
    skeleton: Skeleton


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Poses(Detections):
    """The objects found in one image and where their keypoints are.

    Args:
        keypoints: float32 (n, k, 3): x, y in continuous pixels of the ORIGINAL image, and a score 0..1.
        skeleton: names of the k keypoints and the pairs that are joined by a line.

    The others are those of `Detections`.

    Raises:
        UsageError: as `Detections`, or other than k names in the skeleton.
    """

    keypoints: Floats = field(metadata=column("keypoints", np.float32, (-1, 3)))
    skeleton: Skeleton

    def __post_init__(self) -> None:
        super().__post_init__()
        names = len(self.skeleton.names)
        if not len(self):  # no rows do not tell how many keypoints each would have
            object.__setattr__(self, "keypoints", np.zeros((0, names, 3), np.float32))
        if self.keypoints.shape[1] != names:
            raise UsageError(f"keypoints are {self.keypoints.shape[1]} per detection, but the skeleton names {names}")

    def points(self, name: str) -> Floats:
        """One keypoint of every detection, float32 (n, 3): x, y, score.

        Raises:
            UsageError: a name that the skeleton does not have.
        """
        if name not in self.skeleton.names:
            raise UsageError(f"keypoint {choices(name, self.skeleton.names)}")
        return self.keypoints[:, self.skeleton.names.index(name)]

    def angle(self, first: str, middle: str, last: str, *, threshold: float = 0.0) -> Floats:
        """The angle at a keypoint between the lines to two others, float32 (n,) in degrees, 0..180.

        It is never NaN: it is -1 (`UNDEFINED`) where the middle one falls together with one of the others, or where
        one of the three scores less than ``threshold``.

        Raises:
            UsageError: a name that the skeleton does not have.
        """
        begin, corner, end = (self.points(name).astype(np.float64) for name in (first, middle, last))
        one, two = (begin - corner)[:, :2], (end - corner)[:, :2]
        # The arc cosine of the normalised dot product loses half the digits near 0 and 180 degrees; this does not.
        turned = np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0])
        degrees = np.degrees(np.arctan2(turned, (one * two).sum(axis=1)))
        seen = np.minimum.reduce([begin[:, 2], corner[:, 2], end[:, 2]]) >= np.float32(threshold)
        known = seen & one.any(axis=1) & two.any(axis=1)
        return np.where(known, degrees, UNDEFINED).astype(np.float32)

    def draw(
        self,
        image: Image,
        *,
        labels: bool = True,
        scores: bool = True,
        thickness: int | None = None,
        color_by: ColorBy | None = None,
        boxes: bool = True,
        threshold: float = 0.3,
    ) -> Image:
        """A new image with skeletons and boxes drawn, the best on top.

        Args:
            image, labels, scores, thickness, color_by: as `Detections.draw`.
            boxes: draw the boxes and their labels too.
            threshold: score under which a keypoint, and each line to it, is left out.
        """
        from edgekit.runtimes import drawing

        self._check_image(image)
        order = self._worst_first()
        colors = self._color_ids(color_by)[order]
        drawn = drawing.draw_skeletons(image, self.keypoints[order], self.skeleton, colors, threshold, thickness)
        if not boxes:
            return drawn
        return super().draw(drawn, labels=labels, scores=scores, thickness=thickness, color_by=color_by)

    def _body(self) -> dict[str, Any]:
        skeleton = msgspec.json.decode(msgspec.json.encode(self.skeleton))  # lists, not tuples, as JSON has them
        return {**super()._body(), "skeleton": skeleton}

    @classmethod
    def _from_body(cls, document: dict[str, Any], size: Size) -> dict[str, Any]:
        return {**super()._from_body(document, size), "skeleton": converted(document, _Drawn).skeleton}

    def _coco(self) -> Sequence[dict[str, Any]]:
        """``keypoints`` as x, y, score of each; COCO's evaluation leaves the third alone."""
        flat = self.keypoints.reshape(len(self), 3 * len(self.skeleton.names)).tolist()
        return [{**row, "keypoints": points} for row, points in zip(super()._coco(), flat, strict=True)]

    def to_supervision(self) -> Any:
        """As `Detections.to_supervision`, with ``keypoints`` (n, k, 2) and ``keypoint_scores`` (n, k) in ``data``."""
        other = super().to_supervision()
        other.data["keypoints"] = self.keypoints[..., :2].copy()
        other.data["keypoint_scores"] = self.keypoints[..., 2].copy()
        return other
