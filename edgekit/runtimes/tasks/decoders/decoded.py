"""Boxes that the graph decoded itself, and keypoints, mask coefficients or angles beside them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite, from_centres, matrix, sigmoid
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, attached, decoder
from edgekit.runtimes.tasks.decoders.points import points_of


class Decoded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How boxes that the graph decoded itself are written.

    ``layout``: ``channels`` is (1, 4 + classes, n), ``rows`` its transpose, ``detections`` is (1, n, 6) with rows
    x1, y1, x2, y2, score, class, and ``separate`` has roles ``boxes`` (1, n, 4) and ``classes`` (1, n, classes).
    ``objectness`` when a fifth value multiplies the class scores (YOLOv5). ``logits`` when scores need a sigmoid.
    ``attached`` values follow the others in each row: decoded keypoints or mask coefficients.
    """

    layout: Literal["channels", "rows", "detections", "separate"] = "channels"
    box_format: Literal["xyxy", "xywh"] = "xywh"
    normalized: bool = False
    objectness: bool = False
    logits: bool = False
    attached: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0


@decoder("decoded")
def decoded(heads: Heads, options: Decoded, frame: Frame, threshold: float) -> Candidates:
    """Boxes already decoded by the graph, ``xywh`` meaning centre and size. INT8 on these loses every score."""
    boxes, scores, class_ids = _decoded_parts(heads, options, frame.classes)
    anchors = np.flatnonzero(scores > threshold)
    boxes = boxes[anchors].astype(np.float32)
    if options.box_format == "xywh":
        boxes = from_centres(*boxes.T)
    if options.normalized:
        boxes = boxes * np.array([frame.width, frame.height, frame.width, frame.height], np.float32)
    return Candidates(boxes, scores[anchors], class_ids[anchors], anchors)


def _decoded_parts(heads: Heads, options: Decoded, classes: int) -> tuple[Floats, Floats, Ints]:
    """Boxes (n, 4), best scores (n,) and classes (n,)."""
    if options.layout == "separate":
        (boxes,), (values,) = heads["boxes"], heads["classes"]
        if boxes.shape[-1] != 4:
            raise ValueError(f"boxes end in {boxes.shape[-1]} where 4 is needed")
        table = np.concatenate([matrix(boxes), matrix(values)], 1)
    else:
        table = _rows(heads, options)
        table = table[:, : table.shape[1] - options.attached]
    if options.layout == "detections":
        return _detection_rows(table, classes)
    wanted = 4 + options.objectness + classes
    if table.shape[1] != wanted:
        raise ValueError(f"{table.shape[1]} values for each box, but {wanted} are needed for {classes} classes")
    values = table[:, 4 + options.objectness :]
    scores, class_ids = values.max(1), values.argmax(1)
    check_finite(scores)
    scores = sigmoid(scores) if options.logits else scores
    if options.objectness:
        presence = table[:, 4]
        check_finite(presence)
        scores = scores * (sigmoid(presence) if options.logits else presence)
    return table[:, :4], scores, class_ids


def _rows(heads: Heads, options: Decoded) -> Floats:
    """All values of the one head, a row for each box."""
    (predictions,) = heads["predictions"]
    return matrix(predictions).T if options.layout == "channels" else matrix(predictions)


def decoded_attached(heads: Heads, options: Decoded, anchors: Ints) -> Floats:
    """The further values (n, attached) of the boxes at these places."""
    table = _rows(heads, options)
    return table[anchors, table.shape[1] - options.attached :].astype(np.float32)


@attached("decoded", "coefficients")
def _decoded_coefficients(heads: Heads, options: Decoded, frame: Frame, anchors: Ints) -> Floats:
    """Mask coefficients (n, m), which the graph leaves as they are."""
    return decoded_attached(heads, options, anchors)


@attached("decoded", "angles")
def _decoded_angles(heads: Heads, options: Decoded, frame: Frame, anchors: Ints) -> Floats:
    """Oriented boxes (n, 5) that the graph decoded itself: centre and size before the scores, the angle behind them.

    Raises:
        ValueError: boxes that are no centre and size, or another number of values behind the scores than one.
    """
    if options.attached != 1 or options.box_format != "xywh":
        raise ValueError(
            "decoded oriented boxes are box_format: xywh with attached: 1, the angle in radians, not "
            f"{options.box_format} with {options.attached}"
        )
    boxes = _rows(heads, options)[anchors, :4].astype(np.float32)
    if options.normalized:
        boxes = boxes * np.array([frame.width, frame.height] * 2, np.float32)
    return np.concatenate([boxes, decoded_attached(heads, options, anchors)], 1)


def _detection_rows(table: Floats, classes: int) -> tuple[Floats, Floats, Ints]:
    """The parts of rows x1, y1, x2, y2, score, class."""
    if table.shape[1] != 6:
        raise ValueError(f"{table.shape[1]} values for each box, but 6 are needed: x1, y1, x2, y2, score, class")
    check_finite(table[:, 4:])
    class_ids = table[:, 5].astype(np.int64)
    # Rows that the graph only fills up with have no score, and sometimes the class -1.
    wrong = (table[:, 4] > 0) & ((class_ids < 0) | (class_ids >= classes))
    if wrong.any():
        raise ValueError(f"class {class_ids[wrong][0]}, but the contract names {classes} classes")
    return table[:, :4], table[:, 4], class_ids


@attached("decoded", "keypoints")
def _decoded_keypoints(heads: Heads, options: Decoded, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints that the graph decoded itself, in the pixels (or the share) of the input that its boxes are in."""
    points = points_of(decoded_attached(heads, options, anchors), frame.keypoints)
    if options.normalized:
        points[..., :2] *= np.array([frame.width, frame.height], np.float32)
    return points
