"""Oriented boxes: raw heads become boxes at any angle in the pixels of the original image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import OrientedBoxes
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.detect import Detect
from edgekit.runtimes.tasks.rotated import (
    canonical,
    enclosing,
    rotated_agreement,
    rotated_suppression,
    to_original,
)

ROLES: tuple[str, ...] = ("angles",)
"""Roles of outputs that this task has beside those of its decoder."""


class Oriented(Detect):
    """Postprocessing of one contract of oriented boxes.

    Candidates have the oriented boxes (n, 5) as what is attached, and the upright boxes around them.

    Raises:
        ContractError: as `Detect`.
    """

    attached = "angles"
    measure = "rotated IoU"
    gives = OrientedBoxes
    oriented = True

    def candidates(self, outputs: Sequence[Floats], threshold: float) -> Candidates:
        """Decoded boxes in input pixels with a score above ``threshold``, before NMS; errors as of `Detect`."""
        found = self.with_attached(outputs, super().candidates(outputs, threshold))
        return dataclasses.replace(found, boxes=enclosing(_oriented(found)))

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """Candidates after NMS by ProbIoU, as YOLO's own predictions are made, best first, at most ``most``."""
        post = self.contract.postprocess
        if not post.nms:
            return super().suppressed(found, most=most)
        limit = post.iou if iou is None else iou
        kept = rotated_suppression(
            _oriented(found), found.scores, found.class_ids, limit, class_agnostic=post.class_agnostic
        )
        return found[kept[: post.max_detections if most is None else most]]

    def areas(self, found: Candidates) -> Floats:
        """The area (n,) of each oriented box in input pixels."""
        areas: Floats = _oriented(found)[:, 2:4].prod(1)
        return areas

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """The IoU of the oriented boxes, (n, m)."""
        return rotated_agreement(_oriented(first), _oriented(second))

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> OrientedBoxes:
        """Oriented boxes in original pixels, best first; ``score`` and ``iou`` override the contract's thresholds."""
        kept = self.kept(outputs, score, iou)
        oriented = canonical(to_original(_oriented(kept), mapping))
        size = np.array([mapping.width, mapping.height] * 2, np.float32)
        upright = np.clip(enclosing(oriented), 0, size)
        return OrientedBoxes(**{**self.columns(kept, mapping), "boxes": upright}, oriented=oriented)


def _oriented(found: Candidates) -> Floats:
    if found.attached is None:
        raise TypeError("these candidates lack their oriented boxes: use candidates() of this task")
    return found.attached


def open_task(contract: Contract) -> Oriented:
    """The task of a contract."""
    return Oriented(contract)
