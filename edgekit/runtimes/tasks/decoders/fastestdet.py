"""FastestDet: one level of cells."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders.arithmetic import (
    cell_corners,
    check_finite,
    from_centres,
    logit,
    planes,
    sigmoid,
    softmax,
)
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, Positive, decoder


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
