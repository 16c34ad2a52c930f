"""Pose: raw heads become boxes with keypoints in the pixels of the original image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import Poses
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.detect import Detect
from edgekit.runtimes.tasks.similarity import AREA_SHARE, box_areas, keypoint_similarity
from edgekit.runtimes.tasks.skeletons import sigmas_of

ROLES: tuple[str, ...] = ("keypoints",)
"""Roles of outputs that this task has beside those of its decoder."""


class Pose(Detect):
    """Postprocessing of one pose contract.

    Raises:
        ContractError: as `Detect`, or the contract names no keypoints.
    """

    attached = "keypoints"
    measure = "OKS"
    gives = Poses

    def __init__(self, contract: Contract) -> None:
        if contract.skeleton is None:
            raise ContractError("a pose contract names its keypoints: skeleton: coco, or {names: [...], edges, sigmas}")
        super().__init__(contract)
        self._skeleton = contract.skeleton
        self._sigmas = sigmas_of(contract.skeleton)

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """Object keypoint similarity (n, m), with the area of each pose taken from its box."""
        if first.attached is None or second.attached is None:
            raise TypeError("poses are compared by keypoints, which these candidates lack: use comparable() first")
        if not (len(first) and len(second)):
            return np.zeros((len(first), len(second)), np.float32)
        return keypoint_similarity(first.attached, second.attached, AREA_SHARE * box_areas(first.boxes), self._sigmas)

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Poses:
        """Poses in original pixels, best first; ``score`` and ``iou`` override the contract's thresholds."""
        kept = self.kept(outputs, score, iou)
        points = np.zeros((0, len(self._sigmas), 3), np.float32) if kept.attached is None else kept.attached
        return Poses(
            **self.columns(kept, mapping), keypoints=mapping.points_to_original(points), skeleton=self._skeleton
        )


def open_task(contract: Contract) -> Pose:
    """The pose task of a contract."""
    return Pose(contract)
