"""Instance segmentation: boxes with mask coefficients, which weigh prototypes, become masks in original pixels.

A mask is the sigmoid of the sum of prototypes, each times one of the object's coefficients, cut to its box (YOLACT,
Bolya et al. 2019). Only the objects that NMS leaves are multiplied out, each only inside its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform, warp_matrix
from edgekit.runtimes.results import Instances, Masks
from edgekit.runtimes.tasks.decoders import Candidates, check_finite
from edgekit.runtimes.tasks.detect import Detect
from edgekit.runtimes.tasks.similarity import box_agreement, mask_iou

ROLES: tuple[str, ...] = ("coefficients", "prototypes")
"""Roles of outputs that this task has beside those of its decoder."""

PROTOTYPES = "prototypes"


class Segment(Detect):
    """Postprocessing of one segmentation contract.

    Raises:
        ContractError: as `Detect`, or no output has the role ``prototypes``.
    """

    attached = "coefficients"
    measure = "mask IoU"
    gives = Instances

    def __init__(self, contract: Contract) -> None:
        super().__init__(contract)
        if PROTOTYPES not in self._order:
            roles = ", ".join(sorted(self._order))
            raise ContractError(f"a segmentation contract has an output of the role {PROTOTYPES!r}, not only {roles}")

    def comparable(self, outputs: Sequence[Floats], found: Candidates) -> Candidates:
        """The candidates with their masks (n, rows, columns) at the prototypes' resolution, cut to their boxes."""
        whole = self.with_attached(outputs, found)
        prototypes = self._prototypes(outputs, whole)
        rows, columns = prototypes.shape[1:]
        masks = np.zeros((len(whole), rows, columns), np.bool_)
        scale = np.array([columns / self._frame.width, rows / self._frame.height] * 2, np.float32)
        windows = _windows(whole.boxes * scale, columns, rows).tolist()
        for mask, (left, top, right, bottom), weights in zip(masks, windows, _coefficients(whole), strict=True):
            mask[top:bottom, left:right] = _weighed(weights, prototypes[:, top:bottom, left:right]) > 0
        return Candidates(whole.boxes, whole.scores, whole.class_ids, whole.anchors, masks)

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """The IoU of their masks (n, m); of their boxes where neither mask has a cell, which says nothing."""
        if first.attached is None or second.attached is None:
            raise TypeError("instances are compared by masks, which these candidates lack: use comparable() first")
        empty = np.logical_and.outer(~first.attached.any((1, 2)), ~second.attached.any((1, 2)))
        return np.where(empty, box_agreement(first.boxes, second.boxes), mask_iou(first.attached, second.attached))

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Instances:
        """Instances in original pixels, best first; ``score`` and ``iou`` override the contract's thresholds."""
        kept = self.kept(outputs, score, iou)
        columns = self.columns(kept, mapping)
        masks = self._masks(self._prototypes(outputs, kept), kept, columns["boxes"], mapping)
        return Instances(**columns, masks=masks)

    def _prototypes(self, outputs: Sequence[Floats], found: Candidates) -> Floats:
        """The prototypes (m, rows, columns).

        Raises:
            ContractError: not as many as coefficients.
        """
        prototypes = self.heads(outputs)[PROTOTYPES][0]
        if prototypes.ndim != 4 or (len(found) and prototypes.shape[1] != _coefficients(found).shape[1]):
            count = _coefficients(found).shape[1]
            raise ContractError(f"prototypes {prototypes.shape}: (1, {count}, rows, columns) is needed")
        check_finite(prototypes)
        planes: Floats = prototypes[0]
        return planes

    def _masks(self, prototypes: Floats, kept: Candidates, boxes: Floats, mapping: Transform) -> Masks:
        """The masks inside boxes (n, 4) in original pixels."""
        import cv2

        rows, columns = prototypes.shape[1:]
        to_cells = np.array([columns / self._frame.width, rows / self._frame.height])
        scale = np.array([mapping.scale_x, mapping.scale_y]) * to_cells  # cells to an original pixel
        offset = np.array([mapping.offset_x, mapping.offset_y]) * to_cells
        low, high = np.floor(boxes[:, :2]).astype(np.int64), np.ceil(boxes[:, 2:]).astype(np.int64)
        # One cell more on each side, which the interpolation at the border of the box looks at.
        around = np.concatenate([low * scale + offset - 1, high * scale + offset + 1], 1)
        windows = _windows(around, columns, rows)
        shifts = low * scale + offset - windows[:, :2]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crops: list[NDArray[np.bool_]] = []
        for weights, (left, top, right, bottom), size, shift in zip(
            _coefficients(kept), windows.tolist(), np.maximum(high - low, 0).tolist(), shifts, strict=True
        ):
            if min(size) == 0 or right <= left or bottom <= top:
                crops.append(np.zeros((size[1], size[0]), np.bool_))
                continue
            weighed = _weighed(weights, prototypes[:, top:bottom, left:right])
            fine = cv2.warpAffine(
                weighed, warp_matrix(scale, shift), size, flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
            crops.append(np.asarray(fine) > 0)
        return Masks(crops, low, (mapping.width, mapping.height))


def _coefficients(found: Candidates) -> Floats:
    if found.attached is None:
        return np.zeros((len(found), 0), np.float32)
    return np.asarray(found.attached, np.float32)


def _windows(boxes: NDArray[np.floating[Any]], columns: int, rows: int) -> NDArray[np.int64]:
    """The cells that boxes (n, 4) xyxy in cells touch: (n, 4) left, top, right, bottom, the last two exclusive."""
    first, last = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    limits = np.array([columns, rows])
    return np.concatenate([np.maximum(first, 0), np.minimum(last, limits)], 1).astype(np.int64)


def _weighed(weights: Floats, prototypes: Floats) -> Floats:
    """The sum of prototypes (m, h, w) times weights (m,): the logits of a mask."""
    # Not a matrix product: BLAS threads would go on spinning on the core the next inference needs.
    total: Floats = np.einsum("m,mhw->hw", weights, prototypes)
    return total


def open_task(contract: Contract) -> Segment:
    """The segmentation task of a contract."""
    return Segment(contract)
