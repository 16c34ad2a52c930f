"""Classification heads: one value a class for the whole input."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite, sigmoid, softmax
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, decoder


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
