"""Semantic segmentation: the class of every pixel of the original image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import LabelMap
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.decoders.semantic import Semantic, logits_of
from edgekit.runtimes.tasks.detect import Detect
from edgekit.runtimes.tasks.similarity import mask_iou

ROLES: tuple[str, ...] = ()
"""Roles of outputs that this task has beside those of its decoder."""


class Segmentation(Detect):
    """Postprocessing of one contract of semantic segmentation.

    Candidates are regions, one for each class in an image, so that source and bundle are compared region by region,
    and cell by cell.

    Raises:
        ContractError: as `Detect`.
    """

    measure = "region IoU"
    gives = LabelMap
    dense = True

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """All regions, best first: no two share a cell."""
        return found[np.argsort(-found.scores, kind="stable")]

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """The IoU of their masks, (n, m)."""
        if first.attached is None or second.attached is None:
            raise TypeError("regions are compared by masks, which these candidates lack")
        return mask_iou(first.attached, second.attached)

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> LabelMap:
        """The class of each original pixel; ``score`` and ``iou`` mean nothing here.

        Logits are scaled bilinearly to the input, without its padding to the original, and then compared.
        """
        with self._reading(outputs):
            logits = logits_of(self.heads(outputs), self._options, len(self.contract.classes))
        labels = _largest(logits, (self._frame.height, self._frame.width), mapping)
        return LabelMap(labels=labels, classes=self.contract.classes, size=(mapping.width, mapping.height))


def _largest(logits: Floats, size: tuple[int, int], mapping: Transform) -> NDArray[np.integer[Any]]:
    """The class with the largest logit at each pixel of the original, uint8 or uint16 (height, width).

    Args:
        logits: (classes, rows, columns) of an input of ``size`` (height, width).
        size: of the input.
        mapping: from the original to the input.
    """
    import cv2

    width, height = mapping.resized
    left, top = int(mapping.offset_x), int(mapping.offset_y)
    best = np.full((mapping.height, mapping.width), -np.inf, np.float32)
    labels: NDArray[np.integer[Any]] = np.zeros(best.shape, np.uint8 if len(logits) <= 256 else np.uint16)
    for class_id, plane in enumerate(logits):  # one after the other: all at once would take gigabytes
        whole = np.asarray(cv2.resize(np.ascontiguousarray(plane), size[::-1]))
        seen = np.ascontiguousarray(whole[top : top + height, left : left + width])
        fine = np.asarray(cv2.resize(seen, (mapping.width, mapping.height)))
        labels[fine > best] = class_id
        np.maximum(best, fine, out=best)
    return labels


def open_task(contract: Contract) -> Segmentation:
    """The task of a contract.

    Raises:
        ContractError: the decoder is not one of label maps, or the image rule leaves a part of the image out.
    """
    task = Segmentation(contract)
    if not isinstance(task._options, Semantic):
        raise ContractError(f"decoder {contract.decoder.name!r} gives no class for each cell; valid: semantic")
    if contract.image.resize == "crop":
        raise ContractError(
            "image.resize must be letterbox or stretch for the task 'semantic', not crop: the network would not see "
            "all of the image"
        )
    return task
