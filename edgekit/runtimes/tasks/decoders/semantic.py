"""Semantic segmentation heads: logits of every class for every cell of a grid."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite, sigmoid, softmax
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, decoder

SMALL = 0.002
"""Share of the cells below which the score of a region falls with its size: a few cells come and go by chance."""


class Semantic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the logits of a cell are read: one class of all (``softmax``), or each channel for itself (``sigmoid``).

    With ``sigmoid`` the first of the classes is the background, which has no channel: a cell belongs to it where no
    channel is above 0.5.
    """

    score: Literal["softmax", "sigmoid"] = "softmax"


def logits_of(heads: Heads, options: Semantic, classes: int) -> Floats:
    """Logits (classes, rows, columns), the background's 0 where it has no channel.

    Raises:
        ValueError: another number of channels.
        EngineError: NaN or infinite values.
    """
    (head,) = heads["logits"]
    channels = classes - (options.score == "sigmoid")
    if head.ndim != 4 or head.shape[:2] != (1, channels):
        raise ValueError(f"{head.shape} where (1, {channels}, rows, columns) is needed")
    logits: Floats = np.asarray(head[0], np.float32)
    check_finite(logits)
    if options.score == "softmax":
        return logits
    return np.concatenate([np.zeros((1, *logits.shape[1:]), np.float32), logits])


def _channels(options: Semantic, classes: int) -> dict[str, int]:
    return {"logits": classes - (options.score == "sigmoid")}


@decoder("semantic", task="semantic", channels=_channels, whole=("logits",))
def semantic(heads: Heads, options: Semantic, frame: Frame, threshold: float) -> Candidates:
    """One candidate for each class that has a cell: all cells of that class are its mask.

    Its score is the mean probability of these cells, less for a region of under `SMALL` of all cells; its box, in input
    pixels, holds them all.
    """
    logits = logits_of(heads, options, frame.classes)
    labels = logits.argmax(0)
    chance = softmax(logits, 0).max(0) if options.score == "softmax" else _certainty(logits)
    ids = np.unique(labels)
    masks = labels[None] == ids[:, None, None]
    counts = masks.sum((1, 2))
    means = np.array([chance[mask].mean() for mask in masks], np.float32)
    scores = (means * np.minimum(1.0, counts / (SMALL * labels.size))).astype(np.float32)
    kept = np.flatnonzero(scores > threshold)
    boxes = np.array([_box(mask) for mask in masks[kept]], np.float32).reshape(-1, 4)
    boxes *= np.array([frame.width / labels.shape[1], frame.height / labels.shape[0]] * 2, np.float32)
    return Candidates(boxes, scores[kept], ids[kept], ids[kept], masks[kept])


def _certainty(logits: Floats) -> Floats:
    """How likely it is that the best channel is right, or that none is, (rows, columns)."""
    best = sigmoid(logits[1:].max(0))
    return np.maximum(best, 1 - best)


def _box(mask: Floats) -> tuple[int, int, int, int]:
    """The box xyxy that holds the cells of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
