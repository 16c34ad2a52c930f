"""Measure anchors and priors on a network: they turn its raw heads into its own boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats

SPREAD = 1e-3
"""By how much an anchor may differ from cell to cell, relatively, and still be one."""

LOOSE = 2e-3
"""How far a rebuilt box may be off, in sides of the input."""


@dataclass(frozen=True)
class Measured:
    """Priors by level, (width, height) in pixels, the variances, and how boxes are written: options of ``ssd``."""

    priors: list[list[list[float]]]
    variances: list[float]
    sizes: str = "log"
    order: str = "xywh"

    def options(self) -> dict[str, Any]:
        """As a contract file has them; what is usual is left out."""
        usual = {"sizes": "log", "order": "xywh"}
        own = {key: value for key, value in (("sizes", self.sizes), ("order", self.order)) if value != usual[key]}
        return {"priors": self.priors, "variances": self.variances, **own}


def anchors_of(
    heads: Sequence[Floats], output: Floats, strides: Sequence[int], values: int
) -> tuple[list[list[list[float]]], str] | None:
    """Anchors (width, height) in pixels by level, and how sizes are made of them; None where neither way fits.

    Args:
        heads: raw (1, anchors x values, rows, columns) each.
        output: (1, boxes, values), level after level, anchor after anchor: centre, size, objectness, classes.
        strides: of the levels.
        values: of a box.
    """
    anchors, first, ways = [], 0, set()
    for head, stride in zip(heads, strides, strict=True):
        rows, columns = head.shape[2:]
        raw = head.reshape(-1, values, rows * columns).astype(np.float64)
        count = len(raw) * rows * columns
        boxes = output[0, first : first + count, :4].reshape(len(raw), -1, 4).astype(np.float64)
        first += count
        corner = np.stack(np.divmod(np.arange(rows * columns), columns)[::-1], 1)
        share = 1 / (1 + np.exp(-raw[:, :4].transpose(0, 2, 1)))
        logits = raw[:, 2:4].transpose(0, 2, 1)
        made = {
            "squared": ((2 * share[..., :2] - 0.5 + corner) * stride, (2 * share[..., 2:]) ** 2),
            "exponential": ((share[..., :2] + corner) * stride, np.exp(logits)),
        }
        for way, (centres, ratios) in made.items():
            sizes = boxes[..., 2:] / ratios
            mean = np.median(sizes, 1, keepdims=True)
            if (
                np.abs(centres - boxes[..., :2]).max() < SPREAD * stride
                and (np.abs(sizes - mean) < SPREAD * mean).all()
            ):
                anchors.append([[round(float(side), 2) for side in pair] for pair in mean[:, 0]])
                ways.add(way)
                break
        else:
            return None
    return (anchors, ways.pop()) if len(ways) == 1 else None


def priors_of(
    heads: Sequence[Floats], output: Floats, strides: Sequence[float], size: tuple[int, int], counts: Sequence[int]
) -> Measured | None:
    """Priors and variances for which raw heads give these boxes; None where the boxes are raw or of another kind.

    Args:
        heads: raw (1, priors x 4, rows, columns) each.
        output: (1, boxes, 4), level after level, cell after cell, prior after prior.
        strides: of the levels.
        size: (height, width) of the input.
        counts: priors of a cell, by level.
    """
    raw, centres = [], []
    kinds: list[NDArray[np.int64]] = []
    for head, stride, count in zip(heads, strides, counts, strict=True):
        rows, columns = head.shape[2:]
        raw.append(head.reshape(count, 4, -1).transpose(2, 0, 1).reshape(-1, 4))
        corner = np.stack(np.divmod(np.arange(rows * columns), columns)[::-1], 1) + 0.5
        centres.append(np.repeat(corner * stride, count, 0))
        kinds.append(np.tile(np.arange(count), rows * columns) + (kinds[-1].max() + 1 if kinds else 0))
    values, places = np.concatenate(raw).astype(np.float64), np.concatenate(centres)
    kind, scale = np.concatenate(kinds), np.array([size[1], size[0]] * 2, np.float64)
    for boxes in _written(output[0].astype(np.float64), scale):
        for order, shift in (("xywh", values), ("yxhw", values[:, [1, 0, 3, 2]])):
            found = _solved(shift, boxes, places, kind, float(max(size)))
            if found is not None:
                sides, variances = found
                ends = np.cumsum([0, *counts])
                priors = [sides[start:end].round(3).tolist() for start, end in pairwise(ends.tolist())]
                return Measured(priors, variances.round(4).tolist(), order=order)
    return None


def _written(table: Any, scale: Any) -> list[Any]:
    """A table of boxes as centres and sizes in pixels, in each way that it may be written."""
    ways = []
    for pixels in (table, table * scale):
        for corners in (pixels, pixels[:, [1, 0, 3, 2]]):
            ways.append(np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1))
        ways.append(pixels)
    return [way for way in ways if (way[:, 2:] > 0).all()]


def _solved(shift: Any, boxes: Any, places: Any, kind: Any, side: float) -> tuple[Any, Any] | None:
    """Sides (priors, 2) and variances (4,) by which every box is its prior's, or None."""
    count = int(kind.max()) + 1
    variances = np.zeros(4)
    sides = np.zeros((count, 2))
    for axis in range(2):
        logs, slopes = np.log(boxes[:, 2 + axis]), []
        for number in range(count):
            mine = kind == number
            away = shift[mine, 2 + axis] - shift[mine, 2 + axis].mean()
            slopes.append(((away * (logs[mine] - logs[mine].mean())).sum(), (away**2).sum()))
        variances[2 + axis] = sum(top for top, _ in slopes) / max(sum(low for _, low in slopes), 1e-12)
        rest = logs - variances[2 + axis] * shift[:, 2 + axis]
        sides[:, axis] = np.exp([np.median(rest[kind == number]) for number in range(count)])
        unit = shift[:, axis] * sides[kind, axis]
        variances[axis] = (unit * (boxes[:, axis] - places[:, axis])).sum() / max(float((unit**2).sum()), 1e-12)
    made = np.concatenate(
        [places + shift[:, :2] * variances[:2] * sides[kind], np.exp(shift[:, 2:] * variances[2:]) * sides[kind]], 1
    )
    fits = np.abs(made - boxes).max() < LOOSE * side and (variances > 1e-3).all()
    return (sides, variances) if fits else None
