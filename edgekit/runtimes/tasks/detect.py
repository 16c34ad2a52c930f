"""Detection: raw heads become boxes, scores and classes in the pixels of the original image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import Detections, Result
from edgekit.runtimes.tasks.decoders import Candidates, Frame, Heads, check_finite, every_decoder, find
from edgekit.runtimes.tasks.nms import non_maximum_suppression
from edgekit.runtimes.tasks.similarity import box_agreement, box_areas

ROLES: tuple[str, ...] = ()
"""Roles of outputs that this task has beside those of its decoder."""


class Detect:
    """Postprocessing of one detection contract, and of tasks that add something to each box.

    Raises:
        ContractError: the decoder is unknown, its options are wrong, or it is one of another task.
    """

    attached: str = ""
    """Role of the heads that say what this task has beside the boxes; empty for boxes alone."""

    measure: str = "IoU"
    """The name of `similarity`; empty where objects agree or do not."""

    gives: type[Result] = Detections
    """The type of its results."""

    dense: bool = False
    """Whether its candidates are regions that share an image among them, so that cells can be compared too."""

    oriented: bool = False
    """Whether what is attached to its candidates are oriented boxes, so that angles can be compared too."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._decoder = find(contract.decoder)
        self._options = self._decoder.read(contract.decoder.options)
        keypoints = len(contract.skeleton.names) if contract.skeleton else 0
        self._frame = Frame(*contract.image.size, len(contract.classes), keypoints)
        whole = self._decoder.task == contract.task
        if not whole and (self._decoder.task != "detect" or self.attached not in self._decoder.attachments):
            able = sorted(
                name
                for name, one in every_decoder().items()
                if one.task == contract.task or self.attached in one.attachments
            )
            raise ContractError(
                f"decoder {contract.decoder.name!r} is not one for the task {contract.task!r}; valid: {', '.join(able)}"
            )
        levels: dict[str, list[tuple[int, int]]] = {}
        for index, output in enumerate(contract.outputs):
            levels.setdefault(output.role, []).append((output.level, index))
        self._order = {role: [index for _, index in sorted(found)] for role, found in levels.items()}

    def candidates(self, outputs: Sequence[Floats], threshold: float) -> Candidates:
        """Decoded boxes in input pixels with a score above ``threshold``, before NMS.

        Args:
            outputs: raw arrays in the contract's order.
            threshold: 0..1.

        Raises:
            EngineError: NaN or infinite values.
            ContractError: the outputs do not have the roles or the shapes that the decoder expects.
        """
        with self._reading(outputs):
            found = self._decoder.run(self.heads(outputs), self._options, self._frame, threshold)
        check_finite(found.boxes)  # of decoded anchors only: nobody reads the others
        check_finite(found.scores)
        return found

    def heads(self, outputs: Sequence[Floats]) -> Heads:
        """Raw arrays in the contract's order, by role."""
        if len(outputs) != len(self.contract.outputs):
            names = ", ".join(output.name for output in self.contract.outputs)
            raise ContractError(f"the graph gave {len(outputs)} outputs, the contract names {names}")
        return {role: [outputs[index] for index in order] for role, order in self._order.items()}

    @contextmanager
    def _reading(self, outputs: Sequence[Floats]) -> Iterator[None]:
        """Raise errors of a decoder with the names and shapes of its outputs."""
        try:
            yield
        except (KeyError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{o.name} {a.shape}" for o, a in zip(self.contract.outputs, outputs, strict=False))
            problem = f"no output has the role {error}" if isinstance(error, KeyError) else error
            raise ContractError(
                f"decoder {self._decoder.name!r} cannot read the outputs {shapes}: {problem}"
            ) from error

    def with_attached(self, outputs: Sequence[Floats], found: Candidates) -> Candidates:
        """The candidates with keypoints, masks and the like, which are decoded after NMS only.

        Raises:
            EngineError, ContractError: as `candidates`.
        """
        if not self.attached or found.attached is not None:
            return found
        with self._reading(outputs):
            attached = self._decoder.attachments[self.attached](
                self.heads(outputs), self._options, self._frame, found.anchors
            )
        check_finite(attached)
        return dataclasses.replace(found, attached=attached)

    def comparable(self, outputs: Sequence[Floats], found: Candidates) -> Candidates:
        """The candidates with everything that `similarity` needs."""
        return self.with_attached(outputs, found)

    def areas(self, found: Candidates) -> Floats:
        """The area (n,) of each box in input pixels."""
        return box_areas(found.boxes)

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """How alike each object of one run is to each of another, (n, m) 0..1: the IoU of their boxes."""
        return box_agreement(first.boxes, second.boxes)

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """Candidates after NMS, best first, at most ``most``."""
        post = self.contract.postprocess
        if post.nms:
            limit = post.iou if iou is None else iou
            kept = non_maximum_suppression(
                found.boxes, found.scores, found.class_ids, limit, class_agnostic=post.class_agnostic
            )
        else:
            kept = np.argsort(-found.scores, kind="stable")
        return found[kept[: post.max_detections if most is None else most]]

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Result:
        """Detections in original pixels, best first; ``score`` and ``iou`` override the contract's thresholds."""
        return Detections(**self.columns(self.kept(outputs, score, iou), mapping))

    def kept(self, outputs: Sequence[Floats], score: float | None, iou: float | None) -> Candidates:
        """Candidates after thresholds and NMS, best first, with keypoints, masks and the like."""
        threshold = self.contract.postprocess.score if score is None else score
        return self.with_attached(outputs, self.suppressed(self.candidates(outputs, threshold), iou=iou))

    def columns(self, kept: Candidates, mapping: Transform) -> dict[str, Any]:
        """The columns that all results with boxes share, in original pixels."""
        return {
            "boxes": mapping.to_original(kept.boxes),
            "scores": kept.scores,
            "class_ids": kept.class_ids,
            "classes": self.contract.classes,
            "size": (mapping.width, mapping.height),
        }


def open_task(contract: Contract) -> Detect:
    """The detection task of a contract."""
    return Detect(contract)
