"""The detections of one frame, checked and in an order that does not depend on the one they were given in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgekit.arrays import Floats, Ints
from edgekit.errors import UsageError


@dataclass(slots=True)
class Observed:
    """Detections of one frame, best score first.

    ``rows`` (n,) says where each was in the arrays given; ``embeddings`` are unit vectors (n, d) or None.
    """

    boxes: Floats
    scores: Floats
    class_ids: Ints
    rows: Ints
    embeddings: Floats | None

    def __len__(self) -> int:
        return len(self.scores)


def observed(boxes: ArrayLike, scores: ArrayLike, class_ids: ArrayLike, embeddings: ArrayLike | None) -> Observed:
    """Check the arrays of one frame and bring them into order.

    Raises:
        UsageError: shapes that do not fit, NaN or infinity, a score outside 0..1, or a box whose corners are swapped.
    """
    box = _numbers("boxes", boxes, (4,))
    score = _numbers("scores", scores, ())
    kind = _classes(class_ids)
    if not len(box) == len(score) == len(kind):
        name, count = ("scores", len(score)) if len(score) != len(box) else ("class_ids", len(kind))
        raise UsageError(f"{name} must have one entry for each of the {len(box)} boxes, not {count}")
    _check_finite("boxes", box)
    if np.count_nonzero(box[:, 2:] < box[:, :2]):
        swapped = (box[:, 2:] < box[:, :2]).any(1)
        raise UsageError(f"boxes must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, not {box[swapped][0].tolist()}")
    looks = None if embeddings is None else _looks(embeddings, len(box))
    order, ranked = _order(box, score, kind)
    if len(ranked) and not (ranked[-1] >= 0 and ranked[0] <= 1):  # NaN comes last
        _check_finite("scores", score)
        raise UsageError(f"scores must be in 0..1, not {ranked[-1]:g}..{ranked[0]:g}; apply the sigmoid first")
    return Observed(
        box.take(order, axis=0), ranked, kind[order], order, None if looks is None else looks.take(order, axis=0)
    )


def _numbers(name: str, given: ArrayLike, shape: tuple[int, ...]) -> Floats:
    try:
        found = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must be an array of numbers: {error}") from error
    if found.size == 0 and found.ndim == 1 and shape:
        found = found.reshape(0, max(shape[0], 0))  # an empty list has no second dimension
    if found.ndim != 1 + len(shape) or (shape and shape[0] > 0 and found.shape[1] != shape[0]):
        wanted = ", ".join(["n", *("d" if size < 0 else str(size) for size in shape)])
        raise UsageError(f"{name} must have the shape ({wanted}{'' if shape else ','}), not {found.shape}")
    return found


def _check_finite(name: str, found: Floats) -> None:
    finite = np.isfinite(found)
    if np.count_nonzero(finite) < found.size:
        row = int(np.argwhere(~finite)[0, 0])
        raise UsageError(f"{name} must be finite; row {row} is {found[row].tolist()}")


def _classes(given: ArrayLike) -> Ints:
    found = np.asarray(given)
    if found.ndim != 1 or not (found.size == 0 or found.dtype.kind in "iu"):
        raise UsageError(f"class_ids must be integers of the shape (n,), not {found.dtype} {found.shape}")
    return found.astype(np.int64, copy=False)


def _looks(given: ArrayLike, count: int) -> Floats:
    looks = _numbers("embeddings", given, (-1,))
    if len(looks) != count:
        raise UsageError(f"embeddings must have one row for each of the {count} boxes, not {len(looks)}")
    _check_finite("embeddings", looks)
    return _unit(looks)


def _unit(vectors: Floats) -> Floats:
    """Scaled to length 1; a vector of zeros stays, and is like nothing."""
    length = np.asarray(np.sqrt((vectors * vectors).sum(1, keepdims=True)), np.float32)
    scaled: Floats = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return scaled


def _order(boxes: Floats, scores: Floats, class_ids: Ints) -> tuple[Ints, Floats]:
    """Order and scores, best first; equal ones by place and class: the order they were given in decides nothing."""
    order: Ints = (-scores).argsort(kind="stable")
    ranked = scores[order]
    if np.count_nonzero(ranked[1:] == ranked[:-1]):
        order = np.lexsort((class_ids, *boxes.T, -scores))
    return order.astype(np.int64, copy=False), ranked
