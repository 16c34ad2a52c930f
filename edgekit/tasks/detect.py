"""Detection: raw heads become boxes, scores and classes in the pixels of the original image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import edgekit.tasks.decoders  # noqa: F401 - registers the decoders edgekit knows
from edgekit.errors import ContractError
from edgekit.images import Floats, Transform
from edgekit.manifest import Contract
from edgekit.results import Detections
from edgekit.tasks.decoding import Candidates, Frame, Heads, check_finite, find
from edgekit.tasks.nms import non_maximum_suppression


class Detect:
    """Postprocessing of one detection contract.

    Raises:
        ContractError: the decoder is unknown, or its options are wrong.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._decoder = find(contract.decoder)
        self._options = self._decoder.read(contract.decoder.options)
        self._frame = Frame(*contract.image.size, len(contract.classes))
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
        if len(outputs) != len(self.contract.outputs):
            names = ", ".join(output.name for output in self.contract.outputs)
            raise ContractError(f"the graph gave {len(outputs)} outputs, the contract names {names}")
        try:
            heads: Heads = {role: [outputs[index] for index in order] for role, order in self._order.items()}
            found = self._decoder.run(heads, self._options, self._frame, threshold)
        except (KeyError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{o.name} {a.shape}" for o, a in zip(self.contract.outputs, outputs, strict=False))
            problem = f"no output has the role {error}" if isinstance(error, KeyError) else error
            raise ContractError(
                f"decoder {self._decoder.name!r} cannot read the outputs {shapes}: {problem}"
            ) from error
        check_finite(found.boxes)  # of decoded anchors only: nobody reads the others
        check_finite(found.scores)
        return found

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """What NMS leaves of candidates, best first, at most ``most``."""
        post = self.contract.postprocess
        if post.nms:
            limit = post.iou_threshold if iou is None else iou
            kept = non_maximum_suppression(
                found.boxes, found.scores, found.class_ids, limit, class_agnostic=post.class_agnostic
            )
        else:
            kept = np.argsort(-found.scores, kind="stable")
        kept = kept[: post.max_detections if most is None else most]
        return Candidates(found.boxes[kept], found.scores[kept], found.class_ids[kept], found.anchors[kept])

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Detections:
        """Detections in original pixels, best first; ``score`` and ``iou`` override the contract's thresholds."""
        threshold = self.contract.postprocess.score_threshold if score is None else score
        kept = self.suppressed(self.candidates(outputs, threshold), iou=iou)
        return Detections(
            boxes=mapping.to_original(kept.boxes),
            scores=kept.scores,
            class_ids=kept.class_ids,
            classes=self.contract.classes,
            size=(mapping.width, mapping.height),
        )


def open_task(contract: Contract) -> Detect:
    """The detection task of a contract."""
    return Detect(contract)
