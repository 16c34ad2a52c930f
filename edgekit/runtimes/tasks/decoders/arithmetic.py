"""The arithmetic that decoders share: scores, cells of a grid, and the selection of anchors worth decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame


def logit(probability: float) -> float:
    """The logit of a probability (0 and 1 give infinities), so that thresholds are compared before any sigmoid."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def sigmoid(values: Floats) -> Floats:
    """Logistic function of float32 values, without overflow."""
    result: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * values) + np.float32(1))
    return result


def softmax(values: Floats, axis: int) -> Floats:
    """Softmax along one axis."""
    shifted = np.exp(values - values.max(axis, keepdims=True))
    result: Floats = shifted / shifted.sum(axis, keepdims=True)
    return result


class Survivors(NamedTuple):
    """Cells of one level whose best class passed: flat indices, that class, and its logit."""

    cells: Ints
    class_ids: Ints
    logits: Floats


def survivors(logits: Floats, threshold: float) -> Survivors:
    """Cells whose best class logit is above ``threshold``; nothing else is ever decoded.

    Args:
        logits: (classes, cells).
        threshold: a logit.

    Raises:
        EngineError: a logit is NaN or infinite.
    """
    best = logits.max(0)
    check_finite(best)
    cells = np.flatnonzero(best > threshold)
    return Survivors(cells, logits[:, cells].argmax(0), best[cells])


def check_finite(values: Floats) -> None:
    """Refuse NaN and infinities, which fail every threshold and would be dropped silently.

    Raises:
        EngineError: found one.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: the error says it, a warning need not
        # In float64 only where the float32 sum is not finite: that may be its own overflow.
        finite = math.isfinite(values.sum()) or math.isfinite(values.sum(dtype=np.float64))
    if not finite:
        raise EngineError("the graph gave NaN or infinite outputs; convert in another precision, or verify the bundle")


def grid_of(head: Floats, frame: Frame, stride: float) -> tuple[int, int]:
    """Rows and columns of a head (1, channels, rows, columns).

    A wrong stride would move every box alike in the source and in the bundle: no comparison of the two can see it.

    Raises:
        ValueError: a grid that this stride cannot have on this input.
    """
    rows, columns = head.shape[2:]
    if abs(rows * stride - frame.height) >= stride or abs(columns * stride - frame.width) >= stride:
        raise ValueError(
            f"stride {stride:g} does not give a grid of {rows} x {columns} for an input of "
            f"{frame.height} x {frame.width}"
        )
    return rows, columns


def planes(head: Floats, channels: int, grid: tuple[int, int]) -> Floats:
    """A head (1, channels, rows, columns) as (channels, cells).

    Raises:
        ValueError: another shape; reshaping alone would take NHWC or another level for it.
    """
    wanted = (1, channels, *grid)
    if head.shape != wanted:
        raise ValueError(f"{head.shape} where {wanted} is needed")
    return head.reshape(channels, grid[0] * grid[1])


def cell_corners(cells: Ints, width: int) -> tuple[Floats, Floats]:
    """Column and row of flat cell indices, as float32."""
    return (cells % width).astype(np.float32), (cells // width).astype(np.float32)


def from_centres(x: Floats, y: Floats, width: Floats, height: Floats) -> Floats:
    """Boxes (n, 4) xyxy from centres and sizes."""
    half_width, half_height = width * np.float32(0.5), height * np.float32(0.5)
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1)


def at_anchors(heads: Sequence[Floats], anchors: Ints) -> tuple[Floats, Ints]:
    """Values of one role at places counted over all levels, finest first, row after row.

    Args:
        heads: (1, channels, rows, columns) each.
        anchors: (n,).

    Returns:
        (n, channels), and the level of each (n,).
    """
    ends = np.cumsum([head.shape[2] * head.shape[3] for head in heads])
    levels = np.searchsorted(ends, anchors, side="right")
    values = np.empty((len(anchors), heads[0].shape[1]), np.float32)
    for level in np.unique(levels).tolist():
        chosen = levels == level
        first = ends[level - 1] if level else 0
        head = heads[level]
        values[chosen] = head.reshape(head.shape[1], -1)[:, anchors[chosen] - first].T
    return values, levels


class Places(NamedTuple):
    """The values of a role at some anchors: values (n, channels of one box), level and number in the cell (n,) each,
    and column and row of the cell (n, 2) float32."""

    values: Floats
    levels: Ints
    kinds: Ints
    corners: Floats


def at_places(heads: Sequence[Floats], anchors: Ints, per_cell: Sequence[int]) -> Places:
    """Values of one role at places counted level after level, cell after cell, box after box of a cell.

    Args:
        heads: (1, boxes in a cell x channels, rows, columns) each, finest first.
        anchors: (n,).
        per_cell: boxes in a cell, of each level.

    Raises:
        ValueError: channels that are no multiple of the boxes in a cell.
    """
    for head, count in zip(heads, per_cell, strict=True):
        if head.shape[1] % count:
            raise ValueError(f"{head.shape[1]} channels where a multiple of {count} boxes in a cell is needed")
    sizes = [head.shape[2] * head.shape[3] * count for head, count in zip(heads, per_cell, strict=True)]
    ends = np.cumsum(sizes)
    levels = np.searchsorted(ends, anchors, side="right")
    local = anchors - (ends - sizes)[levels]
    cells, kinds = np.divmod(local, np.array(per_cell)[levels])
    columns = np.array([head.shape[3] for head in heads])[levels]
    values = np.empty((len(anchors), heads[0].shape[1] // per_cell[0]), np.float32)
    for level in np.unique(levels).tolist():
        chosen = levels == level
        rows = heads[level].reshape(per_cell[level], values.shape[1], -1)
        values[chosen] = rows[kinds[chosen], :, cells[chosen]]
    return Places(values, levels, kinds, np.stack([cells % columns, cells // columns], 1).astype(np.float32))


def gather(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of all levels as one."""
    if len(parts) == 1:
        return parts[0]
    return Candidates(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        np.concatenate([part.anchors for part in parts]),
    )


def matrix(head: Floats) -> Floats:
    """The one table in a head (1, rows, columns)."""
    return head.reshape(head.shape[-2:])
