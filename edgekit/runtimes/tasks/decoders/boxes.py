"""The detection heads edgekit knows, each a function from raw heads to candidates in input pixels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders import (
    Candidates,
    Frame,
    Heads,
    at_anchors,
    attached,
    cell_corners,
    check_finite,
    decoder,
    from_centres,
    gather,
    grid_of,
    logit,
    planes,
    sigmoid,
    softmax,
    survivors,
)

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class AnchorFree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first; ``reg_max`` bins of the distance distribution, 1 for plain distances.

    Keypoints of a pose head are at ``(value * keypoint_scale + cell + keypoint_offset) * stride``: 2 and 0 in YOLOv8
    and 11, 1 and 0.5 in YOLO26.
    """

    strides: tuple[Count, ...]
    reg_max: Count = 16
    keypoint_scale: Positive = 2.0
    keypoint_offset: float = 0.0


def _anchor_free_fused(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> Decoder | None:
    fits = len(shape) == 3 and shape[1] == 4 + classes
    return Decoder(name="decoded", options={"box_format": "xywh"}) if fits else None


def _anchor_free_channels(options: AnchorFree, classes: int) -> dict[str, int]:
    return {"boxes": 4 * options.reg_max, "classes": classes}


@decoder("anchor_free", channels=_anchor_free_channels, fused=_anchor_free_fused)
def anchor_free(heads: Heads, options: AnchorFree, frame: Frame, threshold: float) -> Candidates:
    """YOLOv8, 11 (with DFL) and 26 (without): distances left, top, right, bottom from the cell's centre, in strides.

    Distribution focal loss heads give each distance as logits over ``reg_max`` bins, whose expectation is the
    distance (Li et al., Generalized Focal Loss, 2020).
    """
    cut, parts, first = logit(threshold), [], 0
    bins = np.arange(options.reg_max, dtype=np.float32)[None, :, None]
    for stride, boxes, classes in zip(options.strides, heads["boxes"], heads["classes"], strict=True):
        rows, columns = size = grid_of(classes, frame, stride)
        found = survivors(planes(classes, frame.classes, size), cut)
        distances = planes(boxes, 4 * options.reg_max, size)[:, found.cells].reshape(4, options.reg_max, -1)
        # A sum, not a matrix product: BLAS threads would go on spinning on the core the next inference needs.
        reach = (softmax(distances, 1) * bins).sum(1) if options.reg_max > 1 else distances[:, 0]
        column, row = cell_corners(found.cells, columns)
        x, y, half = column, row, np.float32(0.5)
        corners = np.stack([x + half - reach[0], y + half - reach[1], x + half + reach[2], y + half + reach[3]], 1)
        parts.append(
            Candidates(corners * np.float32(stride), sigmoid(found.logits), found.class_ids, found.cells + first)
        )
        first += rows * columns
    return gather(parts)


@attached("anchor_free", "coefficients")
def _anchor_free_coefficients(heads: Heads, options: AnchorFree, frame: Frame, anchors: Ints) -> Floats:
    """Mask coefficients (n, m) of a prototype head (YOLACT, Bolya et al. 2019)."""
    return at_anchors(heads["coefficients"], anchors)[0]


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strides in pixels, finest first."""

    strides: tuple[Count, ...]


@decoder("grid", channels=lambda options, classes: {"boxes": 4, "objectness": 1, "classes": classes}, align="corner")
def grid(heads: Heads, options: Grid, frame: Frame, threshold: float) -> Candidates:
    """YOLOX: centre offsets and log sizes in strides; score = sigmoid(objectness) * sigmoid(class).

    (Ge et al., YOLOX, 2021.)
    """
    parts, first, cut = [], 0, logit(threshold)
    levels = zip(options.strides, heads["boxes"], heads["objectness"], heads["classes"], strict=True)
    for stride, boxes, objectness, classes in levels:
        rows, columns = size = grid_of(classes, frame, stride)
        (presence,) = planes(objectness, 1, size)
        check_finite(presence)
        found = survivors(planes(classes, frame.classes, size), cut)  # a product passes only where both factors do
        scores = sigmoid(found.logits) * sigmoid(presence[found.cells])
        keep = scores > threshold
        cells, step = found.cells[keep], np.float32(stride)
        values = planes(boxes, 4, size)[:, cells]
        check_finite(values)  # the exponential makes an innocent 0 of a negative infinity
        offset_x, offset_y, log_width, log_height = values
        column, row = cell_corners(cells, columns)
        corners = from_centres(
            (column + offset_x) * step, (row + offset_y) * step, np.exp(log_width) * step, np.exp(log_height) * step
        )
        parts.append(Candidates(corners, scores[keep], found.class_ids[keep], cells + first))
        first += rows * columns
    return gather(parts)


class FastestDet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exponents of the score; ``activated`` when sigmoid and softmax are in the graph (the model before its cut)."""

    objectness_power: Positive = 0.6
    class_power: Positive = 0.4
    activated: bool = False


def _fastestdet_channels(options: FastestDet, classes: int) -> dict[str, int]:
    return {"predictions": 5 + classes} if options.activated else {"objectness": 1, "boxes": 4, "classes": classes}


def _fastestdet_fused(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> Decoder | None:
    fits = len(shape) == 4 and shape[1] == 5 + classes
    return Decoder(name="fastestdet", options={**options, "activated": True}) if fits else None


@decoder("fastestdet", channels=_fastestdet_channels, fused=_fastestdet_fused)
def fastestdet(heads: Heads, options: FastestDet, frame: Frame, threshold: float) -> Candidates:
    """FastestDet: one level; score = objectness^0.6 * class^0.4, centre = (tanh(xy) + cell) / grid, size = sigmoid.

    With ``activated`` the one role is ``predictions``: [objectness, x, y, w, h, classes...] along the channels.
    (github.com/dog-qiuqiu/FastestDet.)
    """
    if options.activated:
        (fused,) = heads["predictions"]
        objectness, boxes, classes = fused[:, :1], fused[:, 1:5], fused[:, 5:]
    else:
        (objectness,), (boxes,), (classes,) = heads["objectness"], heads["boxes"], heads["classes"]
    rows, columns = size = classes.shape[2:]
    (presence,) = planes(objectness, 1, size)
    check_finite(presence)
    # The class factor is at most 1, so the objectness alone has to pass before any softmax is worth its time.
    least = threshold ** (1 / options.objectness_power) if threshold > 0 else -1.0
    cells = np.flatnonzero(presence > (least if options.activated else logit(least)))
    chosen = planes(classes, frame.classes, size)[:, cells]
    check_finite(chosen)
    probability = chosen if options.activated else softmax(chosen, 0)
    confidence = presence[cells] if options.activated else sigmoid(presence[cells])
    best = probability.max(0, initial=0)
    scores = (confidence**options.objectness_power * best**options.class_power).astype(np.float32)
    keep = scores > threshold
    cells = cells[keep]
    values = planes(boxes, 4, size)[:, cells]
    check_finite(values)  # tanh and sigmoid make innocent numbers of infinities
    x, y, width, height = values
    column, row = cell_corners(cells, columns)
    centre_x, centre_y = (np.tanh(x) + column) / np.float32(columns), (np.tanh(y) + row) / np.float32(rows)
    corners = from_centres(centre_x, centre_y, sigmoid(width), sigmoid(height))
    corners *= np.array([frame.width, frame.height, frame.width, frame.height], np.float32)
    return Candidates(corners, scores[keep], probability[:, keep].argmax(0), cells)


class Priors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SSD anchors: per level a stride and the (width, height) in pixels of each prior at a cell's centre.

    ``variances`` scale the four regressions. ``score`` is how class logits become scores; softmax heads have a
    background class, at ``background``.
    """

    strides: tuple[Count, ...]
    priors: tuple[tuple[tuple[Positive, Positive], ...], ...]
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    score: Literal["softmax", "sigmoid"] = "softmax"
    background: Literal["first", "last"] = "first"


def _ssd_channels(options: Priors, classes: int) -> dict[str, int]:
    per_cell = {len(level) for level in options.priors}
    if len(per_cell) != 1:
        raise ContractError(
            "levels with different numbers of priors: name the tensors to cut at (cut: in the contract)"
        )
    (count,) = per_cell
    return {"boxes": 4 * count, "classes": count * (classes + (options.score == "softmax"))}


@decoder("ssd", channels=_ssd_channels)
def ssd(heads: Heads, options: Priors, frame: Frame, threshold: float) -> Candidates:
    """SSD with priors: offsets of the prior's centre and log ratios of its size (Liu et al., SSD, 2016).

    Channels are prior-major: (prior, 4) and (prior, class) as torchvision and the original lay them out.
    """
    parts, first = [], 0
    levels = zip(options.strides, options.priors, heads["boxes"], heads["classes"], strict=True)
    for stride, priors, boxes, classes in levels:
        rows, columns = size = grid_of(classes, frame, stride)
        kinds, logit_count = len(priors), frame.classes + (options.score == "softmax")
        logits = planes(classes, kinds * logit_count, size).reshape(kinds, logit_count, -1)
        check_finite(logits.max(1))
        scores, class_ids = _ssd_scores(logits, options)
        kind, cells = np.nonzero(scores > threshold)
        prior = np.array(priors, np.float32)[kind]
        shift = planes(boxes, 4 * kinds, size).reshape(kinds, 4, -1)[kind, :, cells] * np.array(
            options.variances, np.float32
        )
        check_finite(shift)
        column, row = cell_corners(cells, columns)
        half, step = np.float32(0.5), np.float32(stride)
        corners = from_centres(
            (column + half) * step + shift[:, 0] * prior[:, 0],
            (row + half) * step + shift[:, 1] * prior[:, 1],
            np.exp(shift[:, 2]) * prior[:, 0],
            np.exp(shift[:, 3]) * prior[:, 1],
        )
        anchors = first + cells * kinds + kind
        parts.append(Candidates(corners, scores[kind, cells], class_ids[kind, cells], anchors))
        first += rows * columns * kinds
    return gather(parts)


def _ssd_scores(logits: Floats, options: Priors) -> tuple[Floats, Ints]:
    """Best score and class of every prior, (priors, cells) each, from logits (priors, classes, cells)."""
    if options.score == "sigmoid":
        return sigmoid(logits.max(1)), logits.argmax(1)
    probability = softmax(logits, 1)
    foreground = probability[:, 1:] if options.background == "first" else probability[:, :-1]
    return foreground.max(1), foreground.argmax(1)


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
    attached: Annotated[int, msgspec.Meta(ge=0)] = 0


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


def matrix(head: Floats) -> Floats:
    """The one table in a head (1, rows, columns)."""
    return head.reshape(head.shape[-2:])


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
