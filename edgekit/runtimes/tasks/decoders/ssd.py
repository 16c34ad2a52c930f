"""SSD, RetinaNet, RetinaFace, BlazeFace and EfficientDet: boxes as differences from priors, landmarks beside them."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import (
    at_places,
    cell_corners,
    check_finite,
    from_centres,
    gather,
    grid_of,
    planes,
    sigmoid,
    softmax,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Counts, Frame, Heads, Positive, attached, decoder
from edgekit.runtimes.tasks.decoders.points import points_of


class Priors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SSD anchors: per level a stride and the (width, height) in pixels of each prior at ``cell_offset`` of a cell.

    That is 0.5, its centre; torchvision's RetinaNet has 0, its corner.

    ``variances`` scale the four regressions. ``score`` is how class logits become scores; softmax heads have a
    background class, at ``background``. ``sizes``: ``log`` ratios to the prior's, or ``plain`` shares of it
    (BlazeFace). ``order`` of the four: ``xywh``, or ``yxhw`` (EfficientDet).
    """

    strides: tuple[Positive, ...]
    priors: tuple[tuple[tuple[Positive, Positive], ...], ...]
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    score: Literal["softmax", "sigmoid"] = "softmax"
    background: Literal["first", "last"] = "first"
    sizes: Literal["log", "plain"] = "log"
    order: Literal["xywh", "yxhw"] = "xywh"
    cell_offset: float = 0.5


def _per_cell(options: Priors) -> tuple[int, ...]:
    return tuple(len(level) for level in options.priors)


def _ssd_channels(options: Priors, classes: int) -> dict[str, Counts]:
    values = classes + (options.score == "softmax")
    return {
        "boxes": tuple(4 * count for count in _per_cell(options)),
        "classes": tuple(count * values for count in _per_cell(options)),
    }


@decoder("ssd", channels=_ssd_channels, per_cell=_per_cell)
def ssd(heads: Heads, options: Priors, frame: Frame, threshold: float) -> Candidates:
    """Offsets of a prior's centre and log ratios of its size (Liu et al., SSD, 2016).

    Channels are prior-major: (prior, 4) and (prior, class) as torchvision and the original lay them out. What a prior
    has in ``boxes`` behind its four values are keypoints (BlazeFace).
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
        values = planes(boxes, kinds * _row(boxes, kinds, frame), size).reshape(kinds, -1, rows * columns)
        corners = _boxes(values[kind, :4, cells], prior, _centres(cells, columns, stride, options), options)
        anchors = first + cells * kinds + kind
        parts.append(Candidates(corners, scores[kind, cells], class_ids[kind, cells], anchors))
        first += rows * columns * kinds
    return gather(parts)


def _row(boxes: Floats, kinds: int, frame: Frame) -> int:
    """Values of a prior: four, and two for each keypoint where the boxes have them too."""
    whole = 4 + 2 * frame.keypoints
    return whole if boxes.shape[1] == kinds * whole else 4


def _centres(cells: Ints, columns: int, stride: float, options: Priors) -> Floats:
    """Centres (n, 2) of the priors of cells in input pixels."""
    return (np.stack(cell_corners(cells, columns), 1) + np.float32(options.cell_offset)) * np.float32(stride)


def _boxes(values: Floats, prior: Floats, centres: Floats, options: Priors) -> Floats:
    """Boxes (n, 4) from regressions (n, 4) of priors (n, 2) at these centres."""
    check_finite(values)
    shift = (values if options.order == "xywh" else values[:, [1, 0, 3, 2]]) * np.array(options.variances, np.float32)
    ratio = np.exp(shift[:, 2:]) if options.sizes == "log" else shift[:, 2:]
    return from_centres(*(centres + shift[:, :2] * prior).T, *(ratio * prior).T)


@attached("ssd", "keypoints")
def _keypoints(heads: Heads, options: Priors, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints (n, k, 3) as offsets from the prior's centre in its sizes, scaled as the centre is (RetinaFace, Deng et
    al. 2019): in heads of their own, or behind the box's four values (BlazeFace, Bazarevsky et al. 2019)."""
    own = heads.get("keypoints")
    at = at_places(heads["boxes"] if own is None else own, anchors, _per_cell(options))
    points = points_of(at.values[:, 4:] if own is None else at.values, frame.keypoints)
    sizes = np.concatenate([np.array(level, np.float32) for level in options.priors])
    starts = np.cumsum([0, *_per_cell(options)])
    prior = sizes[starts[at.levels] + at.kinds][:, None]
    centres = (at.corners + np.float32(options.cell_offset)) * np.array(options.strides, np.float32)[at.levels][:, None]
    shift = points[..., :2] * np.array(options.variances[:2], np.float32)
    points[..., :2] = centres[:, None] + shift * prior
    return points


def _ssd_scores(logits: Floats, options: Priors) -> tuple[Floats, Ints]:
    """Best score and class of every prior, (priors, cells) each, from logits (priors, classes, cells)."""
    if options.score == "sigmoid":
        return sigmoid(logits.max(1)), logits.argmax(1)
    probability = softmax(logits, 1)
    foreground = probability[:, 1:] if options.background == "first" else probability[:, :-1]
    return foreground.max(1), foreground.argmax(1)
