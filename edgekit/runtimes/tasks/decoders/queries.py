"""Detection transformers: a set of queries, each with a box and a score for every class, without anchors and NMS."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite, from_centres, logit, matrix, sigmoid, softmax
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, decoder


class Queries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How logits become scores: each class by itself (``sigmoid``), or one of all with a last one for no object."""

    score: Literal["sigmoid", "softmax"] = "sigmoid"


@decoder("queries", whole=("classes", "boxes"))
def queries(heads: Heads, options: Queries, frame: Frame, threshold: float) -> Candidates:
    """DETR (Carion et al. 2020), YOLOS: softmax; Deformable DETR, RT-DETR, D-FINE: sigmoid, several classes a query.

    Roles ``classes`` (1, queries, classes) logits and ``boxes`` (1, queries, 4) centre and size, shares of the input.
    The best ones are chosen here and not in the graph, so that no target has to sort.
    """
    (classes,), (places,) = heads["classes"], heads["boxes"]
    logits, boxes = matrix(classes), matrix(places)
    wanted = frame.classes + (options.score == "softmax")
    if logits.shape[1] != wanted or boxes.shape[1:] != (4,) or len(boxes) != len(logits):
        raise ValueError(f"(1, n, {wanted}) logits and (1, n, 4) boxes are needed")
    check_finite(logits)
    rows, class_ids, scores = _best(logits, options, threshold)
    corners = from_centres(*boxes[rows].T) * np.array([frame.width, frame.height] * 2, np.float32)
    return Candidates(corners.astype(np.float32), scores, class_ids, rows * frame.classes + class_ids)


def _best(logits: Floats, options: Queries, threshold: float) -> tuple[Ints, Ints, Floats]:
    """Query, class and score of everything above the threshold."""
    if options.score == "sigmoid":
        rows, class_ids = np.nonzero(logits > logit(threshold))
        return rows, class_ids, sigmoid(logits[rows, class_ids])
    scores = softmax(logits, 1)[:, :-1]
    class_ids, best = scores.argmax(1), scores.max(1)
    rows = np.flatnonzero(best > threshold)
    return rows, class_ids[rows], best[rows]
