"""Classification: one value a class becomes the scores of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from edgekit.errors import ContractError
from edgekit.images import Floats, Transform
from edgekit.manifest import Contract
from edgekit.results import Classification
from edgekit.tasks.decoding import Candidates, Frame, Heads, check_finite, decoder, sigmoid, softmax
from edgekit.tasks.detect import Detect

ROLES: tuple[str, ...] = ()
"""Roles of outputs that this task has beside those of its decoder."""


class Classes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the values of role ``logits`` become scores: one class of all (``softmax``), any number (``sigmoid``).

    ``activated`` when the graph has done that itself.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"
    activated: bool = False


def scores_of(heads: Heads, options: Classes, classes: int) -> Floats:
    """Scores (classes,) in 0..1.

    Raises:
        ValueError: another number of values than classes.
        EngineError: NaN or infinite values.
    """
    (head,) = heads["logits"]
    if head.size != classes:
        raise ValueError(f"{head.size} values where {classes} are needed, one for each class")
    values = head.reshape(classes).astype(np.float32)
    check_finite(values)
    if options.activated:
        return values
    return softmax(values, 0) if options.activation == "softmax" else sigmoid(values)


@decoder("classes", task="classify", whole=("logits",))
def classes(heads: Heads, options: Classes, frame: Frame, threshold: float) -> Candidates:
    """The classes of the whole input: the best one, or with ``sigmoid`` all above the threshold."""
    scores = scores_of(heads, options, frame.classes)
    ids = np.argsort(-scores, kind="stable")
    ids = ids if options.activation == "sigmoid" else ids[:1]
    ids = ids[scores[ids] > threshold]
    box = np.array([[0, 0, frame.width, frame.height]], np.float32)
    # The anchor of a single label is the image, whatever its class: runs that disagree on it can be told.
    anchors = ids if options.activation == "sigmoid" else np.zeros(len(ids), np.int64)
    return Candidates(np.repeat(box, len(ids), 0), scores[ids], ids, anchors)


class Classify(Detect):
    """Postprocessing of one classification contract.

    Raises:
        ContractError: as `Detect`.
    """

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """All of them: every box is the whole input, and NMS would take the classes for doubles."""
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
            threshold=self.contract.postprocess.score_threshold if score is None else score,
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
