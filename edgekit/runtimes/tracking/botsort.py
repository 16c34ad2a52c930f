"""BoT-SORT (Aharon et al., arXiv 2206.14651): ByteTrack with camera motion and, given embeddings, appearance."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from edgekit.arrays import Doubles, Floats, Image, Ints
from edgekit.runtimes.tracking import kalman
from edgekit.runtimes.tracking.bytetrack import ByteTrack, ByteTrackOptions
from edgekit.runtimes.tracking.camera_motion import CameraMotion
from edgekit.runtimes.tracking.detections import Observed
from edgekit.runtimes.tracking.options import Share, TrackerOptions


class BoTSortOptions(ByteTrackOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of BoT-SORT, besides those of ByteTrack. Defaults are the paper's and its code's.

    Args:
        camera_motion: how the motion of the camera is found where images are given: "sparse_flow" (corners followed by
            Lucas-Kanade, the paper's), "orb" (features matched anew, for large jumps), or "off".
        downscale: images are made this many times smaller for it; 2.
        max_distance: half the cosine distance up to which two appearances may be one object's; 0.25.
        min_proximity: IoU below which appearance is not asked; 0.5.
        memory: share of its old appearance that a track keeps at each detection; 0.9.
    """

    camera_motion: Literal["sparse_flow", "orb", "off"] = "sparse_flow"
    downscale: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    max_distance: Share = 0.25
    min_proximity: Share = 0.5
    memory: Share = 0.9


class BoTSort(ByteTrack):
    """BoT-SORT. Without images it ignores camera motion, and without embeddings appearance."""

    Options: ClassVar[type[TrackerOptions]] = BoTSortOptions
    options: BoTSortOptions
    uses_image: ClassVar[bool] = True
    uses_embeddings: ClassVar[bool] = True

    def reset(self) -> None:
        """Forget everything, for a new stream; ids count from 1 again."""
        super().reset()
        self._camera = CameraMotion(self.options.camera_motion, self.options.downscale)

    def _see(self, image: Image, boxes: Floats) -> None:
        affine = self._camera.since_last(image, boxes)
        if affine is not None and len(self._table):
            self._table.motion = kalman.moved(self._table.motion, affine)

    def _closeness(self, similarity: Floats, found: Observed) -> Floats:
        fused = super()._closeness(similarity, found)
        if found.embeddings is None:
            return fused
        known = self._table.embeddings
        alike = 0.5 + 0.5 * (known @ found.embeddings.T)  # 1 - half the cosine distance
        alike[~known.any(1)] = 0
        alike[alike < 1 - self.options.max_distance] = 0
        alike[similarity < self.options.min_proximity] = 0
        closest: Floats = np.maximum(fused, alike)
        return closest

    def _corrected(self, rows: Ints, expected: Doubles, found: Observed, at: Ints, time: float) -> Doubles:
        if found.embeddings is not None:
            # Weak detections are matched by place alone and are mostly half hidden: what they look like is not learnt.
            strong = found.scores[at] >= self.options.high_score
            self._remember(rows[strong], found.embeddings[at[strong]])
        return super()._corrected(rows, expected, found, at, time)

    def _remember(self, rows: Ints, embeddings: Floats) -> None:
        old = self._table.embeddings[rows]
        share = np.where(old.any(1, keepdims=True), np.float32(self.options.memory), np.float32(0))
        mixed = share * old + (1 - share) * embeddings
        length = np.linalg.norm(mixed, axis=1, keepdims=True)
        self._table.embeddings[rows] = mixed / np.where(length > 0, length, np.float32(1))


TRACKER = BoTSort
