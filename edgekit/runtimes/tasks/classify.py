"""Classification: one value a class becomes the scores of the whole image."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.arrays import Floats
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import Classification
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.decoders.classes import Classes, scores_of
from edgekit.runtimes.tasks.detect import Detect

ROLES: tuple[str, ...] = ()
"""Roles of outputs that this task has beside those of its decoder."""


class Classify(Detect):
    """Postprocessing of one classification contract.

    Raises:
        ContractError: as `Detect`.
    """

    measure = ""
    gives = Classification

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """All candidates: every box is the whole input, so NMS does not apply."""
        return found

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Classification:
        """Scores of all classes; ``score`` replaces the contract's threshold of labels, ``iou`` means nothing here."""
        with self._reading(outputs):
            scores = scores_of(self.heads(outputs), self._options, len(self.contract.classes))
        return Classification(
            scores=scores,
            classes=self.contract.classes,
            size=(mapping.width, mapping.height),
            multi_label=self._options.activation == "sigmoid",
            threshold=self.contract.postprocess.score if score is None else score,
        )


def open_task(contract: Contract) -> Classify:
    """The classification task of a contract.

    Raises:
        ContractError: the decoder is not one of classes.
    """
    task = Classify(contract)
    if not isinstance(task._options, Classes):
        raise ContractError(f"decoder {contract.decoder.name!r} gives no score for each class; valid: classes")
    return task
