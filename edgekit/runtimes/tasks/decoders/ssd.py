"""SSD: boxes as differences from priors."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import ContractError
from edgekit.runtimes.tasks.decoders.arithmetic import (
    cell_corners,
    check_finite,
    from_centres,
    gather,
    grid_of,
    planes,
    sigmoid,
    softmax,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, Positive, decoder


class Priors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SSD anchors: per level a stride and the (width, height) in pixels of each prior at a cell's centre.

    ``variances`` scale the four regressions. ``score`` is how class logits become scores; softmax heads have a
    background class, at ``background``.
    """

    strides: tuple[Positive, ...]
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
