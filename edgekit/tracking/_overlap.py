"""How much boxes overlap: the similarity that all trackers match by."""

from __future__ import annotations

import numpy as np

from edgekit.images import Floats


def iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union, float32 (n, m), of boxes (n, 4) and (m, 4) xyxy; 0 for empty boxes."""
    wide = _shared(first[:, 0], first[:, 2], second[:, 0], second[:, 2])
    wide *= _shared(first[:, 1], first[:, 3], second[:, 1], second[:, 3])
    total = np.add.outer(_area(first), _area(second))
    total -= wide
    np.maximum(total, np.float32(1e-12), out=total)
    wide /= total
    return wide


def _shared(low: Floats, high: Floats, other_low: Floats, other_high: Floats) -> Floats:
    """Length (n, m) that intervals have in common, at least 0."""
    shared: Floats = np.minimum.outer(high, other_high)
    shared -= np.maximum.outer(low, other_low)
    return np.maximum(shared, np.float32(0), out=shared)


def _area(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area
